"""Commands as they arrive, and the errors they are answered with: the same for both roads.

What is malformed is refused here, before any history is looked at.
"""

import re
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from urllib.parse import unquote

import msgspec

from lucid_events import codec
from lucid_events.domain.commands import SessionCommand
from lucid_events.domain.ids import CommandId, SessionId, command_id
from lucid_events.domain.replies import ErrorBody, Failure
from lucid_events.errors import CommandRejected, ContractError, LucidError
from lucid_events.subjects import Subjects

MAX_ACTOR_CHARS = 200
MAX_CORRELATION_CHARS = 200

MAX_AHEAD = timedelta(hours=1)
"""How far a sender's clock may be ahead of ours. A command from the future would outlive the
horizon in which its repeat is recognised; half would refuse clocks set to a wrong zone's summer time."""

INTERNAL_ERROR = "internal"
"""Code of an answer to a command that met a bug: nothing is known, the log has the details."""

UNVERIFIED = "unverified:"
"""Stands before an actor's name when nothing but the sender's word supports it."""

_TRACE = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_VERSION = re.compile(r"[0-9]{1,19}", re.ASCII)
_PRINTABLE = re.compile(r"[\x21-\x7e]+")

Identify = Callable[[str, Mapping[str, str], bytes], str | None]
"""Returns who sent a message (subject, headers, body), when it proves it; None when it proves nothing."""


def identify_nobody(subject: str, headers: Mapping[str, str], body: bytes) -> str | None:
    """Prove nothing: every actor is unverified."""
    return None


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One command as it was asked for; `issued_at` is None when its sender did not say.

    `stored_at` is when a durable one was stored: it was made no later.
    """

    session: SessionId
    id: CommandId
    command: SessionCommand
    issued_at: datetime | None
    stored_at: datetime | None = None
    actor: str
    correlation: str
    traceparent: str = ""
    if_version: int | None = None


class RequestReader:
    """Reads requests off the wire.

    Args:
        subjects: names under the prefix in use.
        identify: says who sent a message, where the server vouches for it.
    """

    def __init__(self, subjects: Subjects, *, identify: Identify = identify_nobody) -> None:
        self._subjects, self._identify = subjects, identify

    def read(
        self, subject: str, headers: Mapping[str, str], body: bytes, *, now: datetime, id: CommandId
    ) -> Request:
        """Return the request; `id` stands in for one it does not bring, a time is held against `now`.

        Raises:
            ContractError: session id, verb, body, id or time do not fit; `field` names which.
        """
        session, verb = self._subjects.parse_command(subject)
        chosen = given_id(headers) or id
        return Request(
            session=session,
            id=chosen,
            command=codec.decode_command(verb, body),
            issued_at=_issued_at(headers, now),
            actor=self._actor(subject, headers, body),
            correlation=_correlation(headers) or chosen,
            traceparent=_traceparent(headers),
            if_version=_if_version(headers),
        )

    def _actor(self, subject: str, headers: Mapping[str, str], body: bytes) -> str:
        proven = self._identify(subject, headers, body)
        if proven is not None:
            return proven[:MAX_ACTOR_CHARS]
        return UNVERIFIED + unquote(headers.get(codec.ACTOR, ""))[:MAX_ACTOR_CHARS]


def given_id(headers: Mapping[str, str]) -> CommandId | None:
    """Return the command id the headers bring, None when they bring none.

    Raises:
        ContractError: it is not one.
    """
    text = headers.get(codec.ID) or headers.get(codec.MSG_ID)
    return command_id(text) if text else None


def failure_of(error: LucidError) -> Failure:
    """Return the reply that stands for `error`; `client.error_of` turns it back."""
    fields = error.fields
    reason = fields.get("reason") if isinstance(error, CommandRejected) else None
    field, state = fields.get("field"), fields.get("state")
    allowed = fields.get("allowed")
    return Failure(
        error=ErrorBody(
            code=str(reason or error.code),
            message=error.message,
            retry=error.retry,
            field=None if field is None else str(field),
            allowed=tuple(map(str, allowed)) if isinstance(allowed, tuple) else (),
            state=None if state is None else str(state),
        )
    )


def internal_failure() -> Failure:
    """Return the reply to a command that met a bug; it tells nothing about our insides."""
    message = "the service met a bug on this command: its log says which"
    return Failure(error=ErrorBody(code=INTERNAL_ERROR, message=message, retry=False))


def _issued_at(headers: Mapping[str, str], now: datetime) -> datetime | None:
    text = headers.get(codec.TIME)
    if not text:
        return None  # not now: a repeat would be as new as its first sending
    issued_at = codec.parse_timestamp(text)
    if issued_at > now + MAX_AHEAD:
        raise ContractError(
            f"{codec.TIME} {text[:60]} is ahead of the service's clock ({codec.timestamp(now)}): set yours",
            field=codec.TIME,
        )
    return issued_at


def _correlation(headers: Mapping[str, str]) -> str:
    text = headers.get(codec.CORRELATION, "")
    if text and (len(text) > MAX_CORRELATION_CHARS or _PRINTABLE.fullmatch(text) is None):
        raise ContractError(
            f"{codec.CORRELATION} is not valid: use up to {MAX_CORRELATION_CHARS} printable characters",
            field=codec.CORRELATION,
        )
    return text


def _if_version(headers: Mapping[str, str]) -> int | None:
    text = headers.get(codec.IF_VERSION)
    if text is None:
        return None
    if _VERSION.fullmatch(text) is None:
        raise ContractError(
            f"{codec.IF_VERSION} {text[:60]!r} is no version: use the number an earlier answer gave",
            field=codec.IF_VERSION,
        )
    return int(text)


def _traceparent(headers: Mapping[str, str]) -> str:
    # A broken trace context is dropped, not refused (W3C Trace Context, 3.2.2.3).
    text = headers.get(codec.TRACE, "")
    return text if _TRACE.fullmatch(text) else ""
