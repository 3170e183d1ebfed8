"""The documents in `schemas/`: they are what the code speaks, and what has landed stays."""

import copy
import hashlib
import json
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest

from lucid_events import codec
from lucid_events.contracts.asyncapi import asyncapi_document
from lucid_events.contracts.compatibility import breaks
from lucid_events.contracts.landing import ASYNCAPI, altered, land, samples, text
from lucid_events.contracts.samples import COMMANDS as COMMAND_SAMPLES
from lucid_events.contracts.samples import EVENTS as EVENT_SAMPLES
from lucid_events.contracts.samples import sample_documents
from lucid_events.contracts.schemas import DIALECT, plain, schema, schema_documents
from lucid_events.domain import events as ev
from lucid_events.domain.commands import COMMANDS
from lucid_events.domain.events import EVENT_TYPES
from lucid_events.domain.ids import Digest
from lucid_events.domain.upcast import UPCASTERS
from lucid_events.domain.values import Fact, Span
from lucid_events.errors import ContractError
from lucid_events.evidence import chain

ROOT = Path(__file__).parents[2] / "schemas"
GENERATE = "run: python -m lucid_events.contracts schemas"
SAMPLES = samples(ROOT)


def read(path: str) -> dict[str, Any]:
    """A document as it stands on disk."""
    found: dict[str, Any] = json.loads((ROOT / path).read_text(encoding="utf-8"))
    return found


def bodies(kind: str) -> list[str]:
    """Samples of events or of commands."""
    return [path for path in SAMPLES if ("digest" in read(path)) is (kind == "event")]


def wire_name(path: str) -> str:
    """The wire name a sample is of."""
    return ".".join(Path(path).name.split(".")[:3])


def landed_schema(path: str) -> dict[str, Any]:
    """The schema a sample must fit."""
    wire = wire_name(path)
    verb = {kind.type: verb for verb, kind in COMMANDS.items()}
    version = wire.rsplit(".", 1)[1]
    return read(f"commands/{verb[wire]}.{version}.json" if wire in verb else f"events/{wire}.json")


@pytest.mark.parametrize("path", [*schema_documents(), ASYNCAPI])
def test_what_is_on_disk_is_what_is_generated(path: str) -> None:
    """No document differs from the structs by a byte."""
    document = asyncapi_document() if path == ASYNCAPI else schema_documents()[path]
    assert (ROOT / path).read_text(encoding="utf-8") == text(document), GENERATE


def test_no_document_is_of_nothing() -> None:
    """Every schema on disk is of something current, or of a retired event that an upcaster knows."""
    found = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("*/*.json")} - set(SAMPLES)
    retired = {f"events/{wire}.json" for wire in UPCASTERS}
    assert found == set(schema_documents()) | retired


@pytest.mark.parametrize("path", list(schema_documents()))
def test_schemas_are_valid(path: str) -> None:
    """Every schema is one of JSON Schema 2020-12 that says what it is about."""
    document = read(path)
    assert document["$schema"] == DIALECT
    assert document["description"]
    jsonschema.Draft202012Validator.check_schema(document)


# samples


def test_every_version_has_its_sample() -> None:
    """Every current event and command has a landed sample that equals the generated one."""
    on_disk = [read(path) for path in SAMPLES]
    generated = sample_documents()
    assert set(generated) == {*EVENT_TYPES, *(kind.type for kind in COMMANDS.values())}
    assert [wire for wire, document in generated.items() if document not in on_disk] == [], GENERATE


@pytest.mark.parametrize("sample", [*EVENT_SAMPLES, *COMMAND_SAMPLES], ids=lambda one: one.type)
def test_a_sample_leaves_nothing_out(sample: msgspec.Struct) -> None:
    """No field of a sample has its default: a field nobody set could be renamed unnoticed."""
    for field in msgspec.structs.fields(sample):
        value = getattr(sample, field.name)
        if isinstance(value, msgspec.Struct):
            test_a_sample_leaves_nothing_out(value)
        default = None if field.default is msgspec.NODEFAULT else field.default
        if field.default_factory is not msgspec.NODEFAULT:
            default = field.default_factory()
        assert value != default, f"{type(sample).__name__}.{field.name} has its default"


def test_landed_samples_stand() -> None:
    """Not one byte of a landed sample changes, and none is taken away."""
    assert altered(ROOT) == [], "restore them: what has been stored once decodes for ever"


