"""One JSON Schema (2020-12) per event, command and reply version, generated from the struct.

A schema describes the body alone; the envelope is in headers, which `asyncapi.py` describes.
"""

import inspect
from typing import Any

import msgspec

from lucid_events.domain.commands import COMMANDS, SessionCommand
from lucid_events.domain.events import EVENT_TYPES
from lucid_events.domain.replies import Accepted, Beat, BeatReply, Failure

DIALECT = "https://json-schema.org/draft/2020-12/schema"

Document = dict[str, Any]
"""JSON, as plain data."""

REPLIES: dict[str, type] = {"accepted": Accepted, "failure": Failure, "beat": BeatReply}
"""Replies by the name of their schema; they have no version of their own, their fields only grow."""
BEATS: dict[str, type] = {"beat": Beat}
"""What a recorder says of itself."""


def event_path(wire: str) -> str:
    """Return the path of an event's schema below `schemas/`."""
    return f"events/{wire}.json"


def command_path(kind: type[SessionCommand]) -> str:
    """Return the path of a command's schema below `schemas/`."""
    return f"commands/{kind.verb}.{kind.type.rsplit('.', 1)[1]}.json"


def schema_documents() -> dict[str, Document]:
    """Return every schema by its path below `schemas/`."""
    documents = {event_path(wire): schema(kind, wire) for wire, kind in EVENT_TYPES.items()}
    documents |= {command_path(kind): schema(kind, kind.type) for kind in COMMANDS.values()}
    documents |= {f"replies/{name}.json": schema(kind, f"reply.{name}") for name, kind in REPLIES.items()}
    documents |= {f"beats/{name}.json": schema(kind, f"recorder.{name}") for name, kind in BEATS.items()}
    return documents


def schema(kind: type, title: str) -> Document:
    """Return the schema of one struct, complete in itself."""
    generated = plain(msgspec.json.schema(kind))
    definitions = generated["$defs"]
    body = definitions.pop(generated["$ref"].rsplit("/", 1)[1])
    whole: Document = {"$schema": DIALECT, **body, "title": title}
    if definitions:
        whole["$defs"] = dict(sorted(definitions.items()))
    return _dedented(whole)  # type: ignore[no-any-return] # a dict in, a dict out


def plain(value: object) -> Document:
    """Return `value` as it would be read back from JSON: structs as objects, tuples as arrays."""
    document: Document = msgspec.json.decode(msgspec.json.encode(value))
    return document


def _dedented(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: inspect.cleandoc(item) if key == "description" and isinstance(item, str) else _dedented(item)
            for key, item in value.items()
        }
    return [_dedented(item) for item in value] if isinstance(value, list) else value
