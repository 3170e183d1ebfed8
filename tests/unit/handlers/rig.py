"""A whole service side in memory, small enough to be built in every test."""

import asyncio
import hashlib
import uuid
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta

from lucid_events.compression import ByteBudget, Compressor
from lucid_events.domain import commands as cmd
from lucid_events.domain import events as ev
from lucid_events.domain.envelope import NewEvent, Recorded
from lucid_events.domain.ids import SessionId, event_id
from lucid_events.domain.replies import Accepted
from lucid_events.domain.state import Session
from lucid_events.domain.values import SessionSettings
from lucid_events.errors import LucidError, VersionConflict
from lucid_events.handlers.attempts import Attempts
from lucid_events.handlers.base import (
    Checkpoint,
    Done,
    Issued,
    Message,
    Outcome,
    Reaction,
    Standing,
    no_checkpoint,
)
from lucid_events.handlers.chunks import ChunkHandler
from lucid_events.handlers.commands import CommandHandler
from lucid_events.handlers.execution import Execution
from lucid_events.handlers.facts import Facts
from lucid_events.handlers.histories import Histories
from lucid_events.handlers.runner import Limits, Runner
from lucid_events.memory import (
    ManualClock,
    MemoryBeats,
    MemoryBlobStore,
    MemoryCaptureStore,
    MemoryEventStore,
    MemoryInbox,
    MemoryKeyValue,
    MemoryLetters,
    MemoryServer,
    MemoryTimers,
)
from lucid_events.memory.dead_letters import MemoryDeadLetterStore
from lucid_events.subjects import Subjects

SID = SessionId("s1")
BEAT_S = 5.0
PATIENCE_S = 30.0
"""Real seconds a condition is waited for before a test fails."""


class Crash(BaseException):
    """The process dies here; nothing in the package may catch it."""


class Unreadable:
    """The real histories, but that of `broken`, for good or for now."""

    def __init__(self, histories: Histories, broken: SessionId, problem: LucidError) -> None:
        self._histories, self._broken, self._problem = histories, broken, problem

    async def load(self, session: SessionId) -> Standing:
        """Return the session, perhaps as it stood a moment ago."""
        return await self.refresh(session)

    async def refresh(self, session: SessionId) -> Standing:
        """Return the session as the leader's history has it now."""
        if session == self._broken:
            raise self._problem
        return await self._histories.refresh(session)


class Decisions:
    """The real command handler; `before` holds what happens right before its next decisions."""

    def __init__(self, handler: CommandHandler) -> None:
        self._handler = handler
        self.before: list[Callable[[], Awaitable[None]]] = []

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
        """Decide and append."""
        while self.before:
            await self.before.pop()()
        return await self._handler.append_internal(
            session,
            command,
            cause=cause,
            reaction=reaction,
            correlation=correlation,
            traceparent=traceparent,
        )


