"""Histories on one JetStream stream: append under a guard, settle lost replies, read, replay.

The server's guard decides who wins; nothing here remembers versions. An append returns the very
bytes the server acknowledged under the guard, or, when a reply was lost, what is found there.
"""

import asyncio
import random
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from datetime import datetime
from typing import Final

from lucid_events import codec
from lucid_events.domain.envelope import NewEvent, Recorded, Stray
from lucid_events.domain.ids import Digest, SessionId, Version
from lucid_events.errors import AppendUncertain, StoreFull, StoreUnavailable, VersionConflict
from lucid_events.jetstream.append import Draft, Landed, Writer, as_sent, draft
from lucid_events.jetstream.connection import Connection, StoredMessage
from lucid_events.jetstream.faults import WRONG_LAST_SEQUENCE
from lucid_events.jetstream.group import GroupWriter
from lucid_events.jetstream.history import appended, decode, fits, run_of
from lucid_events.jetstream.pages import pages
from lucid_events.jetstream.replay import replayed
from lucid_events.ports import Appended, Position
from lucid_events.subjects import Subjects

APPEND_TIMEOUT_S: Final = 15.0
"""Bound of one append with everything it takes to settle it. A leader election takes about 5 s:
half as long would make every election an uncertain append, twice as long only delays the answer."""

ATTEMPT_TIMEOUT_S: Final = 5.0
PAUSE_FIRST_S: Final = 0.02
PAUSE_MAX_S: Final = 1.0

SLICE: Final = 50
"""Events decoded before others get a turn, the request for the next page among them: half a
millisecond. Ten times as many and the server idles while a page is decoded."""

INCARNATION: Final = "lucid-incarnation"
"""Key in the stream's metadata: raised by an operator when the log was cut back."""


