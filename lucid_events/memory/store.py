"""Histories in memory: events are encoded, chained, stored as bytes, and decoded when read."""

import itertools
from collections.abc import AsyncGenerator, Sequence
from datetime import datetime

from lucid_events import codec
from lucid_events.domain.envelope import NewEvent, Recorded, Stray
from lucid_events.domain.ids import NO_DIGEST, Digest, EventId, SessionId, Version
from lucid_events.errors import AppendUncertain, ContractError, StoreUnavailable, VersionConflict
from lucid_events.evidence import chain
from lucid_events.memory.faults import Outcome
from lucid_events.memory.server import MemoryServer
from lucid_events.memory.stream import MSG_ID, Guard, MemoryStream, Outgoing, Stored, StoredMessage, matches
from lucid_events.ports import Appended, Position
from lucid_events.stored import read_message

MAX_EVENTS = 1000
"""Events of one append: the server's limit of one atomic batch."""

BATCH_ID = "Nats-Batch-Id"
"""Stays on the messages of an atomic batch, as on a server; not part of the chain."""

ATTEMPTS = 5
"""Attempts at one append before its outcome is called uncertain."""


class MemoryEventStore:
    """Every history in one stream of a `MemoryServer`."""

    def __init__(self, server: MemoryServer) -> None:
        self._server = server
        self._subjects = server.subjects

    @property
    def _log(self) -> MemoryStream:
        return self._server.stream(self._subjects.events_stream)

    async def append(
        self, session: SessionId, events: Sequence[NewEvent], *, expected: Version, head: Digest
    ) -> Appended:
        """Append `events` to the history in order, all of them or none; see `EventStore.append`."""
        messages = self._encode(session, events, expected, head)
        first_id, uncertain = events[0].id, False
        for _ in range(ATTEMPTS):
            stored: Stored | None = None
            try:
                outcome = await self._server.faults.reach("append")
                if outcome is not Outcome.REQUEST_LOST:
                    stored = self._log.publish(messages)
                    if outcome is Outcome.NORMAL and not stored.duplicate:
                        return self._appended(self._landed(session, expected, first_id))
            except VersionConflict as conflict:
                if landed := self._landed(session, expected, first_id):
                    return self._appended(landed)
                raise self._conflict(session, expected) from conflict
            except StoreUnavailable:
                if not uncertain:
                    raise
                continue
            uncertain = True
            try:
                await self._server.faults.reach("settle")
            except StoreUnavailable:
                continue
            if landed := self._landed(session, expected, first_id):
                return self._appended(landed)
            if self._version(session) != expected:
                raise self._conflict(session, expected)
            if stored is not None and stored.duplicate:
                self._check_suppressed(session, expected, first_id, stored.sequence)
                # The id is taken by something else: the guard alone keeps it from being stored twice.
                messages = [_without_id(message) for message in messages]
        raise AppendUncertain(
            f"no answer to {ATTEMPTS} attempts to append to {session} after {expected}: read before retrying",
            session=session,
            expected=expected,
        )

    async def read(
        self, session: SessionId, *, after: Version = Version(0), upto: int | None = None
    ) -> AsyncGenerator[Recorded | Stray, None]:
        """Yield the messages of one history behind `after`, up to `upto`, in order."""
        await self._server.faults.reach("read")
        for message in self._messages([self._subjects.history(session)], after, upto):
            yield self._decode(message)

    async def version(self, session: SessionId) -> Version:
        """Return the history's version now (0 when empty)."""
        await self._server.faults.reach("read")
        return self._version(session)

    async def replay(
        self,
        filters: Sequence[str] = (),
        *,
        after: int = 0,
        upto: int | None = None,
        since: datetime | None = None,
    ) -> AsyncGenerator[Recorded | Stray, None]:
        """Yield the log from behind `after` (or from `since`) to its end as of the call, in order."""
        await self._server.faults.reach("read")
        for message in self._messages(filters, after, upto):
            if since is None or message.stored_at >= since:
                yield self._decode(message)

    async def last_position(self) -> Position:
        """Return the position of the last message of the log."""
        await self._server.faults.reach("read")
        return Position(self._log.name, self._server.incarnation, self._log.last_sequence)

    def _encode(
        self, session: SessionId, events: Sequence[NewEvent], expected: Version, head: Digest
    ) -> list[Outgoing]:
        if not 1 <= len(events) <= MAX_EVENTS:
            raise ContractError(
                f"an append takes 1 to {MAX_EVENTS} events, not {len(events)}", session=session
            )
        if any(event.session != session for event in events):
            raise ContractError(f"an append to {session} holds events of another session", session=session)
        guard: Guard | None = Guard(self._subjects.history(session), expected)
        messages = []
        for event in events:
            headers, body = codec.encode_event(event, head)
            subject = self._subjects.event(session, event.event.type)
            head = chain.digest(subject, headers, body)
            if len(events) > 1:
                headers[BATCH_ID] = f"batch-{self._log.last_sequence}-{events[0].id}"
            messages.append(Outgoing(subject, body, headers, guard))
            guard = None
        return messages

    def _messages(self, filters: Sequence[str], after: int, upto: int | None) -> list[StoredMessage]:
        found = map(self._log.get, self._log.select(filters, after=after, upto=upto))
        return [message for message in found if message is not None]

    def _landed(self, session: SessionId, expected: Version, first_id: EventId) -> list[StoredMessage]:
        """Return what the append of `first_id` behind `expected` left, nothing when it is not there."""
        behind = self._messages([self._subjects.history(session)], expected, None)
        if not behind or behind[0].headers.get(codec.ID) != first_id:
            return []
        batch = behind[0].headers.get(BATCH_ID)
        if batch is None:
            return behind[:1]
        return list(itertools.takewhile(lambda message: message.headers.get(BATCH_ID) == batch, behind))

    def _check_suppressed(self, session: SessionId, expected: Version, id: EventId, sequence: int) -> None:
        other = self._log.get(sequence)
        if (
            other is not None
            and sequence <= expected
            and other.headers.get(codec.ID) == id
            and matches(self._subjects.history(session), other.subject)
        ):
            raise VersionConflict(
                f"event {id} of {session} is stored already, at {sequence}: read again",
                history=session,
                expected=expected,
                actual=expected,
                stored=sequence,
            )

    def _appended(self, landed: Sequence[StoredMessage]) -> Appended:
        recorded = tuple(one for one in map(self._decode, landed) if isinstance(one, Recorded))
        head = recorded[-1].digest if recorded else NO_DIGEST
        return Appended(Version(landed[-1].sequence), head, recorded)

    def _version(self, session: SessionId) -> Version:
        last = self._log.last(self._subjects.history(session))
        return Version(0 if last is None else last.sequence)

    def _conflict(self, session: SessionId, expected: Version) -> VersionConflict:
        actual = self._version(session)
        return VersionConflict(
            f"{session} is at version {actual}, not at {expected}: read what came between and decide again",
            history=session,
            expected=expected,
            actual=actual,
        )

    def _decode(self, message: StoredMessage) -> Recorded | Stray:
        return read_message(message, SessionId(message.subject.split(".", 3)[2]))


def _without_id(message: Outgoing) -> Outgoing:
    return message._replace(headers={k: v for k, v in message.headers.items() if k != MSG_ID})
