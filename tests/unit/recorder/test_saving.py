"""What a recording leaves when it breaks off: every byte it read is stored, or in the spool, or told."""

import asyncio
import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from lucid_events.client import Commands
from lucid_events.clock import SystemClock
from lucid_events.domain import commands as cmd
from lucid_events.domain import events as ev
from lucid_events.domain.ids import CommandId, SessionId
from lucid_events.domain.replies import Accepted
from lucid_events.errors import ConfigError, StoreUnavailable
from lucid_events.memory import MemoryServer
from lucid_events.recorder import Spool
from lucid_events.recorder.intake import Held, Intake, Missing, Step
from lucid_events.recorder.sources.descriptors import read_ready
from lucid_events.recorder.spool_frames import HEAD_BYTES, MAGIC
from lucid_events.recorder.writer import CaptureWriter
from tests.unit.recorder.rig import FAST, SID, Bytes, Service, eventually, finished

MUCH = 1 << 30


def _left(folder: Path) -> bytes:
    """The bytes in the spool of the session, which nobody has open any more."""
    spool, data, at = Spool(folder, SID, max_bytes=MUCH), b"", 0
    while at < spool.end:
        frame = spool.read(at)
        assert frame.data is not None
        data, at = data + frame.data, frame.end
    spool.close()
    return data


def test_what_is_being_hashed_is_saved_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A piece between the cutter and its message is held: a recording that is cancelled there leaves it."""
    data = os.urandom(3000)
    hashing = asyncio.Event()

    async def never(*_: object) -> str:
        hashing.set()
        await asyncio.Event().wait()
        return ""

    async def scenario() -> None:
        async with Service().running() as service:
            monkeypatch.setattr(CaptureWriter, "_hash", never)
            spool = Spool(tmp_path, SID, max_bytes=MUCH)
            recording = service.recording(Bytes([data], ends=False), spool=spool)
            running = asyncio.create_task(finished(recording))
            await hashing.wait()
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    asyncio.run(scenario())
    assert _left(tmp_path) == data


class Stuck(Bytes):
    """A source that can't be closed."""

    async def close(self) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_source_that_can_not_be_closed_costs_no_bytes(tmp_path: Path) -> None:
    """What is not stored is in the spool, and the spool is free, before anything else is tidied up."""

    async def scenario() -> None:
        async with Service(MemoryServer(max_payload=4096)).running() as service:
            service.server.faults.fail_next("capture", StoreUnavailable("away"), times=100_000)
            source = Stuck([b"x" * 5000], ends=False)
            recording = service.recording(source, spool=Spool(tmp_path, SID, max_bytes=MUCH))
            running = asyncio.create_task(finished(recording))
            await eventually(lambda: recording.taken_upto == 5000)
            running.cancel()
            with pytest.raises(OSError, match="No space left"):
                await running

    asyncio.run(scenario())
    assert _left(tmp_path) == b"x" * 5000


