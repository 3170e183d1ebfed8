"""A service in memory for a recorder to talk to: the real rules over memory ports, storing by hashing."""

import asyncio
import contextlib
import hashlib
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence

from lucid_events import codec
from lucid_events.client import Commands
from lucid_events.clock import SystemClock
from lucid_events.domain import commands as cmd
from lucid_events.domain import events as ev
from lucid_events.domain.chunks import assemble
from lucid_events.domain.envelope import Recorded
from lucid_events.domain.ids import CommandId, SessionId
from lucid_events.domain.replies import Accepted, BeatReply
from lucid_events.domain.state import ready_below
from lucid_events.domain.transitions import State
from lucid_events.domain.values import Quality, SettingsAsked
from lucid_events.errors import ConfigError, LucidError
from lucid_events.handlers.commands import CommandHandler
from lucid_events.handlers.facts import Facts
from lucid_events.handlers.histories import Histories
from lucid_events.handlers.requests import RequestReader, failure_of
from lucid_events.memory import (
    MemoryBeats,
    MemoryCaptureStore,
    MemoryCommandBus,
    MemoryCommandServer,
    MemoryEventStore,
    MemoryLiveFeed,
    MemoryServer,
)
from lucid_events.recorder import RecorderOptions, Recording, Source, Spool, Totals
from lucid_events.recorder.options import Acked, Checkpoint, ignore_acked, no_checkpoint

SID = SessionId("s1")
BEAT_S = 0.05
PATIENCE_S = 10.0

FAST = RecorderOptions(
    recorder="r1",
    flush_interval_s=0.02,
    beat_interval_s=BEAT_S,
    slow_after_s=0.02,
    spool_after_s=0.05,
    pressure_cut_after_s=0.02,
    retry_first_s=0.005,
    retry_most_s=0.02,
    finish_timeout_s=PATIENCE_S,
    attach_timeout_s=5.0,
)


class Bytes:
    """A source that gives the blocks it is handed, and ends, or waits for more, as told."""

    content_type = "application/octet-stream"
    exit_code: int | None = None

    def __init__(self, blocks: Sequence[bytes] = (), *, ends: bool = True, resumable: bool = False) -> None:
        self.name, self.resumable = "bytes", resumable
        self._queue: asyncio.Queue[bytes] = asyncio.Queue()
        self._all = b"".join(blocks)
        self._blocks = list(blocks)
        self._ends = ends
        self.log: list[str] = []
        self.reads = 0

    async def start(self) -> None:
        for block in self._blocks:
            self._queue.put_nowait(block)
        if self._ends:
            self._queue.put_nowait(b"")

    async def read(self) -> bytes:
        block = await self._queue.get()
        self.reads += 1
        if not block:
            self._queue.put_nowait(b"")
        return block

    def give(self, block: bytes) -> None:
        self._queue.put_nowait(block)

    async def seek(self, offset: int) -> None:
        if self.resumable:
            if offset > len(self._all):
                raise ConfigError("the file is shorter than that")
            self._blocks = [self._all[offset:]] if offset < len(self._all) else []

    async def pause(self) -> None:
        self.log.append("pause")

    async def resume(self) -> None:
        self.log.append("resume")

    async def stop(self) -> None:
        self.log.append("stop")
        self.give(b"")

    async def close(self) -> None:
        self.log.append("close")


