"""Reactions over a real server: what memory promises holds there, crashes of the server included."""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from lucid_events.clock import SystemClock
from lucid_events.compression import ByteBudget, Compressor, decompress
from lucid_events.domain import commands as cmd
from lucid_events.domain import events as ev
from lucid_events.domain.envelope import Recorded
from lucid_events.domain.ids import CommandId, SessionId
from lucid_events.domain.state import Session
from lucid_events.domain.transitions import State
from lucid_events.domain.values import Retention
from lucid_events.handlers.attempts import Attempts
from lucid_events.handlers.base import Done, Message, Outcome, Park, Reaction
from lucid_events.handlers.chunks import ChunkHandler
from lucid_events.handlers.commands import CommandHandler
from lucid_events.handlers.dead_letters import DeadLetters
from lucid_events.handlers.deadlines import Deadlines, Timeouts
from lucid_events.handlers.due import DueTimers
from lucid_events.handlers.eraser import Eraser
from lucid_events.handlers.execution import Execution
from lucid_events.handlers.facts import Facts
from lucid_events.handlers.finaliser import Finaliser
from lucid_events.handlers.histories import Histories
from lucid_events.handlers.requests import Request
from lucid_events.handlers.retention import Periods
from lucid_events.handlers.runner import Limits, Runner
from lucid_events.jetstream.beats import JetStreamBeats
from lucid_events.jetstream.blobs import JetStreamBlobStore
from lucid_events.jetstream.capture import JetStreamCaptureStore
from lucid_events.jetstream.connection import Connection, NatsOptions, connect
from lucid_events.jetstream.dead_letters import JetStreamDeadLetterStore
from lucid_events.jetstream.definitions import TopologySettings, load
from lucid_events.jetstream.inbox import JetStreamInbox
from lucid_events.jetstream.kv import JetStreamKeyValue
from lucid_events.jetstream.letters import JetStreamLetters
from lucid_events.jetstream.store import JetStreamEventStore
from lucid_events.jetstream.timers import JetStreamTimers
from lucid_events.subjects import Subjects
from tests.nats_server import NatsServer

SID = SessionId("s1")
PATIENCE_S = 60.0
POLL_S = 0.05


@dataclass
class Worker:
    """One process of the service side, on a connection of its own."""

    connection: Connection
    subjects: Subjects
    clock: SystemClock
    store: JetStreamEventStore
    capture: JetStreamCaptureStore
    blobs: JetStreamBlobStore
    timers: JetStreamTimers
    letters: JetStreamLetters
    histories: Histories
    commands: CommandHandler
    compressor: Compressor

    async def ask(self, *commands: cmd.SessionCommand) -> None:
        """Ask for each command in turn."""
        for command in commands:
            now = self.clock.now()
            id_ = CommandId(f"{command.verb}-{time.monotonic_ns()}")
            await self.commands.handle(
                Request(session=SID, id=id_, command=command, issued_at=now, actor="test", correlation="")
            )

    async def state(self) -> Session:
        """Return the session as the leader has it."""
        return (await self.histories.refresh(SID)).state

    async def record(self, n: int, offset: int, data: bytes) -> None:
        """Capture and seal one chunk as a recorder does."""
        sequences = []
        size = self.capture.max_piece_bytes
        for at in range(0, len(data), size):
            running = hashlib.sha256(data[: at + size]).hexdigest()
            part = data[at : at + size]
            ack = await self.capture.publish(SID, epoch=1, n=n, offset=offset + at, data=part, sha256=running)
            sequences.append(ack.sequence)
        now = self.clock.now()
        await self.ask(
            cmd.Seal(
                epoch=1,
                n=n,
                offset=offset,
                size=len(data),
                sha256=hashlib.sha256(data).hexdigest(),
                first_seq=sequences[0],
                last_seq=sequences[-1],
                started_at=now,
                ended_at=now,
                cut="size",
            )
        )

    def chunks(self) -> ChunkHandler:
        """Return a chunk handler over this process's ports."""
        return ChunkHandler(self.histories, self.commands, self.capture, self.blobs, self.compressor)

    async def runner(self, reaction: Reaction, *, stream: str | None = None) -> Runner:
        """Return a runner over the deployed consumer."""
        stream = stream or self.subjects.events_stream
        notes = JetStreamKeyValue(self.connection, self.subjects.meta_bucket)
        return Runner(
            await JetStreamInbox.bind(self.connection, stream, reaction.name),
            Execution(reaction, self.commands),
            stream=stream,
            letters=self.letters,
            attempts=Attempts(reaction.name, notes),
            subjects=self.subjects,
            clock=self.clock,
            budget=ByteBudget(1 << 28),
            limits=Limits(workers=2),
        )


