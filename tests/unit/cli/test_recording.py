"""`lucid record` around the recording: what it refuses, notes and reports."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest

from lucid_events.cli import stalling
from lucid_events.cli.recording import _Noting, open_words
from lucid_events.errors import ConfigError

REPORTS = """
import sys
from contextlib import asynccontextmanager
from unittest.mock import MagicMock

import lucid_events.recorder, lucid_events.service
from lucid_events.cli import main
from lucid_events.recorder import Totals

TOTALS = Totals(
    session_id="s1", state="stopped", epoch=1, bytes=1, sha256="", start_offset=0, end_offset=1, chunks=1,
    raw_bytes=1, stored_bytes=1, ratio=1.0, gaps={gaps}, gap_bytes=0, failed_chunks=(), seconds=1.0,
    exit_code=None, reason="end",
)


class Recording:
    acked_upto = kept_upto = read_upto = taken_upto = 1
    opened = True

    def __init__(self, *args, **options):
        pass

    async def run(self):
        return TOTALS


@asynccontextmanager
async def connect(*args, **options):
    yield MagicMock()


lucid_events.recorder.Recording, lucid_events.service.connect = Recording, connect
main()
"""


def reported(
    tmp_path: Path, *args: str, gaps: int = 0, stdout: int = subprocess.PIPE, stderr: int = subprocess.PIPE
) -> subprocess.CompletedProcess[bytes]:
    """Run `lucid record` of a recording that is over at once."""
    source = tmp_path / "source"
    source.write_bytes(b"x")
    words = [sys.executable, "-c", REPORTS.format(gaps=gaps), "record", "s1", str(source), *args]
    return subprocess.run(words, timeout=60, check=False, stdout=stdout, stderr=stderr)


@pytest.mark.parametrize("gaps", [0, 1])
def test_a_report_that_can_not_be_written_changes_no_status(tmp_path: Path, gaps: int) -> None:
    """On a full disk the status stays that of the recording, and what was not written is said."""
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        done = reported(tmp_path, "--json", gaps=gaps, stdout=full)
        assert done.returncode == (7 if gaps else 0)
        assert done.stderr == b"no totals (No space left on device) of s1: it is stopped, up to byte 1\n"
        assert reported(tmp_path, gaps=gaps, stderr=full).returncode == (7 if gaps else 0)
    finally:
        os.close(full)


def test_a_file_of_acked_offsets_that_fails_ends_no_recording(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It says too little then, and is told once; what was written of a line never grows into another."""
    noting, write = _Noting(tmp_path / "acked"), os.write
    noting(100)
    with monkeypatch.context() as full:
        full.setattr(os, "write", lambda descriptor, line: write(descriptor, line[:2]))
        noting(200)
        noting(300)
    assert len(caplog.records) == 1
    noting(400)
    lines = (tmp_path / "acked").read_text().split()
    assert lines[0] == "100"
    assert lines[-1] == "400"
    assert all(int(line) <= 300 for line in lines[:-1])


def test_a_file_of_acked_offsets_has_to_be_writable_at_first(tmp_path: Path) -> None:
    """What can't be written from the beginning is a mistake, and named before anything is recorded."""
    with pytest.raises(ConfigError, match="No such file"):
        _Noting(tmp_path / "absent" / "acked")


def test_options_that_would_do_nothing_are_refused(tmp_path: Path) -> None:
    """Each option goes with its kind of source, and a copy of standard error has to be writable."""
    file = tmp_path / "file"
    file.write_bytes(b"x")
    with pytest.raises(ConfigError, match="--tty"):
        open_words([str(file)], tty=False, command=False, input_too=True)
    with pytest.raises(ConfigError, match="for a command"):
        open_words([str(file)], tty=False, command=False, stderr_file=tmp_path / "err")
    with pytest.raises(ConfigError, match="for a command"):
        open_words(["true"], tty=True, command=True, stderr_file=tmp_path / "err")
    with pytest.raises(ConfigError, match="No such file"):
        open_words(["true"], tty=False, command=True, stderr_file=tmp_path / "absent" / "err")
    open_words(["true"], tty=False, command=True, stderr_file=tmp_path / "err")


@pytest.mark.parametrize("answers", [True, False])
def test_a_recording_that_stands_still_is_explained_while_it_does(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, answers: bool
) -> None:
    """A server that does not answer is told as that, in time, with what becomes of the source."""

    async def why_not_written(_: object) -> str:
        if not answers:
            await asyncio.Event().wait()
        return "the disk is full"

    monkeypatch.setattr("lucid_events.service.preflight.why_not_written", why_not_written)
    monkeypatch.setattr(stalling, "LOOK_S", 0.01)
    monkeypatch.setattr(stalling, "ANSWER_S", 0.01)
    recording = SimpleNamespace(acked_upto=5, taken_upto=9, step="spooling", refusal="")

    async def main() -> None:
        async with asyncio.timeout(20), stalling.telling_why(recording, MagicMock()):  # type: ignore[arg-type]
            while not caplog.records:  # noqa: ASYNC110 - told by another task
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)  # and once only, however often it looks

    asyncio.run(main())
    (told,) = caplog.records
    why = "the disk is full" if answers else "the server does not answer"
    assert getattr(told, "reason", "") == f"{why}; what is read goes to the spool"