@pytest.mark.parametrize("path", SAMPLES)
def test_samples_fit_their_schemas(path: str) -> None:
    """Each sample fits its JSON Schema, as any client would check it."""
    validator = jsonschema.Draft202012Validator(
        landed_schema(path), format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
    )
    validator.validate(read(path)["body"])


@pytest.mark.parametrize("path", bodies("event"))
def test_event_samples_decode_for_ever(path: str) -> None:
    """A landed event decodes, and nothing of it is lost when it is encoded again."""
    document = read(path)
    body = json.dumps(document["body"]).encode()
    recorded = codec.decode_event(
        document["headers"],
        body,
        sequence=1,
        stored_at=codec.parse_timestamp(document["headers"][codec.TIME]),
        digest=Digest(document["digest"]),
    )
    assert codec.missing_header(document["headers"]) is None
    if recorded.type == recorded.event.type:
        assert covers(plain(recorded.event), document["body"])
    else:
        assert recorded.type in UPCASTERS


@pytest.mark.parametrize("path", bodies("event"))
def test_the_digest_of_a_landed_event_stands(path: str) -> None:
    """The digest of an event's stored bytes is computed as it was when it landed."""
    document = read(path)
    body = msgspec.json.encode(document["body"])
    assert chain.digest(document["subject"], document["headers"], body) == document["digest"]


@pytest.mark.parametrize("path", bodies("command"))
def test_command_samples_are_accepted_for_ever(path: str) -> None:
    """A command of a landed version is still understood, every field of it."""
    document = read(path)
    verb = document["subject"].rsplit(".", 1)[1]
    command = codec.decode_command(verb, json.dumps(document["body"]).encode())
    assert covers(plain(command), document["body"])


def covers(now: Any, landed: Any) -> bool:
    """Whether `now` says everything that `landed` said."""
    if isinstance(landed, dict) and isinstance(now, dict):
        return all(key in now and covers(now[key], value) for key, value in landed.items())
    return bool(now == landed)


# compatibility


class Before(Fact, frozen=True, kw_only=True):
    """A struct as it landed."""

    name: str
    size: int = 0
    span: Span | None = None


class Grown(Fact, frozen=True, kw_only=True):
    """The same with one more optional field, and another description."""

    name: str
    size: int = 0
    span: Span | None = None
    colour: str = "red"


class Renamed(Fact, frozen=True, kw_only=True):
    """A field has another name."""

    title: str
    size: int = 0
    span: Span | None = None


class Retyped(Fact, frozen=True, kw_only=True):
    """A field has another type."""

    name: str
    size: float = 0
    span: Span | None = None


class Demanding(Fact, frozen=True, kw_only=True):
    """A new field is required."""

    name: str
    size: int = 0
    span: Span | None = None
    colour: str


