"""What OpenAPI says beyond the signatures: errors with their body, and bodies that are bytes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from litestar import MediaType
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import (
    OpenAPI,
    OpenAPIFormat,
    OpenAPIHeader,
    OpenAPIMediaType,
    OpenAPIResponse,
    OpenAPIType,
    Operation,
    Reference,
    RequestBody,
    Schema,
)

from lucid_events.gateway.errors import ErrorAnswer

OCTETS = "application/octet-stream"

_WHY = {
    304: "The client has these bytes.",
    400: "The client went away in the middle of the body.",
    401: "Nobody is authenticated.",
    403: "Whoever is authenticated may not.",
    404: "There is no such session or chunk.",
    408: "The body stood still for too long; what was read is part of the recording.",
    409: "The session's state does not allow it, or somebody else records it: `Lucid-Reason` says which.",
    412: "The session is not at the version of `If-Match`.",
    413: "The body is too large.",
    415: "The body is of a type that is not taken here.",
    416: "The range begins behind the end.",
    422: "The request does not fit.",
    429: "Too many sessions are open.",
    500: "Stored bytes are not those the history names, or the service or its server is not set up right.",
    503: "The store can't be reached, or the service is about to end; try again.",
}
_EVERYWHERE = (401, 403, 422, 500, 503)
_HEADERS: Mapping[str, OpenAPIHeader] = {
    name: OpenAPIHeader(schema=Schema(type=OpenAPIType.STRING), description=what, required=required)
    for name, what, required in (
        ("Lucid-Reason", "`details.reason`, for answers without a body.", True),
        ("Lucid-State", "`details.state`: the session's.", False),
        ("Lucid-Allowed", "`details.allowed`, comma-separated.", False),
        ("Lucid-Recorder", "`details.recorder`: where the bytes have to go.", False),
    )
}


def failures(*statuses: int) -> Mapping[int, ResponseSpec]:
    """Return the answers a route may give besides its own: `statuses`, and those that any route may."""
    return {
        status: ResponseSpec(ErrorAnswer, description=_WHY[status], generate_examples=False)
        for status in sorted({*statuses, *_EVERYWHERE})
    }


def describe_failures(document: OpenAPI) -> None:
    """Add to every answer with an error's body in `document` the headers that say the same without one."""
    for path in (document.paths or {}).values():
        for verb in ("get", "head", "post", "delete"):
            operation: Operation | None = getattr(path, verb)
            for answer in (operation.responses or {}).values() if operation else ():
                if isinstance(answer, OpenAPIResponse) and _is_error(answer):
                    answer.headers = {**(answer.headers or {}), **_HEADERS}


def _is_error(answer: OpenAPIResponse) -> bool:
    schemas = [one.schema for one in (answer.content or {}).values()]
    return any(isinstance(schema, Reference) and schema.ref.endswith("ErrorAnswer") for schema in schemas)


def also(data: object, description: str, media_type: str = MediaType.JSON) -> ResponseSpec:
    """Return a further answer that is no failure."""
    return ResponseSpec(data, description=description, media_type=media_type, generate_examples=False)  # type: ignore[arg-type]  # any type is a container here


def octets(what: str) -> Mapping[int, ResponseSpec]:
    """Return the answers of a route that gives bytes by `Range` and `If-None-Match`."""
    return {
        200: also(bytes, what, OCTETS),
        206: also(bytes, "The range.", OCTETS),
        304: also(None, "The client has it."),
    }


def _schema_of(kind: type[msgspec.Struct]) -> Schema:
    """Return the JSON Schema of a struct in line: the operation is described outside the framework."""
    schema, parts = msgspec.json.schema_components([kind], ref_template="{name}")
    return JsonSchema(_inlined(schema[0], parts))


def _inlined(schema: Any, parts: Mapping[str, Any]) -> Any:
    if isinstance(schema, dict):
        if "$ref" in schema:
            return _inlined(parts[schema["$ref"]], parts)
        return {name: _inlined(value, parts) for name, value in schema.items()}
    return [_inlined(one, parts) for one in schema] if isinstance(schema, list) else schema


class JsonSchema(Schema):
    """A schema that is JSON already."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        super().__init__()
        self._schema = dict(schema)

    def to_schema(self) -> dict[str, Any]:
        """Return it as it is."""
        return self._schema


def _binary() -> OpenAPIMediaType:
    return OpenAPIMediaType(schema=Schema(type=OpenAPIType.STRING, format=OpenAPIFormat.BINARY))


class CommandBody:
    """Makes operations whose JSON body is read by the route itself, against a limit of its own."""

    @staticmethod
    def of(kind: type[msgspec.Struct] | None = None, *, required: bool = False) -> type[Operation]:
        """Return the operation that takes a `kind`, or no body."""

        @dataclass
        class Described(Operation):
            def __post_init__(self) -> None:
                if kind is not None:
                    self.request_body = RequestBody(
                        required=required,
                        content={MediaType.JSON: OpenAPIMediaType(schema=_schema_of(kind))},
                    )

        return Described


@dataclass
class PushedBytes(Operation):
    """An operation whose body is bytes, or the same in base64 in JSON."""

    def __post_init__(self) -> None:
        """Describe the body."""
        envelope = Schema(
            type=OpenAPIType.OBJECT,
            required=["chunk_data"],
            properties={
                "chunk_data": Schema(
                    type=OpenAPIType.STRING, content_encoding="base64", description="The bytes, base64."
                ),
                "chunk_metadata": Schema(type=OpenAPIType.OBJECT, description="Checked, not kept."),
            },
            additional_properties=False,
        )
        self.request_body = RequestBody(
            description="The recording's bytes as they are; or, from older clients, base64 in JSON.",
            required=False,
            content={OCTETS: _binary(), "application/json": OpenAPIMediaType(schema=envelope)},
        )