class JetStreamEventStore:
    """The event log of one prefix; implements `EventStore`."""

    def __init__(
        self,
        connection: Connection,
        subjects: Subjects,
        *,
        writer: Writer | None = None,
        append_timeout_s: float = APPEND_TIMEOUT_S,
    ) -> None:
        self._connection = connection
        self._subjects = subjects
        self._stream = subjects.events_stream
        self._writer = writer or GroupWriter(connection)
        self._append_timeout_s = append_timeout_s

    async def append(
        self, session: SessionId, events: Sequence[NewEvent], *, expected: Version, head: Digest
    ) -> Appended:
        """Append `events` to the history in order, all of them or none; see `EventStore.append`."""
        asked = draft(self._subjects, session, events, expected=expected, head=head)
        return await self._settle(asked)

    async def _settle(self, asked: Draft) -> Appended:
        """Send until the outcome is known; the guard makes every further attempt harmless."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._append_timeout_s
        uncertain, pause = False, PAUSE_FIRST_S
        while True:
            left = max(deadline - loop.time(), 0.001)
            landed: Landed | None = None
            conflict: VersionConflict | None = None
            problem: StoreUnavailable | AppendUncertain | None = None
            try:
                landed = await self._writer.write(asked, timeout_s=min(left, ATTEMPT_TIMEOUT_S))
                if not landed.duplicate:
                    return appended(as_sent(asked, landed.first), asked.digests)
            except VersionConflict as exc:
                conflict = exc
            except StoreFull:
                if not uncertain:
                    raise
            except StoreUnavailable as exc:
                problem = exc
            except AppendUncertain as exc:
                uncertain, problem = True, exc
            try:
                found = await self._look(asked, conflict)
                if found is not None:
                    return appended(found)
                if landed is not None and landed.duplicate:
                    asked = await self._suppressed(asked, landed)
                elif isinstance(problem, AppendUncertain) and "err_code" in problem.fields:
                    # The server knows the id, the history does not: it is taken, or in flight.
                    asked = asked.without_ids()
            except (StoreUnavailable, AppendUncertain) as exc:
                problem = exc
            if loop.time() + pause >= deadline:
                raise self._unsettled(asked, uncertain) from (problem or conflict)
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, PAUSE_MAX_S)

    async def _look(self, asked: Draft, conflict: VersionConflict | None) -> tuple[StoredMessage, ...] | None:
        """Return what stands behind the expected version if it is ours, None when nothing does.

        Raises:
            VersionConflict: another writer's stands there, or the expected version is not reached.
        """
        first = await self._connection.leader_get(
            self._stream, seq=asked.expected + 1, next_by_subj=asked.history
        )
        if first is not None and first.headers.get(codec.ID) == asked.first_id:
            return await run_of(self._connection, self._stream, asked.history, first)
        if first is None and (conflict is None or conflict.fields.get("err_code") != WRONG_LAST_SEQUENCE):
            return None
        actual = await self.version(asked.session)
        if actual == asked.expected:
            return None
        raise VersionConflict(
            f"{asked.session} is at version {actual}, not at {asked.expected}: "
            "read what came between and decide again",
            history=asked.session,
            expected=asked.expected,
            actual=actual,
        ) from conflict

    async def _suppressed(self, asked: Draft, landed: Landed) -> Draft:
        """Return the draft to send after the server took it for a message it has elsewhere."""
        other = await self._connection.leader_get(self._stream, seq=landed.first)
        if (
            other is not None
            and other.sequence <= asked.expected
            and other.headers.get(codec.ID) == asked.first_id
            and fits(asked.history, other.subject)
        ):
            raise VersionConflict(
                f"event {asked.first_id} of {asked.session} is stored already, at {other.sequence}: "
                "read again",
                history=asked.session,
                expected=asked.expected,
                actual=asked.expected,
                stored=other.sequence,
            )
        return asked.without_ids()

    def _unsettled(self, asked: Draft, uncertain: bool) -> StoreUnavailable | AppendUncertain:
        waited = f"within {self._append_timeout_s:g} s"
        if uncertain:
            return AppendUncertain(
                f"whether {asked.session} was appended to behind {asked.expected} could not be settled "
                f"{waited}: read before retrying",
                session=asked.session,
                expected=asked.expected,
            )
        return StoreUnavailable(f"{asked.session} could not be appended to {waited}: nothing was written")

    async def read(
        self, session: SessionId, *, after: Version = Version(0), upto: int | None = None
    ) -> AsyncGenerator[Recorded | Stray, None]:
        """Yield the messages of one history behind `after`, up to `upto`, in order; see `EventStore.read`."""
        if upto is not None and upto <= after:
            return
        known = upto if upto is not None else await self.version(session)
        if known <= after:
            return
        found = pages(
            self._connection,
            self._stream,
            self._subjects.history(session),
            first=after + 1,
            last=upto,
            known=known,
        )
        async with aclosing(found):
            async for page in found:
                for place, message in enumerate(page):
                    if place % SLICE == 0:
                        await asyncio.sleep(0)
                    yield decode(message)

    async def version(self, session: SessionId) -> Version:
        """Return the history's version now, as the leader knows it (0 when empty)."""
        last = await self._connection.leader_get(self._stream, last_by_subj=self._subjects.history(session))
        return Version(0 if last is None else last.sequence)

    async def replay(
        self,
        filters: Sequence[str] = (),
        *,
        after: int = 0,
        upto: int | None = None,
        since: datetime | None = None,
    ) -> AsyncGenerator[Recorded | Stray, None]:
        """Yield the log in order to its end as of the call; see `EventStore.replay`."""
        end = (await self.last_position()).sequence
        last = end if upto is None else min(end, upto)
        if last <= after:
            return
        found = replayed(self._connection, self._stream, filters, first=after + 1, last=last, since=since)
        async with aclosing(found):
            async for page in found:
                for place, message in enumerate(page):
                    if place % SLICE == 0:
                        await asyncio.sleep(0)
                    yield decode(message)

    async def last_position(self) -> Position:
        """Return the position of the last message of the log, as the leader knows it."""
        info = await self._connection.api(f"STREAM.INFO.{self._stream}")
        metadata = info["config"].get("metadata") or {}
        return Position(self._stream, int(metadata.get(INCARNATION, 1)), info["state"]["last_seq"])
