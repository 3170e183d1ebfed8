"""The spool: what it holds after a crash, and what it costs."""

import asyncio
import errno
import fcntl
import os
import random
import resource
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from msgspec.structs import replace

from lucid_events.domain import events as ev
from lucid_events.errors import ConfigError, IntegrityError, StoreUnavailable
from lucid_events.memory import MemoryServer
from lucid_events.recorder import NoSource, Spool
from lucid_events.recorder.spool import Fsync
from tests.unit.recorder.rig import FAST, SID, Bytes, Service, eventually, finished

MIB = 1024 * 1024


def spool(
    folder: Path,
    *,
    max_bytes: int = 64 * MIB,
    segment_bytes: int = MIB,
    always: bool = False,
    fsync: Fsync = "never",
) -> Spool:
    """Open the test session's spool."""
    return Spool(folder, SID, max_bytes=max_bytes, segment_bytes=segment_bytes, always=always, fsync=fsync)


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Have the system refuse what makes a file larger, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


class Disk:
    """`os.fsync` of a disk that can be told to fail; keeps what was synced, by inode."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.synced: list[int] = []
        self.broken = False
        monkeypatch.setattr(os, "fsync", self._fsync)

    def _fsync(self, descriptor: int) -> None:
        if self.broken:
            raise OSError(errno.EIO, "broken")
        self.synced.append(os.fstat(descriptor).st_ino)


def contents(spool: Spool, start: int) -> bytes:
    """Read to the end, gaps as dashes."""
    parts = []
    while start < spool.end:
        frame = spool.read(start)
        parts.append(frame.data if frame.data is not None else b"-" * frame.size)
        start = frame.end
    return b"".join(parts)


def test_what_was_appended_is_there_after_a_crash(tmp_path: Path) -> None:
    """A spool opened again holds the same bytes, over several segments, from any offset on."""
    first = spool(tmp_path, segment_bytes=100)
    for i in range(20):
        assert first.append(1000 + i * 30, bytes([i]) * 30)
    first.close()
    again = spool(tmp_path)
    assert (again.start, again.end) == (1000, 1600)
    assert again.covers(1000)
    assert again.covers(1595)
    assert not again.covers(999)
    assert contents(again, 1015) == b"".join(bytes([i]) * 30 for i in range(20))[15:]
    again.close()


@pytest.mark.parametrize("cut", [1, 5, 20, 21, 25])
def test_a_torn_frame_counts_as_not_written(tmp_path: Path, cut: int) -> None:
    """Whatever part of the last frame a crash left, the ones before it stand."""
    first = spool(tmp_path)
    first.append(0, b"whole")
    size = first.stored_bytes
    first.append(5, b"torn!")
    first.close()
    path = next(tmp_path.glob("*.spool"))
    with path.open("r+b") as file:
        file.truncate(size + cut)
    again = spool(tmp_path)
    assert (again.end, contents(again, 0)) == (5, b"whole")
    again.append(5, b"again")
    assert contents(again, 0) == b"wholeagain"
    again.close()


def test_a_flipped_bit_is_not_passed_on(tmp_path: Path) -> None:
    """A damaged frame ends what is held; reading it in place is an error, not other bytes."""
    first = spool(tmp_path)
    first.append(0, b"good")
    first.append(4, b"damaged")
    path = next(tmp_path.glob("*.spool"))
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    with pytest.raises(IntegrityError):
        first.read(4)
    first.close()
    again = spool(tmp_path)
    assert again.end == 4
    again.close()


def test_the_limit_holds_and_release_makes_room(tmp_path: Path) -> None:
    """Appends beyond the limit are refused until segments have been released."""
    held = spool(tmp_path, max_bytes=300, segment_bytes=100)
    offset = 0
    while held.append(offset, b"x" * 50):
        offset += 50
    assert held.stored_bytes <= 300
    held.release(offset // 2)
    assert held.append(offset, b"x" * 50)
    held.release(offset + 50)
    assert held.stored_bytes == 0
    held.close()
    assert list(tmp_path.iterdir()) == []


def test_one_process_at_a_time(tmp_path: Path) -> None:
    """A spool in use can't be opened again."""
    held = spool(tmp_path)
    with pytest.raises(ConfigError, match="another process"):
        spool(tmp_path)
    held.close()
    spool(tmp_path).close()