@asynccontextmanager
async def worker(url: str, subjects: Subjects) -> AsyncIterator[Worker]:
    """Open one process's ports."""
    clock = SystemClock()
    async with connect(NatsOptions(servers=(url,))) as connection:
        store = JetStreamEventStore(connection, subjects)
        capture = JetStreamCaptureStore(connection, subjects)
        histories = Histories(store, clock=clock)
        beats = JetStreamBeats(connection, subjects)
        facts = Facts(store, capture, beats, clock, beat_interval_s=0.2)
        async with Compressor(workers=2, budget=ByteBudget(1 << 28)) as compressor:
            yield Worker(
                connection=connection,
                subjects=subjects,
                clock=clock,
                store=store,
                capture=capture,
                blobs=JetStreamBlobStore(connection, subjects.chunks_bucket),
                timers=JetStreamTimers(connection, subjects),
                letters=JetStreamLetters(connection, subjects),
                histories=histories,
                commands=CommandHandler(histories, store, facts, clock),
                compressor=compressor,
            )


async def deploy(url: str, subjects: Subjects) -> None:
    """Create streams and consumers as defined."""
    async with connect(NatsOptions(servers=(url,))) as connection:
        for definition in load(subjects, TopologySettings()):
            if definition.kind == "stream":
                await connection.api(f"STREAM.CREATE.{definition.name}", definition.config)
            else:
                stream = definition.stream
                body = {"stream_name": stream, "config": definition.config}
                await connection.api(f"CONSUMER.DURABLE.CREATE.{stream}.{definition.name}", body)


@asynccontextmanager
async def running(runners: Sequence[Runner]) -> AsyncIterator[None]:
    """Run until the block ends; the runners then stop in order."""
    async with asyncio.TaskGroup() as tasks:
        for runner in runners:
            tasks.create_task(runner.run())
        yield
        for runner in runners:
            runner.stop()


