"""A log in memory with projectors over it, put together for one test."""

from collections.abc import Awaitable, Callable, Sequence

from lucid_events import codec
from lucid_events.domain import events as ev
from lucid_events.domain.envelope import NewEvent
from lucid_events.domain.ids import NO_DIGEST, Digest, SessionId, Version, event_id
from lucid_events.evidence import chain
from lucid_events.memory import (
    ManualClock,
    MemoryEventStore,
    MemoryInbox,
    MemoryKeyValue,
    MemoryServer,
)
from lucid_events.ports import Position
from lucid_events.projections.checkpoints import Checkpoints
from lucid_events.projections.index import SessionIndex
from lucid_events.projections.projector import Projector
from lucid_events.projections.reads import StatusReads
from lucid_events.projections.runner import Limits, Park, ProjectionRunner
from lucid_events.projections.status import StatusProjection
from lucid_events.projections.status_view import StatusView
from lucid_events.projections.views import StatusViews
from tests.unit.projections.chained import SID

CONSUMER = "status"
UNKNOWN = "session.teleported.v1"


class Bench:
    """One server in memory; `runner()` gives another projector process over its log."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.server = MemoryServer(clock=self.clock)
        self.subjects = self.server.subjects
        self.server.add_consumer(CONSUMER, [self.subjects.all_events])
        self.store = MemoryEventStore(self.server)
        self.projection = StatusProjection(self.subjects.events_stream)
        self.meta = MemoryKeyValue(self.server, self.subjects.meta_bucket)
        self.kv = self.bucket(1)
        self.views = StatusViews(self.kv)
        self.index = SessionIndex(self.kv)
        self.reads = StatusReads(self.views, self.clock)
        self.checkpoints = Checkpoints(self.meta, self.subjects.events_stream, 1)
        self._heads: dict[SessionId, tuple[Version, Digest, int]] = {}

    def bucket(self, generation: int) -> MemoryKeyValue:
        """The bucket of a generation."""
        return MemoryKeyValue(self.server, self.subjects.status_bucket(generation))

    def projector(self, views: StatusViews | None = None) -> Projector[StatusView]:
        """A projector with a cache of its own."""
        return Projector(self.projection, self.store, views or self.views)

    def runner(
        self, *, batch: int = 256, park: Park | None = None, checkpoint_s: float = 0.0
    ) -> ProjectionRunner[StatusView]:
        """A projector process on the shared consumer."""
        return ProjectionRunner(
            MemoryInbox(self.server, CONSUMER),
            self.projector(),
            subjects=self.subjects,
            clock=self.clock,
            limits=Limits(batch=batch, fetch_wait_s=0.0, checkpoint_s=checkpoint_s),
            park=park,
            checkpoints=self.checkpoints,
        )

    async def append(self, *events: ev.SessionEvent, session: SessionId = SID) -> int:
        """Append events one by one; returns the version after the last."""
        for event in events:
            version, head, number = self._heads.get(session, (Version(0), NO_DIGEST, 0))
            cause = f"cause-{number + 1}"
            made = NewEvent(
                id=event_id(session, cause, 0),
                session=session,
                event=event,
                time=self.clock.now(),
                cause=cause,
                correlation=cause,
                actor="test",
            )
            done = await self.store.append(session, [made], expected=version, head=head)
            self._heads[session] = (done.version, done.head, number + 1)
        return self._heads[session][0]

    async def stray(self, session: SessionId = SID) -> int:
        """Store an acknowledgement on a history, as a forged reply subject makes the server do."""
        stored = self.server.publish(self.subjects.event(session, "session.started.v1"), b'{"seq":1}')
        _, head, number = self._heads.get(session, (Version(0), NO_DIGEST, 0))
        self._heads[session] = (Version(stored.sequence), head, number)
        return stored.sequence

    async def from_the_future(self, session: SessionId = SID) -> int:
        """Store an event of a type this version does not know, well linked."""
        _, head, number = self._heads[session]
        headers, _ = codec.encode_event(
            NewEvent(
                id=event_id(session, "future", 0),
                session=session,
                event=ev.SessionStarted(),
                time=self.clock.now(),
                cause="future",
                correlation="future",
                actor="test",
            ),
            head,
        )
        headers[codec.TYPE] = UNKNOWN
        subject = self.subjects.event(session, UNKNOWN)
        stored = self.server.publish(subject, b"{}", headers)
        digest = chain.digest(subject, headers, b"{}")
        self._heads[session] = (Version(stored.sequence), digest, number)
        return stored.sequence

    async def drain(self, *runners: ProjectionRunner[StatusView]) -> None:
        """Let the runners take turns until the consumer has nothing left."""
        inbox = MemoryInbox(self.server, CONSUMER)
        while (lag := await inbox.lag()).pending or lag.in_flight:
            before = lag
            for runner in runners:
                await runner.step()
            if await inbox.lag() == before:
                await self.clock.advance(60)

    async def view(self, session: SessionId = SID) -> StatusView:
        """The committed view."""
        found = (await self.views.load(session)).view
        assert found is not None
        return found

    async def rows(self, sessions: Sequence[SessionId] = (SID,)) -> dict[str, bytes | None]:
        """The committed bytes of views."""
        found = {session: await self.kv.get(f"s.{session}") for session in sessions}
        return {session: value[0] if value else None for session, value in found.items()}


def ends_at(position: Position) -> Callable[[], Awaitable[Position]]:
    """Return how a log that ends at `position` answers."""

    async def last() -> Position:
        return position

    return last
