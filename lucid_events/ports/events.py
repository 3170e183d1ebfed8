"""Histories in one append-only log."""

from collections.abc import AsyncGenerator, Sequence
from datetime import datetime
from typing import Protocol

import msgspec

from lucid_events.domain.envelope import NewEvent, Recorded, Stray
from lucid_events.domain.ids import Digest, SessionId, Version


class Position(msgspec.Struct, frozen=True, order=True):
    """A place in the log. Comparable only within one stream and incarnation."""

    stream: str
    incarnation: int
    sequence: int


class Appended(msgspec.Struct, frozen=True):
    """Where events went: `recorded` as stored, `version` the history's after them."""

    version: Version
    head: Digest
    recorded: tuple[Recorded, ...]


class EventStore(Protocol):
    """Histories in one append-only log.

    Whoever does not read an iterator to its end closes it (`contextlib.aclosing`).
    """

    async def append(
        self, session: SessionId, events: Sequence[NewEvent], *, expected: Version, head: Digest
    ) -> Appended:
        """Append `events` to the history in order, all of them or none.

        A lost reply is settled inside: the store reads the first message after `expected` and,
        as long as nothing is there, sends the identical bytes again under the same guard.
        Deciding again after a conflict is the caller's.

        Args:
            session: whose history.
            events: 1 to 1000 events, oldest first, all of `session`.
            expected: version the caller decided on; 0 asserts that the history is empty.
            head: digest of the last event of the history (`NO_DIGEST` when there is none).

        Returns:
            The events as stored. When an earlier attempt under the same ids landed, what that
            attempt stored, which may differ in times. `stored_at` may be the writer's clock; only a
            read tells the server's.

        Raises:
            VersionConflict: another writer came first, or, with the field `stored`, the first event stands
                at that sequence at or below `expected`; nothing was written.
            StoreUnavailable: nothing was written (`StoreFull`: the log is full).
            AppendUncertain: the outcome could not be settled in time; read before retrying.
            ContractError: an event does not fit (too large).
        """
        ...

    def read(
        self, session: SessionId, *, after: Version = Version(0), upto: int | None = None
    ) -> AsyncGenerator[Recorded | Stray, None]:
        """Yield the messages of one history behind version `after`, up to sequence `upto`, in order.

        Strays are yielded, because they count for the version. Memory is bounded by pages.

        Raises:
            ContractError: an event can't be decoded (unknown type or version, bad body).
            StoreUnavailable: the server could not be asked.
        """
        ...

    async def version(self, session: SessionId) -> Version:
        """Return the history's version now, as the leader knows it (0 when empty)."""
        ...

    def replay(
        self,
        filters: Sequence[str] = (),
        *,
        after: int = 0,
        upto: int | None = None,
        since: datetime | None = None,
    ) -> AsyncGenerator[Recorded | Stray, None]:
        """Yield the log in order from behind sequence `after` (or from `since`) to its end as of the call.

        `filters` are subjects as `Subjects.events_of_type` builds them; none means everything.
        """
        ...

    async def last_position(self) -> Position:
        """Return the position of the last message of the log, as the leader knows it."""
        ...
