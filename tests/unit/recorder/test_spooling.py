"""A recording through its spool: an outage, a kill, a limit."""

import asyncio
import random
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from lucid_events.clock import SystemClock
from lucid_events.domain import events as ev
from lucid_events.errors import StoreUnavailable
from lucid_events.memory import MemoryServer
from lucid_events.recorder import NoSource, Spool
from lucid_events.recorder.intake import Intake
from tests.unit.recorder.rig import FAST, SID, Bytes, Service, eventually, finished
from tests.unit.recorder.spools import Disk, contents, spool


def test_an_outage_goes_through_the_spool(tmp_path: Path, rng: random.Random) -> None:
    """While the server is away the source is read into the spool; on return all is stored, in order."""
    data = rng.randbytes(300_000)

    async def scenario() -> None:
        async with Service(MemoryServer(max_payload=4096)).running() as service:
            held = spool(tmp_path)
            service.server.faults.fail_next("capture", StoreUnavailable("away"), times=100_000)
            blocks = [data[i : i + 3000] for i in range(0, len(data), 3000)]
            source = Bytes(blocks)
            options = replace(FAST, read_ahead_bytes=8192, window_bytes=8192)
            recording = service.recording(source, options=options, spool=held, chunk_bytes=32_768)
            running = asyncio.create_task(finished(recording))
            await eventually(lambda: source.reads == len(blocks) + 1)
            assert recording.step == "spooling"
            assert held.end == len(data)
            service.server.faults.fail_next("capture", times=0)
            service.server.faults._ordered["capture"].clear()
            await running
            assert service.played() == data
            steps = [e.step for e in await service.events() if isinstance(e, ev.RecorderSlowed)]
            assert steps[-2:] == ["spooling", "flowing"]

    asyncio.run(scenario())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("always", [True, False])
def test_a_killed_recorder_leaves_its_bytes_to_the_next(
    tmp_path: Path, rng: random.Random, always: bool
) -> None:
    """What a recorder could not send is drained by the next one on the same spool, exactly once."""
    data = rng.randbytes(100_000)

    async def scenario() -> None:
        async with Service(MemoryServer(max_payload=4096)).running() as service:
            service.server.faults.fail_next("capture", StoreUnavailable("away"), times=100_000, skip=10)
            source = Bytes([data[i : i + 3000] for i in range(0, len(data), 3000)], ends=False)
            options = replace(FAST, read_ahead_bytes=8192, window_bytes=8192)
            held = spool(tmp_path / "killed", always=always)
            recording = service.recording(source, options=options, spool=held, chunk_bytes=32_768)
            running = asyncio.create_task(finished(recording))
            await eventually(lambda: held.end == len(data))
            # The disk as a kill at this moment leaves it: nothing is tidied up any more.
            await asyncio.to_thread(shutil.copytree, tmp_path / "killed", tmp_path / "left")
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            service.server.faults._ordered["capture"].clear()
            totals = await finished(
                service.recording(NoSource(), spool=spool(tmp_path / "left"), chunk_bytes=32_768)
            )
            assert service.played() == data
            assert totals.start_offset > 0
            assert totals.bytes == 0

    asyncio.run(scenario())


def test_a_pipe_goes_on_behind_a_spool_that_covers_it(tmp_path: Path) -> None:
    """Bytes of the earlier recorder come out of the spool, then those of the new pipe: no gap between."""

    async def scenario() -> None:
        async with Service().running() as service:
            first = Bytes([b"first "], ends=False)
            recording = service.recording(first, spool=spool(tmp_path, always=True))
            service.server.faults.fail_next("capture", StoreUnavailable("away"), times=100_000)
            running = asyncio.create_task(finished(recording))
            await eventually(lambda: first.reads == 1)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            service.server.faults._ordered["capture"].clear()
            await finished(service.recording(Bytes([b"second"]), spool=spool(tmp_path)))
            assert service.played() == b"first second"

    asyncio.run(scenario())