def test_a_gap_is_kept_as_a_gap(tmp_path: Path) -> None:
    """A declared gap survives a restart as a gap, in its place."""
    first = spool(tmp_path)
    first.append(0, b"ab")
    first.append_gap(2, 10)
    first.append(10, b"cd")
    first.close()
    again = spool(tmp_path)
    assert again.covers(0)
    assert contents(again, 0) == b"ab--------cd"
    assert again.read(2).data is None
    again.close()


def held_after(first: Spool, folder: Path) -> bytes:
    """Return what the next recorder finds when the one of `first` ends now."""
    first.close()
    again = spool(folder)
    try:
        return contents(again, again.start)
    finally:
        again.close()


@pytest.mark.parametrize("room", [0, 4])
def test_a_segment_that_can_not_begin_is_refused(tmp_path: Path, room: int) -> None:
    """A disk without room for a segment's head says so, and what is taken afterwards is held."""
    held = spool(tmp_path, segment_bytes=50)
    assert held.append(0, b"a" * 50)
    with files_of_at_most(room):
        assert not held.append(50, b"b" * 50)
    assert (held.end, len(list(tmp_path.glob("*.spool")))) == (50, 1)
    assert held.append(50, b"b" * 50)
    assert held_after(held, tmp_path) == b"a" * 50 + b"b" * 50


def test_a_segment_that_can_not_be_opened_is_refused(tmp_path: Path) -> None:
    """Whatever stands where a segment belongs, append returns False, and takes the bytes once it is gone."""
    held = spool(tmp_path)
    in_the_way = tmp_path / f"{SID}.{0:020d}.spool"
    in_the_way.mkdir()
    assert not held.append(0, b"bytes")
    in_the_way.rmdir()
    assert held.append(0, b"bytes")
    assert held_after(held, tmp_path) == b"bytes"


def test_a_frame_that_does_not_fit_leaves_nothing_behind(tmp_path: Path) -> None:
    """A frame the disk took a part of is cut off, and the next one stands in its place."""
    held = spool(tmp_path)
    assert held.append(0, b"first ")
    with files_of_at_most(held.stored_bytes + 25):
        assert not held.append(6, b"second" * 10)
    assert held.append(6, b"second")
    assert held_after(held, tmp_path) == b"first second"


def test_a_frame_that_can_not_be_cut_off_ends_its_segment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where even cutting fails, what comes next goes to another segment and not behind the remains."""

    def refuse(_fd: int, _size: int) -> None:
        raise OSError(errno.EIO, "broken")

    held = spool(tmp_path)
    assert held.append(0, b"first ")
    with monkeypatch.context() as broken, files_of_at_most(held.stored_bytes + 25):
        broken.setattr(os, "ftruncate", refuse)
        assert not held.append(6, b"second" * 10)
    assert held.append(6, b"second")
    assert held_after(held, tmp_path) == b"first second"


def test_what_can_not_be_synced_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under `always` bytes that a crash may take were not taken; neither `sync` nor `close` breaks off."""
    disk = Disk(monkeypatch)
    held = spool(tmp_path, fsync="always")
    assert held.append(0, b"first ")
    disk.broken = True
    assert not held.append(6, b"second")
    assert not held.sync()
    assert held.end == 6
    assert held_after(held, tmp_path) == b"first "


