"""The one road into a history: load, decide, append; decide again when somebody was faster.

The rules are in `domain.decider`; the guard of the append is the truth, the cached state only a
good guess. An answer that appends nothing is given only once the leader has said that the
version it was decided on still stands.
"""

import logging
import random
from contextlib import AbstractAsyncContextManager, nullcontext
from datetime import datetime
from typing import assert_never

import msgspec
from msgspec.structs import replace

from lucid_events import tracing
from lucid_events.domain import commands as cmd
from lucid_events.domain.decider import decide
from lucid_events.domain.decisions import Needs, Rejected, Repeated, reject
from lucid_events.domain.envelope import NewEvent
from lucid_events.domain.events import SessionEvent
from lucid_events.domain.ids import CommandId, SessionId, derived_command_id, event_id
from lucid_events.domain.replies import Accepted, EventRef
from lucid_events.domain.state import REPEAT_HORIZON
from lucid_events.domain.values import RetentionLimits, SessionSettings
from lucid_events.errors import (
    AppendUncertain,
    CommandExpired,
    CommandRejected,
    ContractError,
    Fenced,
    LucidError,
    NotFound,
    StoreUnavailable,
    VersionConflict,
)
from lucid_events.handlers.admission import Admission
from lucid_events.handlers.facts import Facts
from lucid_events.handlers.histories import Histories, History
from lucid_events.handlers.requests import Request
from lucid_events.handlers.turns import Turns
from lucid_events.ports import Appended, Clock, EventStore

MAX_ATTEMPTS = 20
"""Decisions per command before its conflict is the caller's: with jitter, twenty writers on one
history all get through."""

_FIRST_PAUSE_S, _MOST_PAUSE_S = 0.002, 0.25
"""Pauses between attempts: as long as one append takes at first, a quarter of a second at most."""

MAX_FACTS = 4
"""Facts one decision may ask for in turn: more than the rules ever do, so more is a bug."""

WHEN_DAMAGED = (
    cmd.Stop
    | cmd.Fail
    | cmd.Detach
    | cmd.Drained
    | cmd.Seal
    | cmd.Mark
    | cmd.Hold
    | cmd.View
    | cmd.InternalCommand
)
"""What a session with a broken history still takes: everything that brings it to an orderly end."""

_ERASING = cmd.ProposeCleanup | cmd.CarryOut
"""But nothing that erases it by itself: a person looks at it first."""

_log = logging.getLogger(__name__)


class _Work(msgspec.Struct, frozen=True, kw_only=True):
    """One command on its way: `cause` is what its events name as theirs."""

    session: SessionId
    id: CommandId
    command: cmd.Command | cmd.InternalCommand
    cause: str
    issued_at: datetime | None
    actor: str
    correlation: str
    traceparent: str
    if_version: int | None = None


class _Listen(msgspec.Struct, frozen=True):
    """The recorder of `epoch` must be listened for, which takes seconds: not while others wait."""

    epoch: int


