"""The ports a contract test gets, whichever adapter is behind them, and the events it writes."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol, TypeVar

import msgspec

from lucid_events.domain.envelope import NewEvent, Recorded, Stray
from lucid_events.domain.events import SessionEvent, SessionMarked
from lucid_events.domain.ids import NO_DIGEST, Digest, SessionId, Version, event_id
from lucid_events.ports import (
    Appended,
    Beats,
    BlobStore,
    CaptureGauge,
    CaptureStore,
    CommandBus,
    CommandServer,
    DeadLetterStore,
    EventStore,
    Inbox,
    KeyValue,
    Letters,
    LiveFeed,
    Timers,
)
from lucid_events.subjects import Subjects

PATIENCE_S = 30.0
"""How long a test waits for what must happen: far beyond what a busy machine needs."""

CAPTURE_MAX_BYTES = 6 * 1024 * 1024
"""Limit of the capture stream in every contract test: a few pieces fill it."""

M = TypeVar("M", Recorded, Stray, Recorded | Stray)

SID, OTHER = SessionId("s1"), SessionId("s2")
WHEN = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)


class AddConsumer(Protocol):
    """Creates a durable consumer and binds to it."""

    async def __call__(
        self,
        name: str,
        filters: Sequence[str],
        *,
        stream: str | None = None,
        ack_wait_s: float = 30.0,
        max_ack_pending: int = 1000,
    ) -> Inbox: ...


class Publish(Protocol):
    """Stores a message as any client could; returns its sequence."""

    async def __call__(
        self, subject: str, data: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> int: ...


@dataclass(frozen=True)
class Ports:
    """One set of ports on a store of its own."""

    subjects: Subjects
    store: EventStore
    capture: CaptureStore
    gauge: CaptureGauge
    blobs: BlobStore
    kv: KeyValue
    live: LiveFeed
    bus: CommandBus
    server: CommandServer
    beats: Beats
    timers: Timers
    letters: Letters
    dead_letters: DeadLetterStore
    add_consumer: AddConsumer
    bind: Callable[[str], Awaitable[Inbox]]
    """Bind to a consumer that may not exist."""
    publish: Publish
    delete: Callable[[str, int], Awaitable[None]]
    """Delete the message at (stream, sequence) behind the adapter's back."""
    sequences: Callable[[str, str], Awaitable[list[int]]]
    """Sequences of (stream, subject filter), from the leader."""

    async def append(
        self, events: Sequence[NewEvent], *, expected: int = 0, head: Digest = NO_DIGEST
    ) -> Appended:
        """Append to the history of the first event; times are left out, as `history` does."""
        done = await self.store.append(events[0].session, events, expected=Version(expected), head=head)
        return Appended(done.version, done.head, tuple(untimed(done.recorded)))

    async def history(self, session: SessionId = SID, after: int = 0) -> list[Recorded | Stray]:
        """Read a whole history, without the server's times, which an append need not know."""
        return untimed(await self.timed_history(session, after))

    async def timed_history(self, session: SessionId = SID, after: int = 0) -> list[Recorded | Stray]:
        """Read a whole history as it is stored."""
        return [one async for one in self.store.read(session, after=Version(after))]


class Run(Protocol):
    """Runs a scenario on fresh ports in a loop of its own; written as a decorator."""

    def __call__(self, scenario: Callable[[Ports], Awaitable[None]], /) -> None: ...


def mark(label: str, offset: int = 0) -> SessionMarked:
    """Return a small event."""
    return SessionMarked(label=label, offset=offset)


def events(
    cause: str, *facts: SessionEvent | str, session: SessionId = SID, time: datetime = WHEN
) -> list[NewEvent]:
    """Return what `cause` brings about in `session`; a string stands for a mark with that label."""
    return [
        NewEvent(
            id=event_id(session, cause, index),
            session=session,
            event=mark(fact) if isinstance(fact, str) else fact,
            time=time + timedelta(microseconds=index),
            cause=cause,
            correlation=f"{cause}-root",
            actor="tester",
        )
        for index, fact in enumerate(facts)
    ]


def untimed(found: Sequence[M]) -> list[M]:
    """Return messages with one and the same time."""
    return [msgspec.structs.replace(one, stored_at=WHEN) for one in found]


def labels(found: Sequence[Recorded | Stray]) -> list[str]:
    """Return the labels of marks, wire names of other events, `stray` for strays."""
    return [
        "stray"
        if isinstance(one, Stray)
        else one.event.label
        if isinstance(one.event, SessionMarked)
        else one.type
        for one in found
    ]


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    """Return once `condition` holds; fails when it does not within `PATIENCE_S`."""
    async with asyncio.timeout(PATIENCE_S):
        while not await condition():  # noqa: ASYNC110 # a server's state: nothing here sets an event
            await asyncio.sleep(0.01)


def sha256(data: bytes) -> str:
    """Return the digest as the ports write it."""
    return hashlib.sha256(data).hexdigest()