def test_a_gap_is_declared_only_when_allowed(tmp_path: Path, rng: random.Random) -> None:
    """With the policy set, bytes beyond memory and spool are dropped, declared, and the rest is intact."""
    data = rng.randbytes(200_000)

    async def scenario() -> None:
        async with Service(MemoryServer(max_payload=4096)).running() as service:
            service.server.faults.fail_next("capture", StoreUnavailable("away"), times=100_000)
            blocks = [data[i : i + 1000] for i in range(0, len(data), 1000)]
            source = Bytes(blocks, ends=False)
            options = replace(FAST, read_ahead_bytes=8192, window_bytes=8192, gap_after_s=0.05)
            recording = service.recording(source, options=options)
            running = asyncio.create_task(finished(recording))
            await eventually(lambda: source.reads == len(blocks))
            service.server.faults._ordered["capture"].clear()
            await eventually(lambda: recording.acked_upto == len(data))
            source.give(b"the end")
            source.give(b"")
            totals = await running
            assert totals.gaps == 1
            gaps = [e for e in await service.events() if isinstance(e, ev.GapDeclared)]
            sealed = await service.sealed()
            played = {s.offset: service.stored[s.index] for s in sealed}
            whole = data + b"the end"
            assert all(whole[offset : offset + len(part)] == part for offset, part in played.items())
            assert sum(map(len, played.values())) + gaps[0].end - gaps[0].start == len(whole)

    asyncio.run(scenario())