class CommandHandler:
    """Decides commands and appends what comes of them.

    Args:
        defaults: settings of sessions that ask for none.
        limits: how long a session may ask to be kept.
        admission: says whether one more session may be created; unset: always.
    """

    def __init__(
        self,
        histories: Histories,
        store: EventStore,
        facts: Facts,
        clock: Clock,
        *,
        defaults: SessionSettings | None = None,
        limits: RetentionLimits | None = None,
        admission: Admission | None = None,
        max_attempts: int = MAX_ATTEMPTS,
    ) -> None:
        self._admission = admission
        self._histories, self._store, self._facts, self._clock = histories, store, facts, clock
        self._defaults, self._limits = defaults or SessionSettings(), limits or RetentionLimits()
        self._max_attempts = max_attempts
        self._turns = Turns()

    async def handle(self, request: Request) -> Accepted:
        """Bring about what is asked for, or say why not.

        Repeating a request under its id brings it about once; the answer is then the first one.

        Raises:
            CommandRejected: the rules refuse it (`reason`, `allowed`, `state` say why).
            NotFound: there is no such session.
            Fenced: the recorder's epoch is over.
            ContractError: settings nobody knows, or an event that is too large.
            VersionConflict: others were faster every time.
            StoreUnavailable: nothing was written.
            AppendUncertain: it may have been written; repeat it under the same id.
        """
        work = _Work(
            session=request.session,
            id=request.id,
            command=request.command,  # type: ignore[arg-type] # COMMANDS holds exactly the members of Command
            cause=request.id,
            issued_at=request.issued_at or self._long_ago(request.stored_at),
            actor=request.actor,
            correlation=request.correlation,
            traceparent=tracing.current() or request.traceparent,
            if_version=request.if_version,
        )
        return await self._run(work)

    def _long_ago(self, stored_at: datetime | None) -> datetime | None:
        """Return `stored_at` when that alone makes a command too old; a later one may be a repeat."""
        if stored_at is None or stored_at >= self._clock.now() - REPEAT_HORIZON:
            return None
        return stored_at

    async def append_internal(
        self,
        session: SessionId,
        command: cmd.InternalCommand,
        *,
        cause: str,
        reaction: str,
        correlation: str = "",
        traceparent: str = "",
    ) -> Accepted:
        """Decide and append on behalf of `reaction`, like `handle`.

        Ids are derived from `cause` (the id of the event reacted to), so a repeat is the same
        command, in this process or another. A cause therefore stands for one effect of a reaction:
        for another one it takes another cause.
        """
        purpose = f"{reaction}/{type(command).__name__}"
        work = _Work(
            session=session,
            id=derived_command_id(session, cause, purpose),
            command=command,
            cause=cause,
            issued_at=self._clock.now(),
            actor=f"lucid_events/{reaction}",
            correlation=correlation or cause,
            traceparent=tracing.current() or traceparent,
        )
        return await self._run(work)

    async def _run(self, work: _Work) -> Accepted:
        alive: tuple[int, bool] | None = None
        stored: bool | None = None
        pause_s = 0.0  # the first conflict is met at once: usually one other writer was faster, once
        for attempt in range(1, self._max_attempts + 1):
            try:
                async with self._turns.of(work.session):
                    done = await self._attempt(work, alive, stored)
            except VersionConflict as exc:
                _log.debug(
                    "conflict: decide again",
                    extra={
                        "session": work.session,
                        "command": work.id,
                        "attempt": attempt,
                        "reason": str(exc),
                    },
                )
                alive = None
                if "stored" in exc.fields:
                    stored = True  # by ourselves, long ago: deciding again as if it were new never ends
                # Outside the turn: the writer that was faster may well be waiting for it.
                await self._clock.sleep(pause_s * random.random())
                pause_s = min(max(pause_s * 2, _FIRST_PAUSE_S), _MOST_PAUSE_S)
                await self._histories.refresh(work.session)
                continue
            if isinstance(done, Accepted):
                return done
            alive = (done.epoch, await self._facts.alive(work.session, done.epoch))
        raise VersionConflict(
            f"{work.session} is too busy: {self._max_attempts} attempts met other writers, repeat it",
            history=work.session,
        )

    async def _attempt(
        self, work: _Work, alive: tuple[int, bool] | None, stored: bool | None
    ) -> Accepted | _Listen:
        history = await self._histories.load(work.session)
        asked = cmd.Asked(
            session=work.session,
            id=work.id,
            command=work.command,
            at=self._clock.now(),
            issued_at=work.issued_at,
            actor=work.actor,
            correlation=work.correlation,
            traceparent=work.traceparent,
            defaults=self._defaults,
            limits=self._limits,
            stored=stored,
        )
        decision = decide(asked, history.state)
        if (
            history.damage
            and (not isinstance(work.command, WHEN_DAMAGED) or isinstance(work.command, _ERASING))
            and not isinstance(decision, Repeated)
        ):
            decision = _damaged(history)
        if work.if_version not in (None, history.version) and history.version:
            decision = decision if isinstance(decision, Repeated) else _moved_on(history, work.if_version)
        for _ in range(MAX_FACTS):
            if not isinstance(decision, Needs):
                break
            if decision.alive is not None:
                if alive is None or alive[0] != decision.alive:
                    return _Listen(decision.alive)
                asked = replace(asked, alive=alive[1])
            else:
                if decision.salvage is not None:
                    # A fence can't be taken back: it is not set on behalf of a state long gone.
                    await self._confirm(history)
                asked = await self._facts.gather(decision, asked, history)
            decision = decide(asked, history.state)
        match decision:
            case Rejected():
                await self._confirm(history)
                raise _error(decision, history)
            case Repeated():
                await self._confirm(history)
                first = replace(_accepted(work, history), version=decision.first.version, repeated=True)
                return replace(first, state=str(decision.first.state))
            case Needs():
                raise RuntimeError(
                    f"the rules ask for {decision} again and again: {type(work.command).__name__}"
                )
            case list():
                if not decision:
                    await self._confirm(history)
                    return _accepted(work, history)
                async with self._room(work):
                    appended = await self._append(work, asked, history, decision)
                return _accepted(work, await self._histories.remember(history, appended), appended)
        assert_never(decision)

    def _room(self, work: _Work) -> AbstractAsyncContextManager[None]:
        if self._admission is None or not isinstance(work.command, cmd.Create):
            return nullcontext()
        return self._admission.room(work.session)

    async def _confirm(self, history: History) -> None:
        """Make sure that `history` is the newest.

        Raises:
            VersionConflict: it is not; the cache has the newer one.
        """
        now = await self._histories.refresh(history.state.id)
        if now.version != history.version:
            raise VersionConflict(
                f"{history.state.id} is at {now.version}, not at {history.version}: decide again",
                history=history.state.id,
                expected=history.version,
                actual=now.version,
            )

    async def _append(
        self, work: _Work, asked: cmd.Asked, history: History, events: list[SessionEvent]
    ) -> Appended:
        new = [
            NewEvent(
                id=event_id(work.session, work.id, index),
                session=work.session,
                event=event,
                time=asked.at,
                cause=work.cause,
                correlation=work.correlation,
                actor=work.actor,
                traceparent=work.traceparent,
            )
            for index, event in enumerate(events)
        ]
        try:
            return await self._store.append(work.session, new, expected=history.version, head=history.head)
        except AppendUncertain as uncertain:
            # Under the same guard nothing but our own bytes can still land: reading settles it,
            # unless nothing is there yet. Then it may land later, and only the caller may repeat.
            try:
                landed = await self._histories.landed(history, [event.id for event in new])
            except StoreUnavailable as exc:
                raise uncertain from exc
            if landed is None:
                raise
            return landed