class Rig:
    """Every port in memory on one clock that a test moves."""

    def __init__(self, *, capture_max_bytes: int | None = None) -> None:
        self.clock = ManualClock()
        self.subjects = Subjects()
        self.server = MemoryServer(self.subjects, clock=self.clock, capture_max_bytes=capture_max_bytes)
        self.faults = self.server.faults
        self.store = MemoryEventStore(self.server)
        self.capture = MemoryCaptureStore(self.server)
        self.blobs = MemoryBlobStore(self.server, self.subjects.chunks_bucket)
        self.meta = MemoryKeyValue(self.server, self.subjects.meta_bucket)
        self.letters = MemoryLetters(self.server)
        self.dead = MemoryDeadLetterStore(self.server)
        self.timers = MemoryTimers(self.server)
        self.beats = MemoryBeats(self.server)
        self.histories = Histories(self.store, clock=self.clock)
        facts = Facts(self.store, self.capture, self.beats, self.clock, beat_interval_s=BEAT_S)
        self.commands = CommandHandler(self.histories, self.store, facts, self.clock)
        self.decisions = Decisions(self.commands)

    # histories

    def new(self, session: SessionId, event: ev.SessionEvent, cause: str, index: int = 0) -> NewEvent:
        """Return `event` in an envelope whose id follows from `cause`."""
        return NewEvent(
            id=event_id(session, cause, index),
            session=session,
            event=event,
            time=self.clock.now(),
            cause=cause,
            correlation=cause,
            actor="test",
        )

    async def append(self, *events: ev.SessionEvent, session: SessionId = SID) -> list[Recorded]:
        """Append events to a history as it stands, whatever the rules say."""
        history = await self.histories.refresh(session)
        cause = str(uuid.uuid4())
        news = [self.new(session, event, cause, i) for i, event in enumerate(events)]
        appended = await self.store.append(session, news, expected=history.version, head=history.head)
        return list(appended.recorded)

    async def session_with_recorder(
        self, session: SessionId = SID, settings: SessionSettings | None = None
    ) -> None:
        """Append what brings a session to `active` with epoch 1 attached."""
        await self.append(
            ev.SessionCreated(settings=settings or SessionSettings()),
            ev.SessionStarted(),
            ev.RecorderAttached(epoch=1, recorder="test", offset=0),
            session=session,
        )

    async def seal(
        self,
        data: bytes,
        *,
        n: int = 0,
        offset: int = 0,
        session: SessionId = SID,
        piece: int = 1000,
        stored: bytes | None = None,
    ) -> Recorded:
        """Capture `data` (`stored` instead, when its bytes went wrong) in pieces and seal it."""
        sequences = []
        for at in range(0, len(data), piece):
            part = (stored or data)[at : at + piece]
            running = hashlib.sha256(data[: at + piece]).hexdigest()
            ack = await self.capture.publish(
                session, epoch=1, n=n, offset=offset + at, data=part, sha256=running
            )
            sequences.append(ack.sequence)
        sealed = ev.ChunkSealed(
            index=(await self.state(session)).next_index,
            epoch=1,
            n=n,
            offset=offset,
            size=len(data),
            sha256=hashlib.sha256(data).hexdigest(),
            first_seq=sequences[0],
            last_seq=sequences[-1],
            started_at=self.clock.now(),
            ended_at=self.clock.now() + timedelta(seconds=1),
            cut="size",
        )
        return (await self.append(sealed, session=session))[0]

    async def state(self, session: SessionId = SID) -> Session:
        """Return the session as its history has it now."""
        return (await self.histories.refresh(session)).state

    async def events(self, kind: type[ev.SessionEvent], session: SessionId = SID) -> list[Recorded]:
        """Return the session's events of one kind."""
        return [
            r async for r in self.store.read(session) if isinstance(r, Recorded) and isinstance(r.event, kind)
        ]

    def message(self, recorded: Recorded, *, attempt: int = 1) -> Message:
        """Return the stored event as a delivery would show it."""
        kept = self.server.stream(self.subjects.events_stream).get(recorded.sequence)
        assert kept is not None
        return Message(
            subject=kept.subject,
            headers=kept.headers,
            data=kept.data,
            sequence=kept.sequence,
            stored_at=kept.stored_at,
            attempt=attempt,
        )

    # reactions

    def compressor(self, workers: int = 2) -> Compressor:
        """Return a compressor of its own, to be used as a context."""
        return Compressor(workers=workers, budget=ByteBudget(1 << 28))

    def chunks(self, compressor: Compressor, checkpoint: Checkpoint = no_checkpoint) -> ChunkHandler:
        """Return the chunk handler over this rig."""
        return ChunkHandler(
            self.histories, self.decisions, self.capture, self.blobs, compressor, checkpoint=checkpoint
        )

    def consumer(self, name: str, *filters: str, stream: str | None = None, ack_wait_s: float = 30.0) -> None:
        """Create a durable consumer (of every event, without filters)."""
        self.server.add_consumer(
            name, filters or (self.subjects.all_events,), stream=stream, ack_wait_s=ack_wait_s
        )

    def runner(
        self,
        reaction: Reaction,
        *,
        limits: Limits | None = None,
        stream: str | None = None,
        budget: int = 1 << 28,
        notes: bool = True,
        carries: bool = False,
        checkpoint: Checkpoint = no_checkpoint,
    ) -> Runner:
        """Return a runner over the consumer named as the reaction."""
        return Runner(
            MemoryInbox(self.server, reaction.name),
            Execution(reaction, self.decisions),
            stream=stream or self.subjects.events_stream,
            letters=self.letters,
            attempts=Attempts(reaction.name, self.meta if notes else None),
            subjects=self.subjects,
            clock=self.clock,
            budget=ByteBudget(budget),
            limits=limits or Limits(),
            carries=carries,
            checkpoint=checkpoint,
        )

    async def run_until(self, runner: Runner, condition: Callable[[], bool], *, step_s: float = 0.0) -> None:
        """Run until `condition` holds (moving the clock by `step_s` while it does not), then stop."""
        running = asyncio.ensure_future(runner.run())
        try:
            await self.until(lambda: condition() or running.done(), step_s=step_s)
            runner.stop()
            await self.until(running.done)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        if not running.cancelled():
            running.result()

    async def until(self, condition: Callable[[], bool], *, step_s: float = 0.0) -> None:
        """Return once `condition` holds; fails after `PATIENCE_S` real seconds."""
        deadline = asyncio.get_running_loop().time() + PATIENCE_S
        while not condition():
            assert asyncio.get_running_loop().time() < deadline, "the condition never came true"
            if step_s:
                await self.clock.advance(step_s)
            else:
                await asyncio.sleep(0)

    def dead_letters(self) -> int:
        """Return how many messages are set aside."""
        return len(self.server.stream(self.subjects.dlq_stream).select())

    def captured(self, session: SessionId = SID) -> int:
        """Return how many capture pieces of the session are left."""
        return len(self.server.stream(self.subjects.capture_stream).select([self.subjects.captured(session)]))


class Scripted:
    """A reaction that answers from a list, then with what it is given as the rest."""

    def __init__(
        self,
        name: str,
        answers: Sequence[Outcome | BaseException],
        rest: Outcome,
        *,
        ordered: bool = True,
        cost: int = 0,
    ) -> None:
        self.name = name
        self.seen: list[Message] = []
        self.done: list[int] = []
        self.parked: list[str] = []
        self.gate: asyncio.Event | None = None
        self.at_work = self.most_at_work = 0
        self._answers, self._rest = list(answers), rest
        self._ordered, self._cost = ordered, cost

    async def handle(self, message: Message) -> Outcome:
        """Take the next answer."""
        self.seen.append(message)
        self.at_work += 1
        self.most_at_work = max(self.most_at_work, self.at_work)
        try:
            if self.gate is not None:
                await self.gate.wait()
            answer = self._answers.pop(0) if self._answers else self._rest
        finally:
            self.at_work -= 1
        if isinstance(answer, BaseException):
            raise answer
        if isinstance(answer, Done):
            self.done.append(message.sequence)
        return answer

    def lane(self, message: Message) -> str | None:
        """Order within a session, if asked for."""
        return message.owner if self._ordered else None

    def cost_bytes(self, message: Message) -> int:
        """Cost what was given."""
        return self._cost

    def on_park(self, message: Message, park: object) -> tuple[Issued, ...]:
        """Note it."""
        self.parked.append(f"{message.sequence}")
        return ()


def conflict() -> LucidError:
    """Return the error of a writer that came second."""
    return VersionConflict("another writer came first")
