"""What a reaction is: a function from one message to an outcome, run by `runner.py`.

A reaction returns commands, not events: they go through the one decider like everybody's, so
what a reaction brings about is legal, and happens exactly once (derived ids, and the guard).
"""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import ClassVar, Protocol, Self, runtime_checkable

import msgspec

from lucid_events.domain.commands import InternalCommand
from lucid_events.domain.envelope import Recorded
from lucid_events.domain.ids import SessionId, Version
from lucid_events.domain.replies import Accepted
from lucid_events.domain.state import Session
from lucid_events.errors import ContractError
from lucid_events.ports import Delivery
from lucid_events.stored import read_message


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """What a reaction sees of a delivery; answering it is the runner's business.

    `attempt` is 1 at the first delivery. `replaying` says that the past is run through once more:
    reactions with effects outside do nothing then.
    """

    subject: str
    headers: Mapping[str, str]
    data: bytes
    sequence: int
    stored_at: datetime
    attempt: int = 1
    replaying: bool = False

    @classmethod
    def of(cls, delivery: Delivery, *, replaying: bool = False) -> Self:
        """Return what a reaction may see of `delivery`."""
        return cls(
            subject=delivery.subject,
            headers=delivery.headers,
            data=delivery.data,
            sequence=delivery.sequence,
            stored_at=delivery.stored_at,
            attempt=delivery.attempt,
            replaying=replaying,
        )

    @property
    def owner(self) -> str:
        """The subject's third token, the session in all our families; only fairness is built on it."""
        tokens = self.subject.split(".", 3)
        return tokens[2] if len(tokens) > 2 else ""


class Issued(msgspec.Struct, frozen=True, kw_only=True):
    """An internal command for `session`, brought about by `cause` (an event id, or a timer's name)."""

    session: SessionId
    command: InternalCommand
    cause: str
    correlation: str = ""
    traceparent: str = ""

    @classmethod
    def by(cls, recorded: Recorded, command: InternalCommand) -> Self:
        """Return `command` for the session of the event that brings it about."""
        return cls(
            session=recorded.session,
            command=command,
            cause=recorded.id,
            correlation=recorded.correlation,
            traceparent=recorded.traceparent,
        )


class Retry(msgspec.Struct, frozen=True):
    """Not now. Only an `own_failure` counts towards parking; None leaves the pause to the runner."""

    reason: str
    after_s: float | None = None
    own_failure: bool = False


class Done(msgspec.Struct, frozen=True):
    """Handled: commit `commands` in order, run `finish`, then acknowledge.

    `finish` is work that must precede the ack but not hold up the next message: the runner gives
    worker and bytes back before it, and retries when it says so. Both repeat after a crash, so
    both must be idempotent.
    """

    commands: tuple[Issued, ...] = ()
    finish: Callable[[], Awaitable[Retry | None]] | None = None


class Park(msgspec.Struct, frozen=True):
    """Set the message aside: it can't be handled, now or later, without a person."""

    code: str
    reason: str


class Skip(msgspec.Struct, frozen=True):
    """Nothing to do with this message; it is acknowledged and counted."""

    reason: str


Outcome = Done | Retry | Park | Skip


class Reaction(Protocol):
    """What happens on a message of one durable consumer."""

    @property
    def name(self) -> str:
        """Name of the reaction; the actor of its commands is `lucid_events/<name>`."""
        ...

    async def handle(self, message: Message) -> Outcome:
        """Return what becomes of `message`; may run twice, or beside itself in another process."""
        ...

    def lane(self, message: Message) -> str | None:
        """Return the key within which messages are handled in order; None: in any order, in parallel."""
        ...

    def cost_bytes(self, message: Message) -> int:
        """Return the bytes that handling `message` holds at its worst."""
        ...


@runtime_checkable
class SpeaksOnPark(Protocol):
    """A reaction that says something in the history when its message is set aside."""

    def on_park(self, message: Message, park: Park) -> tuple[Issued, ...]:
        """Return the commands to commit before the message is set aside."""
        ...


class Decisions(Protocol):
    """The one road into a history, as `handlers.commands` builds it."""

    async def append_internal(
        self,
        session: SessionId,
        command: InternalCommand,
        *,
        cause: str,
        reaction: str,
        correlation: str = "",
        traceparent: str = "",
    ) -> Accepted:
        """Decide and append on behalf of `reaction`; its ids are derived, so a repeat changes nothing."""
        ...


class Standing(Protocol):
    """A session as its history says it stands at `version`."""

    @property
    def state(self) -> Session:
        """What the history adds up to."""
        ...

    @property
    def version(self) -> Version:
        """Sequence of the last message applied."""
        ...


class Sessions(Protocol):
    """Where reactions learn how a session stands, as `handlers.histories` builds it."""

    async def load(self, session: SessionId) -> Standing:
        """Return the session, perhaps as it stood a moment ago."""
        ...

    async def refresh(self, session: SessionId) -> Standing:
        """Return the session as the leader's history has it now."""
        ...


async def at_least(sessions: Sessions, session: SessionId, version: int) -> Session:
    """Return the session with its history applied up to `version` or further."""
    standing = await sessions.load(session)
    if standing.version < version:
        standing = await sessions.refresh(session)
    return standing.state


Checkpoint = Callable[[str], Awaitable[None]]
"""Called between named steps; fault tests kill the process there."""


async def no_checkpoint(step: str) -> None:
    """Go on: nobody watches the steps."""


def read_event(message: Message) -> Recorded | None:
    """Return the event in `message`, None when it is not an event (a forged acknowledgement, say).

    Raises:
        ContractError: an event of unknown type or version, or its body does not fit.
    """
    found = read_message(message, SessionId(message.owner))
    return found if isinstance(found, Recorded) else None


class EventReaction(ABC):
    """A reaction to events of histories; anything else on their subjects is skipped and counted.

    In order within a session, unless a subclass says otherwise.
    """

    name: ClassVar[str]
    effects_in_replay: ClassVar[bool] = False

    async def handle(self, message: Message) -> Outcome:
        """Decode the event and react to it."""
        try:
            recorded = read_event(message)
        except ContractError as exc:
            return Park("contract", exc.message)
        if recorded is None:
            return Skip("not an event")
        if message.replaying and not self.effects_in_replay:
            return Skip("replaying")
        return await self.react(recorded)

    @abstractmethod
    async def react(self, recorded: Recorded) -> Outcome:
        """Return what becomes of the event."""

    def lane(self, message: Message) -> str | None:
        """Order the session's events."""
        return message.owner

    def cost_bytes(self, message: Message) -> int:
        """Count the message alone."""
        return len(message.data)