def test_the_last_burst_is_synced_without_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes spooled just before the source falls silent are on the disk after the interval, once."""
    monkeypatch.setattr("lucid_events.recorder.spool.FSYNC_INTERVAL_S", 0.1)

    async def scenario() -> None:
        async with Service(MemoryServer(max_payload=4096)).running() as service:
            service.server.faults.fail_next("capture", StoreUnavailable("away"), times=100_000)
            source = Bytes([b"x" * 1000] * 30, ends=False)
            held = spool(tmp_path, fsync="interval")
            disk = Disk(monkeypatch)
            options = replace(FAST, read_ahead_bytes=8192, window_bytes=8192)
            recording = service.recording(source, options=options, spool=held)
            running = asyncio.create_task(finished(recording))
            await eventually(lambda: held.end == 30_000)
            await eventually(lambda: held.stored_bytes in disk.size_synced.values())
            assert not running.done()  # which syncs too, in the end
            assert held.sync_due_s is None
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    asyncio.run(scenario())


def test_a_full_spool_takes_what_fits_and_holds_the_source_back(tmp_path: Path, rng: random.Random) -> None:
    """Of a batch beyond the limit the beginning is spooled; the rest waits, is told, and is stored later."""
    data = rng.randbytes(200_000)
    limit = 50_000

    async def scenario() -> None:
        async with Service(MemoryServer(max_payload=4096)).running() as service:
            service.server.faults.fail_next("capture", StoreUnavailable("away"), times=100_000)
            source = Bytes([data[i : i + 6000] for i in range(0, len(data), 6000)])
            held = spool(tmp_path, max_bytes=limit, segment_bytes=10_000)
            options = replace(FAST, read_ahead_bytes=8192, window_bytes=8192)
            recording = service.recording(source, options=options, spool=held)
            running = asyncio.create_task(finished(recording))
            await eventually(lambda: recording.step == "blocking" and held.stored_bytes == limit)
            assert held.covers(0)
            assert held.end == recording.taken_upto < recording.read_upto == source.reads * 6000
            service.server.faults._ordered["capture"].clear()
            await running
            assert service.played() == data
            steps = [e.step for e in await service.events() if isinstance(e, ev.RecorderSlowed)]
            assert "blocking" in steps[steps.index("spooling") :]
            assert steps[-1] == "flowing"

    asyncio.run(scenario())
    assert list(tmp_path.iterdir()) == []


def test_a_recorder_killed_at_the_limit_leaves_what_fits(tmp_path: Path, rng: random.Random) -> None:
    """Cut off with a full spool, a recording says where it ends, and the next one sends it up to there."""
    data = rng.randbytes(90_000)
    limit = 50_000

    async def scenario() -> None:
        async with Service(MemoryServer(max_payload=4096)).running() as service:
            service.server.faults.fail_next("capture", StoreUnavailable("away"), times=100_000)
            source = Bytes([data[i : i + 6000] for i in range(0, len(data), 6000)], ends=False)
            options = replace(FAST, read_ahead_bytes=8192, window_bytes=8192)
            held = spool(tmp_path, max_bytes=limit)
            recording = service.recording(source, options=options, spool=held)
            running = asyncio.create_task(finished(recording))
            await eventually(lambda: recording.step == "blocking" and held.stored_bytes == limit)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            kept = recording.kept_upto
            assert kept == held.end < recording.read_upto == source.reads * 6000
            service.server.faults._ordered["capture"].clear()
            await finished(service.recording(NoSource(), spool=spool(tmp_path)))
            assert service.played() == data[:kept]

    asyncio.run(scenario())


class Waiting(Spool):
    """A spool that appends only once `go` is set."""

    go: threading.Event
    asked = False

    def append(self, offset: int, data: bytes | memoryview) -> bool:
        self.asked = True
        assert self.go.wait(10)
        return super().append(offset, data)


def test_bytes_are_found_although_the_reading_side_has_caught_up(tmp_path: Path) -> None:
    """All before them is taken while they are on their way to the disk: they come next all the same."""

    async def scenario() -> None:
        held = Waiting(tmp_path, SID, max_bytes=10_000)
        held.go = threading.Event()
        held.go.set()
        intake = intake_of(held, stalled_s=lambda: 60.0)
        for block in (b"a" * 100, b"b" * 100):
            await intake.put(block)
        assert intake.step == "spooling"
        held.asked = False
        held.go.clear()
        putting = asyncio.create_task(intake.put(b"c" * 100))
        await eventually(lambda: held.asked)
        assert [await intake.take(), await intake.take()] == [b"a" * 100, b"b" * 100]
        held.go.set()
        await putting
        await intake.put(b"d" * 100)
        assert [await intake.take(), await intake.take()] == [b"c" * 100, b"d" * 100]
        held.close()

    asyncio.run(scenario())


def intake_of(
    held: Spool, *, read_ahead_bytes: int = 100, stalled_s: Callable[[], float] = lambda: 0.0
) -> Intake:
    """Return an intake of that much memory on `held`; what is taken from it is acknowledged at once."""
    return Intake(
        start=0,
        end=0,
        options=replace(FAST, read_ahead_bytes=read_ahead_bytes, spool_after_s=1.0),
        clock=SystemClock(),
        spool=held,
        stalled_s=stalled_s,
        held=lambda: (),
        arrived=lambda: None,
        on_step=lambda step, reason: None,
    )


def test_a_copy_on_disk_has_no_hole(tmp_path: Path) -> None:
    """Where every byte is spooled first, what found no room is made up for before more is written."""

    async def scenario() -> None:
        held = spool(tmp_path, max_bytes=340, segment_bytes=100, always=True)
        intake = intake_of(held, read_ahead_bytes=1000)
        for letter in b"abc":
            await intake.put(bytes([letter]) * 100)
        assert held.end < 300 == intake.end
        first = await intake.take()
        assert first == b"a" * 100
        intake.release(100)
        await intake.put(b"d" * 30)
        assert held.covers(100)
        assert intake.save() == 330
        held.close()

    asyncio.run(scenario())
    again = spool(tmp_path)
    assert contents(again, 100) == b"b" * 100 + b"c" * 100 + b"d" * 30
    again.close()
