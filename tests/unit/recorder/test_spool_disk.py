"""The spool on a disk that is full or fails, and when its bytes are on it."""

import errno
import os
import threading
import time
from pathlib import Path

import pytest

from lucid_events.recorder import Spool
from lucid_events.recorder.spool import FSYNC_INTERVAL_S, Fsync
from tests.unit.recorder.rig import SID
from tests.unit.recorder.spools import Disk, files_of_at_most, held_after, spool


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


def test_a_sync_is_due_an_interval_after_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was appended since is waited for by somebody, until it is synced; a failure is no success."""
    disk, seconds = Disk(monkeypatch), [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: seconds[0])
    held = spool(tmp_path, fsync="interval")
    assert held.append(0, b"synced ")
    assert due_s(held) is None
    seconds[0] += FSYNC_INTERVAL_S / 4
    assert held.append(7, b"not ")
    assert due_s(held) == FSYNC_INTERVAL_S * 3 / 4
    seconds[0] += FSYNC_INTERVAL_S * 2
    assert due_s(held) == 0
    disk.broken = True
    assert not held.sync()
    assert due_s(held) == FSYNC_INTERVAL_S  # it is tried again, and not at once
    disk.broken = False
    assert held.sync()
    assert held.append(11, b"left")
    held.close()
    assert due_s(held) is None


def due_s(held: Spool) -> float | None:
    """Return when a sync is due, as it is now."""
    return held.sync_due_s


@pytest.mark.parametrize("fsync", ["always", "never"])
def test_without_an_interval_no_sync_is_due(tmp_path: Path, fsync: Fsync) -> None:
    """Who syncs each append, or none, needs nobody to come back for it."""
    held = spool(tmp_path, fsync=fsync)
    assert held.append(0, b"one ")
    assert held.append(4, b"two")
    assert held.sync_due_s is None
    held.close()


def test_a_trouble_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever waits for room asks again and again: the log has it once, and again when it came back."""
    held, offset = spool(tmp_path), 0
    for told in (1, 2):
        with files_of_at_most(held.stored_bytes + 25):
            for _ in range(3):
                assert not held.append(offset, b"x" * 100)
        assert len(caplog.records) == told
        assert held.append(offset, b"x" * 100)
        offset += 100
    held.close()
