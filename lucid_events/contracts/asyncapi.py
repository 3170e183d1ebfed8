"""The AsyncAPI 3.0 document: what a client of any language sends and receives, on which subjects.

Written from the client's side: `send` is what it publishes, `receive` what it subscribes to. Bodies
refer to the schemas beside the document; envelopes are described here.
"""

from lucid_events import codec
from lucid_events.contracts.schemas import DIALECT, Document, command_path, event_path
from lucid_events.domain.commands import COMMANDS, SessionCommand
from lucid_events.domain.events import EVENT_TYPES, SessionEvent
from lucid_events.domain.ids import DIGEST, SESSION_ID
from lucid_events.subjects import Subjects

VERSION = "1.0.0"
"""Of the wire: the first number goes up when a landed version is no longer accepted."""
_FORMAT = f"application/schema+json;version={DIALECT.split('/')[4]}"

_S, _VERB = "SESSION", "VERB"  # stand for parameters while subjects are built
_PARAMETERS = {
    "session": {"description": f"Session id, matches {SESSION_ID.pattern}."},
    "command": {"description": "Command id: the `ce-id` the command was sent with."},
    "epoch": {"description": "The attachment of the recorder: 1, 2, 3, …"},
    "n": {"description": "The chunk within the epoch, from 0."},
}


def asyncapi_document() -> Document:
    """Return the whole document."""
    channels, operations, messages = _Parts(), _Parts(), _Parts()
    _commands(channels, operations, messages)
    _outcomes(channels, operations, messages)
    _events(channels, operations, messages)
    _recorder(channels, operations, messages)
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "lucid_events",
            "version": VERSION,
            "description": "Session recording over NATS JetStream, from a client's side. "
            "The prefix `lucid` is a setting. Subjects of the history are in the stream LUCID_EVENTS.",
        },
        "defaultContentType": "application/json",
        "servers": {"local": {"host": "127.0.0.1:4222", "protocol": "nats"}},
        "channels": channels,
        "operations": operations,
        "components": {
            "messages": messages,
            "schemas": {"eventHeaders": _event_headers(), "commandHeaders": _command_headers()},
        },
    }


_Parts = dict[str, Document]


def _commands(channels: _Parts, operations: _Parts, messages: _Parts) -> None:
    subjects = Subjects()
    messages["accepted"] = _message("accepted", "The command took effect.", "replies/accepted.json")
    messages["failure"] = _message("failure", "The command was not taken.", "replies/failure.json")
    channels["reply"] = {
        "address": None,
        "description": "The inbox a request names; a failure also has the headers of NATS services.",
        "messages": _refs("accepted", "failure"),
    }
    for verb, kind in sorted(COMMANDS.items()):
        name = f"command.{verb}"
        messages[name] = _message(kind.type, _first_line(kind), command_path(kind), headers="commandHeaders")
        channels[name] = _channel(
            subjects.command(_S, verb), "Answered at once with its outcome (core NATS request).", name
        )
        channels[f"queued.{name}"] = _channel(
            subjects.queued_command(_S, verb),
            "Stored in LUCID_COMMANDS; the publish acknowledgement means that it will be handled. "
            "Needs a `ce-id` to find its outcome by.",
            name,
        )
        operations[f"send.{name}"] = _operation("send", name, name) | {
            "reply": {
                "channel": {"$ref": "#/channels/reply"},
                "messages": [
                    {"$ref": "#/channels/reply/messages/accepted"},
                    {"$ref": "#/channels/reply/messages/failure"},
                ],
            }
        }
        operations[f"enqueue.{name}"] = _operation("send", f"queued.{name}", name)


def _outcomes(channels: _Parts, operations: _Parts, messages: _Parts) -> None:
    address = Subjects().outcome(_S, "COMMAND").replace("COMMAND", "{command}")
    channels["outcome"] = _channel(
        address, "Outcome of a durable command, kept in LUCID_OUTCOMES for 24 h.", "accepted", "failure"
    )
    operations["receive.outcome"] = _operation("receive", "outcome", "accepted", "failure")


def _events(channels: _Parts, operations: _Parts, messages: _Parts) -> None:
    subjects = Subjects()
    for wire, kind in EVENT_TYPES.items():
        name = wire.rsplit(".", 1)[0]
        messages[name] = _message(wire, _first_line(kind), event_path(wire), headers="eventHeaders")
        stored = subjects.event(_S, wire)
        channels[f"history.{name}"] = _channel(
            stored, "Stored in LUCID_EVENTS: read it by a durable consumer; a plain subscription sees "
            "attempts that are then refused.", name,
        )  # fmt: skip
        channels[f"live.{name}"] = _channel(
            subjects.live(stored),
            "Republished after it is stored, with Nats-Sequence; may be missed by who is not there.",
            name,
        )
        operations[f"receive.history.{name}"] = _operation("receive", f"history.{name}", name)
        operations[f"receive.live.{name}"] = _operation("receive", f"live.{name}", name)


