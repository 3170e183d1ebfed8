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
from lucid_events.cli.cut_off import Fate, explain, resume_command
from lucid_events.errors import (
    CommandRejected,
    ConfigError,
    Fenced,
    IntegrityError,
    LucidError,
    StoreUnavailable,
)
from lucid_events.recorder import CommandSource, PipeSource, Source, TerminalSource, open_source


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
        opened = True
        acked_upto, kept_upto, read_upto = 7, 7, 9

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
    error = json.loads(done.stdout)["error"]
    assert (
        "bytes 7 to 9 (2 B) were read, and neither confirmed by the server nor in a spool" in error["message"]
    )
    assert error["safe_offset"] == 7
    assert error["again"] == f"lucid record s1 {source} --recover"


PIPE = PipeSource(os.open(os.devnull, os.O_RDONLY), name="stdin")


def fate(*, acked: int, kept: int, read: int, source: Source = PIPE) -> Fate:
    """Return what became of a recording of `s1`."""
    return Fate(sid="s1", acked=acked, kept=kept, read=read, source=source)


def test_every_byte_that_was_read_is_accounted_for(tmp_path: Path) -> None:
    """Durable, in the spool, or neither: each is said with its bytes, and nothing more than is so."""
    durable = "bytes of s1 up to 10 (10 B) are durable: the pipeline stores them by itself"
    spooled = "bytes 10 to 30 (20 B) were read and are in the spool"
    lost = "bytes 30 to 35 (5 B) were read, and neither confirmed by the server nor in a spool"
    assert str(fate(acked=10, kept=10, read=10)) == durable
    assert str(fate(acked=10, kept=30, read=30)) == f"{durable}; {spooled}"
    assert str(fate(acked=10, kept=30, read=35)) == f"{durable}; {spooled}; {lost}: count them as lost"
    assert str(fate(acked=0, kept=0, read=0)) == "no byte of s1 is durable"
    path = tmp_path / "file"
    path.write_bytes(b"x")
    file = open_source(str(path))
    told = str(fate(acked=10, kept=30, read=35, source=file))
    assert told.endswith(f"{lost}: the source has them still")


def test_a_recording_that_never_began_has_read_nothing() -> None:
    """Before the source is begun there are no bytes to tell of."""
    told = str(Fate.of("s1", None, PIPE))
    assert told == "the recording of s1 had not begun, nothing was read from stdin"


def explained(error: LucidError, of: Fate) -> LucidError:
    """Return `error` as it is told."""
    explain(error, of, lambda acked: f"lucid record s1 behind {acked}")
    return error


def test_a_refusal_keeps_its_code_and_names_the_way_back() -> None:
    """A script can tell one refusal from another; a person is told the command, or that there is none."""
    refused = CommandRejected("s1 is stopped", allowed=("recover", "cleanup"), state="stopped")
    refused.code = "illegal_transition"
    told = explained(refused, Fate.of("s1", None, PIPE))
    assert (told.code, told.message) == ("illegal_transition", "s1 is stopped")
    assert told.fields["again"] == "lucid record s1 behind 1"
    erased = explained(CommandRejected("s1 is destroyed", state="destroyed"), Fate.of("s1", None, PIPE))
    assert "another session id" in erased.message
    assert "again" not in erased.fields


def test_a_server_that_never_came_has_cost_nothing() -> None:
    """What is not there at the start is told with the fact that nothing was read."""
    told = explained(StoreUnavailable("away"), Fate.of("s1", None, PIPE))
    assert told.message == "away; nothing was read from stdin"
    assert "again" not in explained(ConfigError("a bad folder"), Fate.of("s1", None, PIPE)).fields


def test_who_is_cut_off_by_an_error_is_told_the_rest_and_the_way_on() -> None:
    """Except where another recorder goes on, or a person has to look first."""
    of = fate(acked=10, kept=30, read=30)
    going_on: tuple[LucidError, ...] = (StoreUnavailable("no progress"), Fenced("given up", state="error"))
    for error in going_on:
        told = explained(error, of)
        assert told.message.endswith("; bytes 10 to 30 (20 B) were read and are in the spool")
        assert (told.fields["safe_offset"], told.fields["again"]) == (10, "lucid record s1 behind 10")
    not_ours: tuple[LucidError, ...] = (Fenced("taken over", state="active"), IntegrityError("other"))
    for error in not_ours:
        assert "again" not in explained(error, of).fields


class Fails:
    """A recording that ends with an error."""

    opened = True
    acked_upto, kept_upto, read_upto = 7, 8, 9

    def __init__(self, *args: object, **options: object) -> None:
        pass

    def stop(self) -> None:
        pass

    async def run(self) -> None:
        raise StoreUnavailable("no progress")


@pytest.mark.parametrize("as_json", [True, False])
def test_an_error_of_a_recording_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, as_json: bool
) -> None:
    """The command is printed under the error, and is a field of its own in JSON."""

    @asynccontextmanager
    async def connect(*args: object, **options: object) -> AsyncIterator[MagicMock]:
        yield MagicMock()

    monkeypatch.setattr("lucid_events.recorder.Recording", Fails)
    monkeypatch.setattr("lucid_events.service.connect", connect)
    source = tmp_path / "source"
    source.write_bytes(b"0123456789")
    done = CliRunner().invoke(app, ["record", "s1", str(source), *(["--json"] if as_json else [])])
    assert done.exit_code == 6
    if as_json:
        error = json.loads(done.stdout)["error"]
        assert (error["code"], error["safe_offset"]) == ("unavailable", 7)
        assert error["again"] == f"lucid record s1 {source} --recover"
    else:
        assert f"go on with: lucid record s1 {source} --recover\n" in done.output
