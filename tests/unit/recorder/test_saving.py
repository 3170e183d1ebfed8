"""What a recording leaves when it breaks off: every byte it read is stored, or in the spool, or told."""

import asyncio
import errno
import os
from pathlib import Path

import pytest
from msgspec.structs import replace

from lucid_events.clock import SystemClock
from lucid_events.domain import commands as cmd
from lucid_events.domain import events as ev
from lucid_events.errors import ConfigError, StoreUnavailable
from lucid_events.memory import MemoryServer
from lucid_events.recorder import Spool
from lucid_events.recorder.intake import Intake, Missing, Step
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