def test_bytes_without_a_spool_are_told_lost(caplog: pytest.LogCaptureFixture) -> None:
    """Read, not stored, and nowhere to keep them: an error names how many."""

    async def scenario() -> None:
        async with Service().running() as service:
            service.server.faults.fail_next("capture", StoreUnavailable("away"), times=100_000)
            recording = service.recording(Bytes([b"x" * 5000], ends=False))
            running = asyncio.create_task(finished(recording))
            await eventually(lambda: recording.taken_upto == 5000)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    asyncio.run(scenario())
    (told,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert (getattr(told, "offset", None), getattr(told, "bytes", None)) == (0, 5000)


def test_bytes_that_a_full_spool_refuses_are_told_lost(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What fits is kept, the error begins behind it and counts the block that was read and not put yet."""

    async def scenario() -> None:
        async with Service(MemoryServer(max_payload=4096)).running() as service:
            service.server.faults.fail_next("capture", StoreUnavailable("away"), times=100_000)
            options = replace(FAST, read_ahead_bytes=1000, window_bytes=1000, spool_after_s=60.0)
            source = Bytes([b"x" * 1000], ends=False)
            spool = Spool(tmp_path, SID, max_bytes=1100)
            recording = service.recording(source, options=options, spool=spool)
            running = asyncio.create_task(finished(recording))
            await eventually(lambda: recording.taken_upto == 1000)
            assert spool.append(0, b"x" * 1000)
            for _ in range(9):
                source.give(b"x" * 1000)
            await eventually(lambda: recording.step == "blocking")
            assert recording.taken_upto == (source.reads - 1) * 1000
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            (told,) = [record for record in caplog.records if record.levelname == "ERROR"]
            lost = (getattr(told, "offset", None), getattr(told, "bytes", None))
            assert recording.read_upto == source.reads * 1000
            assert lost == (recording.kept_upto, recording.read_upto - recording.kept_upto)

    asyncio.run(scenario())
    assert _left(tmp_path) == b"x" * (1100 - len(MAGIC) - 2 * HEAD_BYTES)


def _gapped(spool: Spool, *, held: Held = lambda: (), stalled_s: Callable[[], float] = lambda: 0.0) -> Intake:
    """An intake of 100 bytes a block, memory for one, that drops what there is no room for."""
    return Intake(
        start=0,
        end=0,
        options=replace(FAST, read_ahead_bytes=100, spool_after_s=60.0, gap_after_s=0.0),
        clock=SystemClock(),
        spool=spool,
        stalled_s=stalled_s,
        held=held,
        arrived=lambda: None,
        on_step=lambda step, reason: None,
    )


def test_a_gap_is_saved_between_the_bytes_around_it(tmp_path: Path) -> None:
    """The spool of a recording that had dropped bytes can be read to its end: it has no hole there."""

    async def scenario() -> None:
        spool = Spool(tmp_path, SID, max_bytes=MUCH)
        intake = _gapped(spool)
        await intake.put(b"a" * 100)
        await intake.put(b"b" * 100)
        intake.in_hand = b"c" * 100
        assert intake.save() == intake.read_upto == 300
        assert spool.covers(0)
        assert [spool.read(at).data for at in (0, 100, 200)] == [b"a" * 100, None, b"c" * 100]
        spool.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("saved", [True, False])
def test_a_gap_that_grows_while_it_spools_leaves_no_hole(tmp_path: Path, saved: bool) -> None:
    """What goes on on disk goes on behind the gap, although more was dropped since it was written down."""

    async def scenario() -> None:
        full = len(MAGIC) + 2 * HEAD_BYTES + 100
        spool, still_s = Spool(tmp_path, SID, max_bytes=full), [0.0]
        intake = _gapped(spool, stalled_s=lambda: still_s[0])
        await intake.put(b"a" * 100)
        await intake.put(b"b" * 100)
        still_s[0] = 60.0
        await intake.put(b"c" * 400)
        assert (intake.step, spool.end) == ("spooling", 200)
        if saved:
            assert (intake.save(), spool.end) == (600, 600)
        spool.max_bytes = MUCH
        await intake.put(b"d" * 50)
        assert spool.covers(0)
        assert [spool.read(at).data for at in (0, 100, 200, 600)] == [b"a" * 100, None, None, b"d" * 50]
        assert [await intake.take() for _ in range(4)] == [b"a" * 100, Missing(100, 600), b"d" * 50, None]
        spool.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("hashing", [True, False])
def test_a_gap_that_is_not_declared_is_saved_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hashing: bool
) -> None:
    """Wherever a gap is between the intake and the history: the spool has it in its place."""
    hashed = asyncio.Event()

    async def never(*_: object) -> str:
        hashed.set()
        await asyncio.Event().wait()
        return ""

    async def scenario() -> None:
        async with Service(MemoryServer(max_payload=4096)).running() as service:
            service.server.faults.fail_next("capture", StoreUnavailable("away"), times=100_000)
            if hashing:
                monkeypatch.setattr(CaptureWriter, "_hash", never)
            spool = Spool(tmp_path, SID, max_bytes=MUCH)
            options = replace(FAST, flush_interval_s=60.0, spool_after_s=60.0, retry_most_s=0.005)
            recording = service.recording(Bytes([b"a" * 100], ends=False), options=options, spool=spool)
            running = asyncio.create_task(finished(recording))
            await eventually(lambda: recording.taken_upto == 100)
            intake = recording._intake
            assert intake is not None
            intake.in_hand = b"b" * 100
            intake._drop()
            intake._arrived()
            await eventually(lambda: intake.position == 200 and (hashed.is_set() or not hashing))
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    asyncio.run(scenario())
    spool = Spool(tmp_path, SID, max_bytes=MUCH)
    assert spool.covers(0)
    assert [spool.read(at).data for at in (0, 100)] == [b"a" * 100, None]
    spool.close()


def test_nothing_is_saved_behind_what_was_refused(tmp_path: Path) -> None:
    """What fits is kept without a hole, so that the next recorder can read all of it."""

    async def scenario() -> None:
        spool = Spool(tmp_path, SID, max_bytes=len(MAGIC) + HEAD_BYTES + 50)
        assert spool.append(0, b"a" * 50)
        intake = _gapped(spool)
        await intake.put(b"a" * 100)
        await intake.put(b"b" * 100)
        assert (intake.save(), intake.read_upto) == (50, 200)
        assert spool.covers(0)
        spool.close()

    asyncio.run(scenario())


def test_a_gap_behind_a_full_spool_ends_the_spooling(tmp_path: Path) -> None:
    """Once all of a spool and the gap behind it are taken there is nothing to read there."""

    async def scenario() -> None:
        steps: list[Step] = []
        block = b"x" * 100
        spool = Spool(tmp_path, SID, max_bytes=len(MAGIC) + HEAD_BYTES + len(block))
        intake = Intake(
            start=0,
            end=0,
            options=replace(FAST, read_ahead_bytes=100, spool_after_s=0.0, gap_after_s=0.0),
            clock=SystemClock(),
            spool=spool,
            stalled_s=lambda: 1.0,
            held=lambda: (),
            arrived=lambda: None,
            on_step=lambda step, reason: steps.append(step),
        )
        await intake.put(block)
        await intake.put(block)
        assert await intake.take() == block
        assert await intake.take() == Missing(100, 200)
        assert steps == ["spooling", "flowing"]
        assert await intake.take() is None
        await intake.put(b"on")
        assert await intake.take() == b"on"
        spool.close()

    asyncio.run(scenario())


def test_a_failing_device_is_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """An input/output error ends what a terminal says; of anything else it is an error."""

    def fail(fd: int, limit: int) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    async def scenario() -> None:
        out, into = os.pipe()
        os.write(into, b"abc")
        with monkeypatch.context() as patch:
            patch.setattr(os, "read", fail)
            assert await read_ready(out, terminal=True) == b""
            with pytest.raises(OSError, match="Input/output error"):
                await read_ready(out)
        os.close(out)
        os.close(into)

    asyncio.run(scenario())


class FailsAtTheEnd(Bytes):
    """A source that can't be read any more once it was told to stop."""

    async def read(self) -> bytes:
        if "stop" in self.log:
            raise OSError(errno.EIO, "Input/output error")
        return await super().read()


def test_a_source_that_fails_while_it_stops_is_told_in_the_history() -> None:
    """What it gave is sealed, and the session is in error with the reason, as when it fails before."""

    async def scenario() -> None:
        async with Service().running() as service:
            recording = service.recording(FailsAtTheEnd([b"x" * 5000], ends=False))
            running = asyncio.create_task(finished(recording))
            await eventually(lambda: recording.acked_upto == 5000)
            await service.ask(cmd.Stop())
            with pytest.raises(ConfigError, match="Input/output error; bytes up to 5000 are sealed"):
                await running
            (failed,) = [e for e in await service.events() if isinstance(e, ev.SessionFailed)]
            assert failed.code == "source_failed"

    asyncio.run(scenario())


class Unanswered(Commands):
    """Leaves what a recorder tells of pressure unanswered until `answers` is set."""

    asked = answered = 0
    answers: asyncio.Event

    async def send(
        self,
        session: SessionId,
        command: cmd.SessionCommand,
        *,
        id: CommandId | None = None,
        if_version: int | None = None,
        give_up_after_s: float = 60.0,
    ) -> Accepted:
        if isinstance(command, cmd.Slow):
            self.asked += 1
            await self.answers.wait()
        accepted = await super().send(
            session, command, id=id, if_version=if_version, give_up_after_s=give_up_after_s
        )
        self.answered += isinstance(command, cmd.Slow)
        return accepted


class Slowly(Service):
    """A service that is slow to hear of pressure."""

    def __init__(self) -> None:
        super().__init__()
        self.recorder = Unanswered(self.bus, self.subjects, self.clock, actor="r1", timeout_s=2.0)
        self.recorder.answers = asyncio.Event()

    def commands(self, actor: str = "test") -> Commands:
        return self.recorder if actor == "r1" else super().commands(actor)


def test_no_step_is_skipped_that_there_was_room_for() -> None:
    """What changes while one step is being told is told too: as many steps as may wait."""

    async def scenario() -> None:
        service = Slowly()
        async with service.running():
            recording = service.recording(Bytes(ends=False))
            running = asyncio.create_task(finished(recording))
            await eventually(lambda: recording.opened)
            steps: list[Step] = ["blocking", "flowing"] * 8
            recording._pressure.stepped("spooling", "first")
            await eventually(lambda: service.recorder.asked)
            for n, step in enumerate(steps):
                recording._pressure.stepped(step, str(n))
            service.recorder.answers.set()
            await eventually(lambda: service.recorder.answered == 17)
            recording.stop()
            await running
            told = [e.reason for e in await service.events() if isinstance(e, ev.RecorderSlowed)]
            assert told == ["first", *map(str, range(16))]

    asyncio.run(scenario())
