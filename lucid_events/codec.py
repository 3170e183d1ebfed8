"""Bytes and headers on the wire <-> structs. The only module that sees untyped data.

Body: the payload alone, JSON. Envelope: headers, CloudEvents names in binary mode
(https://github.com/cloudevents/spec, NATS protocol binding), plus our own:

    Nats-Msg-Id        = ce-id
    ce-specversion     1.0
    ce-id              derived id of the event
    ce-type            chunk.ready.v1
    ce-source          lucid_events
    ce-subject         session id
    ce-time            RFC 3339, UTC, microseconds: the writer's clock
    traceparent        W3C trace context, when there is one (not part of the chain)
    Lucid-Causation    id of the command or event that brought it about
    Lucid-Correlation  id the chain of work started with
    Lucid-Actor        who asked
    Lucid-Prev         digest of the event before it in its history; empty for the first
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, TypeVar
from urllib.parse import quote

import msgspec

from lucid_events.domain.commands import COMMANDS, SessionCommand
from lucid_events.domain.envelope import NewEvent, Recorded
from lucid_events.domain.events import EVENT_TYPES, SessionEvent
from lucid_events.domain.ids import Digest, EventId, Sequence, session_id
from lucid_events.domain.upcast import UPCASTERS
from lucid_events.errors import ContractError

T = TypeVar("T")

SOURCE = "lucid_events"
MSG_ID = "Nats-Msg-Id"
ID, TYPE, TIME = "ce-id", "ce-type", "ce-time"
CAUSE, CORRELATION, ACTOR, PREV = "Lucid-Causation", "Lucid-Correlation", "Lucid-Actor", "Lucid-Prev"
TRACE = "traceparent"
IF_VERSION = "Lucid-If-Version"
"""Header of a command that is to take effect only while the history is at this version."""

MAX_BODY_BYTES = 256 * 1024
"""Largest body of a command or event. A manifest with a thousand gaps is 60 KiB; half would
come close to that, twice would let one client fill the log sooner."""

_encode = msgspec.json.Encoder().encode
_headers_needed = ("ce-specversion", ID, TYPE, "ce-subject", TIME, CAUSE, PREV)
_excess = re.compile(r"(\.\d{6})\d+")
_headers_set = frozenset(_headers_needed)
_field = re.compile(r"(?:at `\$\.?([^`]*)`)|(?:unknown field `([^`]*)`)|(?:required field `([^`]*)`)")


def encode(value: object) -> bytes:
    """Return `value` (a struct, or plain data) as JSON."""
    return _encode(value)


_session_id = lru_cache(4096)(session_id)
"""The events of one session come in crowds: its id is judged once, as long as few others come between."""
_decoders: dict[type, msgspec.json.Decoder[Any]] = {}


def _decoder(kind: type[T]) -> msgspec.json.Decoder[T]:
    found = _decoders.get(kind)
    if found is None:
        found = _decoders[kind] = msgspec.json.Decoder(kind)
    return found


def decode(data: bytes, kind: type[T]) -> T:
    """Return the JSON `data` as a `kind`.

    Raises:
        ContractError: not JSON, or it does not fit; `field` names where.
    """
    try:
        return _decoder(kind).decode(data)
    except msgspec.ValidationError as exc:
        raise ContractError(f"the body does not fit {kind.__name__}: {exc}", field=_where(str(exc))) from exc
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise ContractError(f"the body is not JSON: {exc}", field="body") from exc


def decode_command(verb: str, data: bytes) -> SessionCommand:
    """Return the command of `verb` with body `data`; an empty body is an empty object.

    Raises:
        ContractError: unknown verb, too large, not JSON, or a field is unknown or wrong.
    """
    kind = COMMANDS.get(verb)
    if kind is None:
        raise ContractError(
            f"unknown verb {verb[:60]!r}: use one of {', '.join(sorted(COMMANDS))}", field="verb"
        )
    if len(data) > MAX_BODY_BYTES:
        raise ContractError(
            f"the body has {len(data)} bytes, at most {MAX_BODY_BYTES} are taken", field="body"
        )
    return decode(data or b"{}", kind)


def timestamp(when: datetime) -> str:
    """Return `when` as RFC 3339 in UTC with microseconds."""
    return when.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def parse_timestamp(text: str, field: str = TIME) -> datetime:
    """Return the instant `text` names (RFC 3339; nanoseconds are cut to microseconds).

    Raises:
        ContractError: not an RFC 3339 time with an offset.
    """
    try:
        # No text that short has more than six digits, and nearly all are: replay is full of them.
        when = msgspec.convert(text if len(text) <= 27 else _excess.sub(r"\1", text), datetime)
    except msgspec.ValidationError as exc:
        raise ContractError(f"{field} {text[:60]!r} is not an RFC 3339 time", field=field) from exc
    if when.tzinfo is None:
        raise ContractError(f"{field} {text[:60]!r} has no UTC offset", field=field)
    try:
        return when if when.tzinfo is UTC else when.astimezone(UTC)
    except OverflowError as exc:
        raise ContractError(f"{field} {text[:60]!r} lies outside the calendar in UTC", field=field) from exc


@lru_cache(256)
def header_safe(text: str) -> str:
    """Return `text` fit for a header value: anything but printable ASCII is percent-encoded."""
    return quote(text, safe=" !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~").strip()


def encode_event(new: NewEvent, prev: Digest) -> tuple[dict[str, str], bytes]:
    """Return (headers, body) of an event that follows the event with digest `prev`.

    Raises:
        ContractError: the body is over `MAX_BODY_BYTES`.
    """
    body = _encode(new.event)
    if len(body) > MAX_BODY_BYTES:
        raise ContractError(
            f"{new.event.type} of {new.session} has {len(body)} bytes, at most {MAX_BODY_BYTES} are stored",
            field="body",
        )
    headers = {
        MSG_ID: new.id,
        "ce-specversion": "1.0",
        ID: new.id,
        TYPE: new.event.type,
        "ce-source": SOURCE,
        "ce-subject": new.session,
        TIME: timestamp(new.time),
        CAUSE: new.cause,
        CORRELATION: new.correlation.strip(),  # as every reader of headers does
        ACTOR: header_safe(new.actor),
        PREV: prev,
    }
    if new.traceparent:
        headers[TRACE] = new.traceparent
    return headers, body


def missing_header(headers: Mapping[str, str] | None) -> str | None:
    """Return the name of the first envelope header that is absent: then it is not an event."""
    if not headers:
        return _headers_needed[0]
    if headers.keys() >= _headers_set:
        return None
    return next((name for name in _headers_needed if name not in headers), None)


def decode_event(
    headers: Mapping[str, str], body: bytes, *, sequence: int, stored_at: datetime, digest: Digest
) -> Recorded:
    """Return the stored event, brought to its current shape by the upcasters.

    Raises:
        ContractError: unknown type or version, or the body does not fit it.
    """
    wire = headers[TYPE]
    return Recorded(
        id=EventId(headers[ID]),
        session=_session_id(headers["ce-subject"]),
        event=_decode_body(wire, body),
        type=wire,
        time=parse_timestamp(headers[TIME]),
        cause=headers[CAUSE],
        correlation=headers.get(CORRELATION, ""),
        actor=headers.get(ACTOR, ""),
        sequence=Sequence(sequence),
        stored_at=stored_at,
        prev=Digest(headers[PREV]),
        digest=digest,
        traceparent=headers.get(TRACE, ""),
    )


def _decode_body(wire: str, body: bytes) -> SessionEvent:
    kind = EVENT_TYPES.get(wire)
    if kind is not None:
        return decode(body, kind)
    if wire in UPCASTERS:
        data = decode(body, dict)
        while wire in UPCASTERS:
            wire, data = UPCASTERS[wire](data)
        try:
            return msgspec.convert(data, EVENT_TYPES[wire])
        except msgspec.ValidationError as exc:
            raise ContractError(f"the body does not fit {wire}: {exc}", field=_where(str(exc))) from exc
    raise ContractError(
        f"event type {wire[:60]!r} is unknown to this version: upgrade before reading this history",
        field=TYPE,
    )


def _where(message: str) -> str:
    found = _field.search(message)
    return next((group for group in found.groups() if group), "body") if found else "body"