class Closed(Fact, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Unknown fields are refused from now on."""

    name: str
    size: int = 0
    span: Span | None = None


class Defaulted(Fact, frozen=True, kw_only=True):
    """What is absent means something else."""

    name: str
    size: int = 1
    span: Span | None = None


@pytest.mark.parametrize(
    ("now", "why"),
    [
        (Before, []),
        (Grown, []),
        (Renamed, ["name is gone", "name is no longer always there", "title is newly required"]),
        (Retyped, ["size.type was 'integer' and is 'number'"]),
        (Demanding, ["colour is newly required"]),
        (Closed, ["additionalProperties was None and is False"]),
        (Defaulted, ["size.default was 0 and is 1"]),
    ],
)
def test_only_optional_fields_may_be_added(now: type, why: list[str]) -> None:
    """A version may gain optional fields; every other change is named."""
    assert breaks(schema(Before, "x"), schema(now, "x")) == why


def test_a_change_deep_inside_is_found() -> None:
    """A struct within a struct is compared too, in lists and unions as well."""
    landed = schema(ev.SessionStopped, "x")
    now = copy.deepcopy(landed)
    del now["$defs"]["Span"]["properties"]["end"]
    now["$defs"]["CodecTotals"]["properties"]["chunks"]["type"] = "string"
    assert sorted(breaks(landed, now)) == [
        "manifest.codecs.additionalProperties.chunks.type was 'integer' and is 'string'",
        "manifest.gaps.items.end is gone",
    ]


def test_an_incompatible_schema_does_not_land(tmp_path: Path) -> None:
    """Generating anew refuses to replace a landed schema by an incompatible one, and writes nothing."""
    land(tmp_path)
    path = tmp_path / "events" / "chunk.ready.v1.json"
    landed = json.loads(path.read_text(encoding="utf-8"))
    landed["properties"]["colour"] = {"type": "string"}
    landed["required"].append("colour")
    path.write_text(text(landed), encoding="utf-8")
    (tmp_path / ASYNCAPI).unlink()
    with pytest.raises(ContractError, match=r"chunk\.ready\.v1\.json: colour is gone"):
        land(tmp_path)
    assert not (tmp_path / ASYNCAPI).exists()


def test_landed_samples_are_not_written_again(tmp_path: Path) -> None:
    """A sample that differs from the generated one stays; the new one lands beside it."""
    assert "samples/chunk.failed.v1.json" in land(tmp_path)
    assert land(tmp_path) == []
    old = tmp_path / "samples" / "chunk.failed.v1.json"
    document = json.loads(old.read_text(encoding="utf-8"))
    del document["body"]["reason"]
    old.write_text(text(document), encoding="utf-8")
    assert altered(tmp_path) == ["samples/chunk.failed.v1.json"]
    before = hashlib.sha256(old.read_bytes()).hexdigest()
    assert land(tmp_path) == ["samples/chunk.failed.v1.2.json"]
    assert hashlib.sha256(old.read_bytes()).hexdigest() == before
    assert altered(tmp_path) == ["samples/chunk.failed.v1.json"]
    old.unlink()
    assert altered(tmp_path) == ["samples/chunk.failed.v1.json"]


# AsyncAPI


def references(value: Any) -> list[str]:
    """Every reference below `value`."""
    if isinstance(value, list):
        return [found for item in value for found in references(item)]
    if not isinstance(value, dict):
        return []
    here = [value["$ref"]] if "$ref" in value else []
    return here + [found for item in value.values() for found in references(item)]


def resolve(reference: str) -> Any:
    """What a reference of the AsyncAPI document refers to."""
    file, _, pointer = reference.partition("#")
    found: Any = read(file) if file else read(ASYNCAPI)
    for token in pointer.split("/")[1:]:
        found = found[token]
    return found


def test_asyncapi_references_resolve() -> None:
    """Every reference, to a file or within the document, refers to something."""
    found = set(references(read(ASYNCAPI)))
    assert len(found) > 100
    for reference in found:
        assert resolve(reference)


def test_asyncapi_is_of_the_shape_of_version_3() -> None:
    """Operations act on messages of their own channel; parameters are those of the address."""
    document = read(ASYNCAPI)
    assert document["asyncapi"] == "3.0.0"
    assert {"title", "version"} <= set(document["info"])
    for name, channel in document["channels"].items():
        address = channel["address"] or ""
        named = {token[1:-1] for token in address.split(".") if token.startswith("{")}
        assert named == set(channel.get("parameters", {})), name
        assert channel["messages"], name
    for name, operation in document["operations"].items():
        assert operation["action"] in ("send", "receive"), name
        channel = operation["channel"]["$ref"]
        assert all(m["$ref"].startswith(f"{channel}/messages/") for m in operation["messages"]), name
        reply = operation.get("reply")
        if reply:
            target = reply["channel"]["$ref"]
            assert all(m["$ref"].startswith(f"{target}/messages/") for m in reply["messages"]), name


def test_asyncapi_describes_everything_that_is_sent() -> None:
    """Every command can be sent and queued, every event received live and from the history."""
    operations = set(read(ASYNCAPI)["operations"])
    for verb in COMMANDS:
        assert {f"send.command.{verb}", f"enqueue.command.{verb}"} <= operations
    for wire in EVENT_TYPES:
        name = wire.rsplit(".", 1)[0]
        assert {f"receive.live.{name}", f"receive.history.{name}"} <= operations
    assert {"receive.outcome", "send.beat", "send.capture"} <= operations


@pytest.mark.parametrize("path", SAMPLES)
def test_samples_fit_the_headers_described(path: str) -> None:
    """The headers of every sample fit what the AsyncAPI document says of them."""
    document = read(path)
    described = "eventHeaders" if "digest" in document else "commandHeaders"
    headers = read(ASYNCAPI)["components"]["schemas"][described]["schema"]
    if wire_name(path) in UPCASTERS:
        headers = headers | {"properties": headers["properties"] | {codec.TYPE: {"type": "string"}}}
    jsonschema.Draft202012Validator(headers).validate(document["headers"])
    addresses = {
        channel["address"].replace("{session}", "s1")
        for channel in read(ASYNCAPI)["channels"].values()
        if channel["address"]
    }
    assert document["subject"] in addresses