def test_a_length_that_is_damaged_ends_its_segment(tmp_path: Path) -> None:
    """A frame that claims more than the file has counts as torn: nobody makes room for its claim."""
    for size in (2**62, 2**64 - 1, 2**40):
        first = spool(tmp_path)
        first.append(0, b"good")
        at = first.stored_bytes
        first.append(4, b"damaged")
        first.close()
        path = next(tmp_path.glob("*.spool"))
        raw = bytearray(path.read_bytes())
        raw[at + 9 : at + 17] = size.to_bytes(8, "big")
        path.write_bytes(raw)
        again = spool(tmp_path)
        assert (again.end, contents(again, 0)) == (4, b"good")
        again.release(4)
        again.close()


def test_the_name_of_a_segment_is_synced_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crashed host forgets files whose folder was not synced; folders made on the way are no exception."""
    disk = Disk(monkeypatch)
    folder = tmp_path / "made" / "here"
    held = spool(folder, fsync="always")
    assert set(disk.synced) == {tmp_path.stat().st_ino, folder.parent.stat().st_ino}
    for offset, expected in ((0, True), (10, False)):
        disk.synced.clear()
        assert held.append(offset, b"x" * 10)
        assert (folder.stat().st_ino in disk.synced) is expected
    held.close()
    disk.synced.clear()
    unsynced = spool(tmp_path / "never", fsync="never")
    unsynced.append(0, b"x")
    unsynced.close()
    assert disk.synced == []


def test_a_sync_ends_before_its_file_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever closes meanwhile waits: the descriptor would be nobody's, or soon another file's."""
    held = spool(tmp_path)
    held.append(0, b"bytes")
    closing = threading.Thread(target=held.close)
    synced: list[int] = []

    def fsync(descriptor: int) -> None:
        closing.start()
        closing.join(timeout=0.2)  # it has not ended after any time; without the lock it has at once
        synced.append(os.fstat(descriptor).st_ino)

    monkeypatch.setattr(os, "fsync", fsync)
    assert held.sync()
    closing.join()
    assert len(synced) == 1
    assert held.sync()


def test_a_lock_file_that_was_removed_locks_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who opened the lock file before its holder removed it takes the new one: two never hold the spool."""
    first = spool(tmp_path)
    flock = fcntl.flock

    def late(descriptor: int, operation: int) -> None:
        first.close()  # between opening the file and locking it
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    second = spool(tmp_path)
    monkeypatch.undo()
    with pytest.raises(ConfigError, match="another process"):
        spool(tmp_path)
    second.close()


def test_a_spool_that_can_not_be_read_is_not_locked(tmp_path: Path) -> None:
    """A segment nobody can read is a setting's fault, and whoever mends it can go on in this process."""
    in_the_way = tmp_path / f"{SID}.{0:020d}.spool"
    in_the_way.mkdir()
    with pytest.raises(ConfigError, match="can't be used"):
        spool(tmp_path)
    in_the_way.rmdir()
    spool(tmp_path).close()


class Slow(Spool):
    """A spool whose opening takes until `go` is set."""

    go = threading.Event()

    def __init__(self, folder: Path, *args: object, **more: object) -> None:
        assert threading.current_thread() is not threading.main_thread()
        assert self.go.wait(10)
        super().__init__(folder, SID, max_bytes=MIB)


@pytest.mark.parametrize("wanted", [True, False])
def test_opening_keeps_nobody_waiting(tmp_path: Path, wanted: bool) -> None:
    """It is read in a thread; given up meanwhile, it is unlocked for whoever is next."""

    async def scenario() -> None:
        Slow.go.clear()
        opening = asyncio.create_task(Slow.opened(tmp_path, SID, max_bytes=MIB))
        await asyncio.sleep(0)
        if not wanted:
            await asyncio.sleep(0)  # into the thread
            opening.cancel()
            await asyncio.gather(opening, return_exceptions=True)
            assert opening.cancelled()
        Slow.go.set()
        if wanted:
            (await opening).close()
        await eventually(lambda: len(asyncio.all_tasks()) == 1)

    asyncio.run(scenario())
    spool(tmp_path).close()


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