async def until(worker: Worker, condition: Callable[[Session], bool]) -> Session:
    """Return the session once it fulfils `condition`."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition(session := await worker.state()):  # noqa: ASYNC110 # asks the server
            await asyncio.sleep(POLL_S)
        return session


def test_a_recording_ends_complete_although_the_server_is_killed(server: NatsServer) -> None:
    """Two workers, a server killed in between: every chunk ready once, its bytes intact, a manifest."""
    subjects = Subjects("kill")
    data = [bytes([n]) * 1_000_000 + hashlib.sha256(bytes([n])).digest() * 30_000 for n in range(6)]

    async def scenario() -> None:
        await deploy(server.url, subjects)
        async with worker(server.url, subjects) as one, worker(server.url, subjects) as two:
            await one.ask(cmd.Create(), cmd.Start(), cmd.Attach(recorder="r"))
            offset = 0
            for n, chunk in enumerate(data):
                await one.record(n, offset, chunk)
                offset += len(chunk)
            await one.ask(cmd.Stop(), cmd.Drained(epoch=1, offset=offset), cmd.Detach(epoch=1, offset=offset))
            runners = [
                await one.runner(one.chunks()),
                await two.runner(two.chunks()),
                await one.runner(Finaliser(one.histories)),
            ]
            async with running(runners):
                await until(two, lambda session: session.ready_chunks >= 1)
                await asyncio.to_thread(server.kill)
                await asyncio.to_thread(server.start)
                stopped = await until(two, lambda session: session.state is State.STOPPED)
            assert stopped.manifest is not None
            assert (stopped.manifest.chunks, stopped.manifest.raw_bytes) == (6, offset)
            ready = {}
            async for recorded in one.store.read(SID):
                if isinstance(recorded, Recorded) and isinstance(recorded.event, ev.ChunkReady):
                    assert recorded.event.index not in ready
                    ready[recorded.event.index] = recorded.event
            for index, event in ready.items():
                stored = await one.blobs.get(event.object)
                assert bytes(decompress(event.codec, stored, size=event.size)) == data[index]
            assert [await one.capture.count(SID, epoch=1, n=n) for n in range(6)] == [0] * 6
            assert sum(runner.progress.parked for runner in runners) == 0

    asyncio.run(scenario())


def test_deadlines_fire_from_the_servers_schedules(shared_server: NatsServer) -> None:
    """A session nobody attaches to fails with `start_timeout`; a recorder that falls silent is lost."""
    subjects = Subjects("deadlines")
    timeouts = Timeouts(start_s=1.0, lease_s=1.0)

    async def scenario() -> None:
        await deploy(shared_server.url, subjects)
        async with worker(shared_server.url, subjects) as one:
            beats = JetStreamBeats(one.connection, subjects)
            due = DueTimers(
                one.histories,
                one.timers,
                one.capture,
                beats,
                one.clock,
                subjects,
                timeouts,
                Periods(one.timers, one.clock, Retention(), grace_days=7),
                beat_interval_s=0.2,
            )
            runners = [
                await one.runner(Deadlines(one.timers, timeouts)),
                await one.runner(due, stream=subjects.timers_stream),
            ]
            async with running(runners):
                await one.ask(cmd.Create(), cmd.Start())
                failed = await until(one, lambda session: session.state is State.ERROR)
                assert failed.error_code == "start_timeout"
                await one.ask(cmd.Recover(), cmd.Start(), cmd.Attach(recorder="r"))
                lost = await until(one, lambda session: session.state is State.ERROR)
                assert lost.error_code == "recorder_lost"

    asyncio.run(scenario())


def test_cleanup_leaves_no_object_and_no_byte(shared_server: NatsServer) -> None:
    """A stored session cleaned up is destroyed; bucket and capture hold nothing of it."""
    subjects = Subjects("cleanup")

    async def scenario() -> None:
        await deploy(shared_server.url, subjects)
        async with worker(shared_server.url, subjects) as one:
            await one.ask(cmd.Create(), cmd.Start(), cmd.Attach(recorder="r"))
            await one.record(0, 0, b"x" * 100_000)
            runners = [
                await one.runner(one.chunks()),
                await one.runner(Eraser(one.histories, one.store, one.capture, one.blobs, one.clock)),
            ]
            async with running(runners):
                await until(one, lambda session: session.ready_chunks == 1)
                await one.ask(cmd.Fail(), cmd.Cleanup())
                await until(one, lambda session: session.state is State.DESTROYED)
            assert [info async for info in one.blobs.names()] == []

    asyncio.run(scenario())


class _Refuses:
    name = "chunks"

    async def handle(self, message: Message) -> Outcome:
        return Park("poison", "a test says so")

    def lane(self, message: Message) -> str | None:
        return None

    def cost_bytes(self, message: Message) -> int:
        return 0


def test_what_is_set_aside_can_be_redriven(shared_server: NatsServer) -> None:
    """A parked message is listed, redriven through the real handler, and its letter goes."""
    subjects = Subjects("letters")

    async def scenario() -> None:
        await deploy(shared_server.url, subjects)
        async with worker(shared_server.url, subjects) as one:
            await one.ask(cmd.Create(), cmd.Start(), cmd.Attach(recorder="r"))
            await one.record(0, 0, b"x" * 100_000)
            runner = await one.runner(_Refuses())
            async with running([runner]), asyncio.timeout(PATIENCE_S):
                while not runner.progress.parked:  # noqa: ASYNC110 # a counter wakes nobody
                    await asyncio.sleep(POLL_S)
            dead = JetStreamDeadLetterStore(one.connection, subjects)
            letters = DeadLetters(dead, {"chunks": Execution(one.chunks(), one.commands)})
            (letter,) = [found async for found in letters.list("chunks")]
            assert [found async for found in letters.list()] == [letter]
            assert (letter.pointer.code, letter.pointer.stream) == ("poison", subjects.events_stream)
            assert isinstance(await letters.redrive(letter.sequence), Done)
            assert (await one.state()).ready_chunks == 1
            assert [found async for found in letters.list()] == []
            assert (await (await one.runner(one.chunks())).lag()).events_behind == 0

    asyncio.run(scenario())
