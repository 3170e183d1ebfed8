"""`cli.playing`: a file appears whole, or it is said why not."""

import errno
import os
from pathlib import Path

import pytest

from lucid_events.cli.playing import _opened, write_out
from lucid_events.errors import ConfigError


def test_a_new_file_replaces_an_older_one(tmp_path: Path) -> None:
    """It has its name when it is whole."""
    place = tmp_path / "out"
    place.write_bytes(b"older")
    write_out(str(place), b"newer")
    assert (place.read_bytes(), os.listdir(tmp_path)) == (b"newer", ["out"])


def test_a_disk_that_is_full_at_the_end_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where bytes fit the cache and not the disk, that is a fault to tell; the older file stands."""

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    place = tmp_path / "out"
    place.write_bytes(b"older")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigError, match="No space left"):
        write_out(str(place), b"newer")
    assert (place.read_bytes(), os.listdir(tmp_path)) == (b"older", ["out"])


def test_a_name_that_can_not_be_taken_is_named(tmp_path: Path) -> None:
    """A folder that was made there meanwhile is told, not a traceback."""
    place = tmp_path / "out"
    opened = _opened(str(place))
    opened.__enter__().write(b"bytes")
    place.mkdir()
    with pytest.raises(ConfigError, match="can't write"):
        opened.__exit__(None, None, None)
    assert os.listdir(tmp_path) == ["out"]


def test_what_breaks_off_stays_under_another_name(tmp_path: Path) -> None:
    """The part that was written is kept for whoever wants it."""
    opened = _opened(str(tmp_path / "out"))
    opened.__enter__().write(b"half")
    opened.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert (tmp_path / "out.part").read_bytes() == b"half"
