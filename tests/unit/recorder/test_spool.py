"""The spool: what it holds after a crash, whose it is, and where its limit is."""

import asyncio
import fcntl
import random
import threading
from pathlib import Path

import pytest

from lucid_events.errors import ConfigError, IntegrityError
from lucid_events.recorder import Spool
from tests.unit.recorder.rig import SID, eventually
from tests.unit.recorder.spools import MIB, contents, held_after, spool


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


def test_what_fits_below_the_limit_is_held(tmp_path: Path, rng: random.Random) -> None:
    """Of what is beyond the limit the beginning is held, to the last byte that there is room for."""
    data = rng.randbytes(10_000)
    limit = 3000
    held = spool(tmp_path, max_bytes=limit, segment_bytes=500)
    offset = 0
    while held.append(offset, data[offset : offset + (size := rng.randrange(1, 300))]):
        offset += size
        assert held.stored_bytes <= limit
    assert offset < held.end < offset + size
    assert held.stored_bytes == limit
    assert not held.append(offset, data[offset : offset + size])
    assert held_after(held, tmp_path) == data[: held.end]


def test_one_process_at_a_time(tmp_path: Path) -> None:
    """A spool in use can't be opened again."""
    held = spool(tmp_path)
    with pytest.raises(ConfigError, match="another process"):
        spool(tmp_path)
    held.close()
    spool(tmp_path).close()


@pytest.mark.parametrize("torn", [b"", b"1", b"x\n", b"\n"])
def test_a_spool_knows_whose_bytes_it_holds(tmp_path: Path, torn: bytes) -> None:
    """The epoch of who left it is there as long as bytes are; what is no number is not known."""
    held = spool(tmp_path)
    assert held.epoch == 0
    held.note(11)
    held.note(2)
    held.append(0, b"bytes")
    held.close()
    again = spool(tmp_path)
    assert again.epoch == 2
    again.close()
    (tmp_path / f"{SID}.lock").write_bytes(torn)
    unknown = spool(tmp_path)
    assert unknown.epoch == 0
    unknown.release(5)
    unknown.close()
    assert list(tmp_path.iterdir()) == []


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