def _accepted(work: _Work, history: History, appended: Appended | None = None) -> Accepted:
    state = history.state
    stored = appended.recorded if appended else ()
    return Accepted(
        session_id=work.session,
        command_id=work.id,
        state=str(state.state or ""),
        version=history.version,
        epoch=state.epoch,
        offset=state.offset,
        next_index=state.next_index,
        settings=state.settings,
        events=tuple(EventRef(type=one.type, id=one.id, sequence=int(one.sequence)) for one in stored),
    )


def _damaged(history: History) -> Rejected:
    message = (
        f"the history of {history.state.id} is damaged ({history.damage}): "
        "it can be read, stopped, failed, marked, viewed and held, nothing else"
    )
    return reject(history.state, "damaged", message)


def _moved_on(history: History, expected: int | None) -> Rejected:
    message = (
        f"session {history.state.id} is at version {history.version}, not at {expected}: "
        "look at it again and decide anew"
    )
    return reject(history.state, "version_mismatch", message)


def _error(rejected: Rejected, history: History) -> LucidError:
    kind: type[LucidError]
    match rejected.code:
        case "not_found":
            kind = NotFound
        case "fenced":
            kind = Fenced
        case "expired":
            kind = CommandExpired
        case "invalid":
            kind = ContractError
        case _:
            kind = CommandRejected
    return kind(
        rejected.message,
        reason=rejected.code,
        allowed=rejected.allowed,
        field=rejected.field,
        state=str(history.state.state) if history.state.state else None,
    )
