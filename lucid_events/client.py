"""Sending commands: one way to ask, one way to be told, over any `CommandBus`.

A command keeps its id through every retry, so a lost reply never makes it happen twice.
"""

import random
import uuid
from collections.abc import Callable, Mapping

from lucid_events import codec, tracing
from lucid_events.domain.commands import SessionCommand
from lucid_events.domain.ids import CommandId, SessionId, command_id
from lucid_events.domain.replies import Accepted, BeatReply, ErrorBody, Failure
from lucid_events.errors import (
    AppendUncertain,
    CommandExpired,
    CommandRejected,
    ConfigError,
    ContractError,
    Fenced,
    IntegrityError,
    LucidError,
    NotFound,
    StoreFull,
    StoreUnavailable,
    VersionConflict,
)
from lucid_events.ports import Clock, CommandBus, CommandReply
from lucid_events.subjects import Subjects

Vouch = Callable[[str, Mapping[str, str], bytes], Mapping[str, str]]
"""Returns the headers that prove who a command (subject, headers, body) is from."""

_RETRY_FIRST_S, _RETRY_MOST_S = 0.1, 2.0
_BY_CODE: dict[str, type[LucidError]] = {
    kind.code: kind
    for kind in (
        CommandRejected,
        CommandExpired,
        NotFound,
        ContractError,
        VersionConflict,
        StoreUnavailable,
        StoreFull,
        AppendUncertain,
        Fenced,
        IntegrityError,
        ConfigError,
    )
}


class Commands:
    """Sends commands on behalf of `actor`.

    Args:
        bus: how they travel.
        subjects: names under the prefix in use.
        clock: stamps `ce-time` of commands whose id is made up here.
        actor: who asks; an identity the service can't check is stored as `unverified:<actor>`.
        vouch: proves to the service that the identity was checked.
        timeout_s: how long one attempt waits for its answer.
    """

    def __init__(
        self,
        bus: CommandBus,
        subjects: Subjects,
        clock: Clock,
        *,
        actor: str,
        vouch: Vouch | None = None,
        timeout_s: float = 15.0,
    ) -> None:
        self._bus, self._subjects, self._clock = bus, subjects, clock
        self._actor, self._vouch, self._timeout_s = actor, vouch, timeout_s

    async def send(
        self,
        session: SessionId,
        command: SessionCommand,
        *,
        id: CommandId | None = None,
        if_version: int | None = None,
        give_up_after_s: float = 60.0,
    ) -> Accepted:
        """Ask once, repeat under the same id while the answer is missing or says to retry.

        With `if_version` it takes effect only while the history is at that version.

        Raises:
            CommandRejected: the rules refuse it (`code`, `allowed` say why and what they accept);
                `version_mismatch` when the history is not at `if_version`.
            NotFound: there is no such session.
            ContractError: the service could not read the command.
            Fenced: the recorder's epoch is over.
            StoreUnavailable, AppendUncertain: still no answer after `give_up_after_s`.
        """
        headers = self.headers(id)
        if if_version is not None:
            headers[codec.IF_VERSION] = str(if_version)
        with tracing.span(f"send {command.verb}", kind="client", lucid__session=session) as span:
            if span.traceparent:
                headers[codec.TRACE] = span.traceparent
            return await self._send(session, command, headers, give_up_after_s)

    async def _send(
        self, session: SessionId, command: SessionCommand, headers: dict[str, str], give_up_after_s: float
    ) -> Accepted:
        subject, body = self._subjects.command(session, command.verb), codec.encode(command)
        headers |= self._vouch(subject, headers, body) if self._vouch else {}
        deadline = self._clock.now().timestamp() + give_up_after_s
        pause_s = _RETRY_FIRST_S
        while True:
            try:
                reply = await self._bus.request(subject, body, headers=headers, timeout_s=self._timeout_s)
                return read_reply(reply)
            except LucidError as exc:
                if not exc.retry or self._clock.now().timestamp() + pause_s > deadline:
                    raise
            await self._clock.sleep(pause_s * random.uniform(0.5, 1.5))
            pause_s = min(pause_s * 2, _RETRY_MOST_S)

    async def enqueue(
        self, session: SessionId, command: SessionCommand, *, id: CommandId | None = None
    ) -> CommandId:
        """Store the command durably: it will be handled, its outcome is on `lucid.out.<sid>.<id>`."""
        headers = self.headers(id)
        if traceparent := tracing.current():
            headers[codec.TRACE] = traceparent
        await self._bus.enqueue(
            self._subjects.queued_command(session, command.verb), codec.encode(command), headers=headers
        )
        return CommandId(headers[codec.ID])

    async def beat(self, session: SessionId, *, epoch: int, offset: int, timeout_s: float) -> BeatReply:
        """Say that the epoch's recorder is alive; the reply tells it the session's state."""
        reply = await self._bus.request(
            self._subjects.beat(session, epoch),
            codec.encode({"offset": offset}),
            headers=self.headers(None),
            timeout_s=timeout_s,
        )
        raise_failure(reply)
        return codec.decode(reply.data, BeatReply)

    def headers(self, id: CommandId | None) -> dict[str, str]:
        """Return the envelope of a new command; a missing id is made up, once.

        An id of the caller's own goes out without a time: only they know whether it was sent before,
        and with the time of a later sending a repeat would look like a new command.
        """
        chosen = command_id(id) if id is not None else CommandId(str(uuid.uuid4()))
        made = {
            codec.ID: chosen,
            codec.ACTOR: codec.header_safe(self._actor),
            codec.CORRELATION: chosen,
        }
        return made if id is not None else {**made, codec.TIME: codec.timestamp(self._clock.now())}


def read_reply(reply: CommandReply) -> Accepted:
    """Return the acceptance, or raise what the reply says."""
    raise_failure(reply)
    return codec.decode(reply.data, Accepted)


def raise_failure(reply: CommandReply) -> None:
    """Raise the error a reply carries, if it carries one."""
    if b'"error":' not in reply.data[:64]:  # the key; "error" alone is also a state
        return
    raise error_of(codec.decode(reply.data, Failure).error)


def error_of(body: ErrorBody) -> LucidError:
    """Return the exception an error reply stands for; unknown codes are rejections by the rules."""
    kind = _BY_CODE.get(body.code, CommandRejected)
    error = kind(body.message, field=body.field, allowed=body.allowed, state=body.state, reason=body.code)
    error.code, error.retry = body.code, body.retry
    return error
