"""What a recording that was cut off tells its user to type next."""

import errno
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from unittest.mock import MagicMock

import pytest
from typer.testing import CliRunner

from lucid_events.cli import app
from lucid_events.cli.cut_off import resume_command
from lucid_events.recorder import CommandSource, PipeSource, TerminalSource, open_source


def test_a_file_is_read_on(tmp_path: Path) -> None:
    """A source that can be read again needs nothing but the way back in; what is said stays said."""
    path = tmp_path / "a file"
    path.write_bytes(b"x")
    asked = {"sid": "s1", "source": [str(path)], "server": "nats://h:1", "spool": "/sp", "owner": "o"}
    command = resume_command(asked, open_source(str(path)), acked=1, command=False)
    assert command == f"lucid record s1 '{path}' --recover --server nats://h:1 --spool /sp"


def test_what_comes_now_is_appended() -> None:
    """A pipe or a program can't be read again: what comes now goes behind what there is, if there is any."""
    pipe = PipeSource(os.open(os.devnull, os.O_RDONLY), name="stdin")
    assert resume_command({"sid": "s1", "source": None}, pipe, acked=5, command=False) == (
        "lucid record s1 --recover --append"
    )
    asked = {"sid": "s1", "source": ["sh", "-c", "a b"]}
    program = CommandSource(["sh", "-c", "a b"])
    assert resume_command(asked, program, acked=0, command=True) == "lucid record s1 --recover -- sh -c 'a b'"


def test_a_terminal_gets_a_session_of_its_own() -> None:
    """Two headers in one file would not play, so the next terminal is another session."""
    asked = {"sid": "s1", "source": None, "tty": True, "input_too": True}
    assert resume_command(asked, TerminalSource(["sh"]), acked=5, command=False) == (
        "lucid record s1-2 --tty --input"
    )


def test_a_pipe_that_breaks_inside_a_recording_is_no_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The status is that of an error, and the message says which bytes are safe and how to go on."""

    class Breaks:
        acked_upto, taken_upto = 7, 9

        def __init__(self, *args: object, **options: object) -> None:
            pass

        def stop(self) -> None:
            pass

        async def run(self) -> None:
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    @asynccontextmanager
    async def connect(*args: object, **options: object) -> AsyncIterator[MagicMock]:
        yield MagicMock()

    monkeypatch.setattr("lucid_events.recorder.Recording", Breaks)
    monkeypatch.setattr("lucid_events.service.connect", connect)
    source = tmp_path / "source"
    source.write_bytes(b"0123456789")
    done = CliRunner().invoke(app, ["record", "s1", str(source), "--json"])
    assert done.exit_code == 1
    message = json.loads(done.stdout)["error"]["message"]
    assert "bytes of s1 up to 7" in message
    assert "bytes 7 to 9 were read and are stored nowhere" in message
    assert f"lucid record s1 {source} --recover" in message