class Service:
    """Commands, beats and chunks of every session on one `MemoryServer`."""

    def __init__(self, server: MemoryServer | None = None, *, beat_s: float = BEAT_S) -> None:
        self.server = server or MemoryServer()
        self.clock = SystemClock()
        self.subjects = self.server.subjects
        self.store = MemoryEventStore(self.server)
        self.capture = MemoryCaptureStore(self.server)
        self.live = MemoryLiveFeed(self.server)
        self.bus = MemoryCommandBus(self.server)
        self.histories = Histories(self.store, clock=self.clock)
        beats = MemoryBeats(self.server)
        facts = Facts(self.store, self.capture, beats, self.clock, beat_interval_s=beat_s)
        self.handler = CommandHandler(self.histories, self.store, facts, self.clock)
        self._reader = RequestReader(self.subjects)
        self.storing = asyncio.Event()
        self.storing.set()
        self.stored: dict[int, bytes] = {}
        self.tamper = False

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Service"]:
        endpoints = {
            "commands": (self.subjects.all_commands, self._command),
            "beats": (self.subjects.all_beats, self._beat),
        }
        async with MemoryCommandServer(self.server).serve("lucid", endpoints):
            reacting = asyncio.create_task(self._react())
            try:
                yield self
            finally:
                reacting.cancel()
                await asyncio.gather(reacting, return_exceptions=True)

    def commands(self, actor: str = "test") -> Commands:
        return Commands(self.bus, self.subjects, self.clock, actor=actor, timeout_s=2.0)

    def recording(
        self,
        source: Source,
        *,
        options: RecorderOptions = FAST,
        chunk_bytes: int = 4096,
        chunk_seconds: float = 300.0,
        spool: Spool | None = None,
        history: bool = True,
        on_acked: Acked = ignore_acked,
        checkpoint: Checkpoint = no_checkpoint,
    ) -> Recording:
        settings = SettingsAsked(chunk_bytes=chunk_bytes, chunk_seconds=chunk_seconds)
        return Recording(
            SID,
            source,
            commands=self.commands(options.recorder),
            capture=self.capture,
            live=self.live,
            clock=self.clock,
            subjects=self.subjects,
            history=self.store if history else None,
            create=cmd.Create(settings=settings),
            options=options,
            spool=spool,
            on_acked=on_acked,
            checkpoint=checkpoint,
        )

    async def ask(self, command: cmd.SessionCommand) -> Accepted:
        return await self.commands("operator").send(SID, command)

    async def events(self) -> list[ev.SessionEvent]:
        found = [message async for message in self.store.read(SID)]
        return [message.event for message in found if isinstance(message, Recorded)]

    async def state(self) -> State | None:
        return (await self.histories.refresh(SID)).state.state

    async def until(self, state: State) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while await self.state() is not state:  # noqa: ASYNC110 - a condition of another task's data
                await asyncio.sleep(0.002)

    async def settled(self, chunks: int) -> None:
        """Return once so many chunks are ready."""
        async with asyncio.timeout(PATIENCE_S):
            while sum(isinstance(e, ev.ChunkReady) for e in await self.events()) < chunks:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.002)

    async def sealed(self) -> list[ev.ChunkSealed]:
        return [event for event in await self.events() if isinstance(event, ev.ChunkSealed)]

    def played(self) -> bytes:
        return b"".join(self.stored[index] for index in sorted(self.stored))

    async def _command(self, subject: str, headers: Mapping[str, str], body: bytes) -> bytes:
        try:
            request = self._reader.read(
                subject, headers, body, now=self.clock.now(), id=CommandId(str(uuid.uuid4()))
            )
            return codec.encode(await self.handler.handle(request))
        except LucidError as exc:
            return codec.encode(failure_of(exc))

    async def _beat(self, subject: str, headers: Mapping[str, str], body: bytes) -> bytes:
        *_, session, epoch = subject.split(".")
        history = await self.histories.refresh(SessionId(session))
        lease = history.state.lease
        return codec.encode(
            BeatReply(
                state=str(history.state.state),
                epoch=history.state.epoch,
                attached=lease is not None and lease.epoch == int(epoch),
                offset=history.state.offset,
                version=history.version,
                ready=ready_below(history.state),
            )
        )

    async def _react(self) -> None:
        while True:
            await self.storing.wait()
            with contextlib.suppress(LucidError):
                await self._look()
            await asyncio.sleep(0.001)

    async def _look(self) -> None:
        history = await self.histories.refresh(SID)
        for index, sealed in list(history.state.pending.items()):
            if not self.storing.is_set():
                break
            await self._store(index, sealed)
        state = (await self.histories.refresh(SID)).state
        if state.state is State.STOPPING and state.lease is None and not state.pending:
            await self._internal(cmd.Finish(), f"finish {history.version}")

    async def _store(self, index: int, sealed: ev.ChunkSealed) -> None:
        pieces = [
            piece
            async for piece in self.capture.read(
                SID, epoch=sealed.epoch, n=sealed.n, first_seq=sealed.first_seq, last_seq=sealed.last_seq
            )
        ]
        assembled = assemble(pieces, sealed.offset, sealed.size)
        data = assembled.data
        good = not assembled.missing and hashlib.sha256(data).hexdigest() == sealed.sha256 and not self.tamper
        if not good:
            await self._internal(
                cmd.ChunkRefused(index=index, code="mismatch", reason="test"), f"bad {index}"
            )
            return
        self.stored[index] = data
        stored = cmd.ChunkStored(
            index=index,
            offset=sealed.offset,
            size=sealed.size,
            stored_size=sealed.size,
            sha256=sealed.sha256,
            stored_sha256=sealed.sha256,
            codec="store",
            level=None,
            ratio=1.0,
            quality=Quality(score=1.0, complete=1.0),
            hash_by="salvage" if sealed.recovered else "recorder",
            bucket="b",
            object=f"o{index}",
        )
        await self._internal(stored, f"store {index}")
        await self.capture.purge(SID, epoch=sealed.epoch, n=sealed.n, upto_seq=sealed.last_seq)

    async def _internal(self, command: cmd.InternalCommand, cause: str) -> None:
        with contextlib.suppress(LucidError):
            await self.handler.append_internal(SID, command, cause=cause, reaction="test")


async def finished(recording: Recording) -> Totals:
    """Run a recording that is expected to end by itself."""
    async with asyncio.timeout(PATIENCE_S):
        return await recording.run()


async def eventually(condition: object) -> None:
    """Return once `condition()` holds; fail when it never does."""
    assert callable(condition)
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - a condition of another task's data
            await asyncio.sleep(0.002)