def _recorder(channels: _Parts, operations: _Parts, messages: _Parts) -> None:
    subjects = Subjects()
    messages["beat"] = _message("recorder.beat", "A recorder is alive.", "beats/beat.json")
    messages["beat-reply"] = _message("reply.beat", "What it should know.", "replies/beat.json")
    channels["beat"] = _channel(subjects.beat(_S, 1).replace(".1", ".{epoch}"), "Every 5 s.", "beat")
    channels["beat-reply"] = {
        "address": None,
        "description": "The inbox a beat names.",
        "messages": _refs("beat-reply", "failure"),
    }
    operations["send.beat"] = _operation("send", "beat", "beat") | {
        "reply": {
            "channel": {"$ref": "#/channels/beat-reply"},
            "messages": [
                {"$ref": "#/channels/beat-reply/messages/beat-reply"},
                {"$ref": "#/channels/beat-reply/messages/failure"},
            ],
        }
    }
    fields = {
        "Lucid-Offset": {"type": "string", "pattern": "^[0-9]+$", "description": "Where it begins."},
        "Lucid-Length": {"type": "string", "pattern": "^[0-9]+$", "description": "Bytes of the body."},
        "Lucid-Sha256": {
            "type": "string",
            "pattern": f"^{DIGEST.pattern}$",
            "description": "SHA-256 of the chunk up to the end of this piece.",
        },
    }
    messages["capture"] = {
        "name": "capture",
        "title": "Raw bytes of a chunk, not yet sealed.",
        "contentType": "application/octet-stream",
        "headers": _schema(_headers(fields, required=list(fields))),
        "payload": _schema({"type": "string", "contentEncoding": "binary"}),
    }
    address = subjects.capture(_S, 1, 0).replace(".1.0", ".{epoch}.{n}")
    channels["capture"] = _channel(
        address,
        "Stored in LUCID_CAPTURE; each publish also expects sequence 0 on a fence of its epoch.",
        "capture",
    )
    operations["send.capture"] = _operation("send", "capture", "capture")


def _channel(subject: str, description: str, *messages: str) -> Document:
    address = subject.replace(_S, "{session}")
    parameters = {name: text for name, text in _PARAMETERS.items() if f"{{{name}}}" in address}
    return {
        "address": address,
        "description": description,
        "parameters": parameters,
        "messages": _refs(*messages),
    }


def _operation(action: str, channel: str, *messages: str) -> Document:
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{channel}"},
        "messages": [{"$ref": f"#/channels/{channel}/messages/{name}"} for name in messages],
    }


def _refs(*messages: str) -> Document:
    return {name: {"$ref": f"#/components/messages/{name}"} for name in messages}


def _message(name: str, title: str, path: str, *, headers: str = "") -> Document:
    message: Document = {
        "name": name,
        "title": title,
        "contentType": "application/json",
        "payload": _schema({"$ref": f"./{path}"}),
    }
    if headers:
        message["headers"] = {"$ref": f"#/components/schemas/{headers}"}
    return message


def _schema(schema: Document) -> Document:
    return {"schemaFormat": _FORMAT, "schema": schema}


def _event_headers() -> Document:
    text = {"type": "string"}
    digest = {"type": "string", "pattern": f"^({DIGEST.pattern})?$"}
    fields: Document = {
        codec.MSG_ID: text | {"description": "The same as ce-id."},
        "ce-specversion": {"const": "1.0"},
        codec.ID: text | {"description": "Derived from session, cause and index: a retry is the same event."},
        codec.TYPE: {"enum": sorted(EVENT_TYPES)},
        "ce-source": {"const": codec.SOURCE},
        "ce-subject": {"type": "string", "pattern": f"^{SESSION_ID.pattern}$", "description": "Session id."},
        codec.TIME: text | {"format": "date-time", "description": "The writer's clock, UTC."},
        codec.TRACE: text | {"description": "W3C trace context; not part of the chain."},
        codec.CAUSE: text | {"description": "Id of the command or event that brought it about."},
        codec.CORRELATION: text | {"description": "Id the chain of work started with."},
        codec.ACTOR: text | {"description": "Who asked, percent-encoded outside printable ASCII."},
        codec.PREV: digest | {"description": "Digest of the event before it; empty for the first."},
    }
    optional = {codec.TRACE}
    return _schema(_headers(fields, required=[name for name in fields if name not in optional]))


def _command_headers() -> Document:
    text = {"type": "string"}
    fields: Document = {
        codec.ID: {
            "type": "string",
            "pattern": f"^{SESSION_ID.pattern}$",
            "description": "Command id: a repeat under the same id has the first one's outcome.",
        },
        codec.TIME: text | {"format": "date-time", "description": "When it was made; RFC 3339."},
        codec.ACTOR: text | {"description": "Who asks; stored as unverified unless proven."},
        codec.CORRELATION: text | {"description": "Id the chain of work started with."},
        codec.TRACE: text | {"description": "W3C trace context."},
        codec.IF_VERSION: text
        | {"pattern": "^[0-9]{1,19}$", "description": "Takes effect only at this version of the history."},
    }
    return _schema(_headers(fields, required=[]))


def _headers(fields: Document, *, required: list[str]) -> Document:
    return {"$schema": DIALECT, "type": "object", "properties": fields, "required": required}


def _first_line(kind: type[SessionCommand] | type[SessionEvent]) -> str:
    return (kind.__doc__ or "").strip().splitlines()[0]
