"""How the command line builds its settings and speaks about them."""

import ast
import asyncio
import errno
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from lucid_events.cli import app, main, running
from lucid_events.cli.exits import INTERRUPTED, exit_code
from lucid_events.config import NOT_USED
from lucid_events.errors import NotFound, StoreUnavailable


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger("lucid_events")
    kept = root.handlers[:], root.level, root.propagate
    yield
    root.handlers[:], root.level, root.propagate = kept


@pytest.mark.parametrize("name", NOT_USED)
def test_a_service_says_what_it_does_not_use(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A service given a database's address says that it is not used, and does not show it."""
    monkeypatch.setenv(name, "scheme://user:secret@host")
    running.settings(service=True)
    said = capsys.readouterr().err
    assert name in said
    assert "secret" not in said


@pytest.mark.parametrize("name", NOT_USED)
def test_a_command_keeps_quiet_about_it(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A command that is no service does not repeat on every call what the service has said."""
    monkeypatch.setenv(name, "scheme://user:secret@host")
    running.settings()
    assert capsys.readouterr().err == ""


def _options(command: Any) -> set[str]:
    found = {name for one in command.params for name in one.opts}
    return found.union(*(_options(one) for one in getattr(command, "commands", {}).values()))


def test_a_wrong_option_is_named_as_it_is_called(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """What an error tells to change can be typed."""
    monkeypatch.setattr("sys.argv", ["lucid", "chunks", "sweep", "--grace", "-1"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "--grace=-1.0 from the command line" in capfd.readouterr().err


def test_every_setting_given_on_the_command_line_has_an_option() -> None:
    """Whatever a command hands to `settings` is named by an option that `lucid` has."""
    given: set[str] = set()
    for path in Path(running.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "settings":
                given |= {one.arg for one in node.keywords if one.arg}
    names = {running.OPTIONS.get(one, "--" + one) for one in given - {"service", "http"}}
    assert {"--server", "--grace", "--spool", "--data"} <= names <= _options(typer.main.get_command(app))


def test_a_broken_pipe_is_success_only_for_what_is_read(capfd: pytest.CaptureFixture[str]) -> None:
    """Work beside the output whose pipe broke claims no success, and says so."""

    async def breaks() -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    with pytest.raises(typer.Exit) as ended:
        running.run(breaks, reader_may_leave=False)
    assert ended.value.exit_code == 1
    assert "a pipe broke off" in capfd.readouterr().err


def test_a_cancelled_command_is_an_interrupt() -> None:
    """A recording ended at once by a second signal exits as interrupted, without a traceback."""

    async def cancelled() -> None:
        raise asyncio.CancelledError

    with pytest.raises(typer.Exit) as ended:
        running.run(cancelled)
    assert ended.value.exit_code == INTERRUPTED


def test_a_bug_beside_an_error_keeps_its_traceback(capfd: pytest.CaptureFixture[str]) -> None:
    """A group with anything but errors of ours is raised whole; one of ours alone becomes one line."""

    async def both() -> None:
        raise BaseExceptionGroup(
            "tasks", [StoreUnavailable("away"), ExceptionGroup("inner", [TypeError("bug")])]
        )

    with pytest.raises(ExceptionGroup) as raised:
        running.run(both)
    assert raised.value.subgroup(TypeError) is not None
    assert raised.value.subgroup(StoreUnavailable) is not None
    assert "away" not in capfd.readouterr().err

    async def ours() -> None:
        raise ExceptionGroup("tasks", [ExceptionGroup("inner", [StoreUnavailable("away")]), NotFound("it")])

    with pytest.raises(typer.Exit) as ended:
        running.run(ours)
    assert ended.value.exit_code == exit_code(StoreUnavailable("away"))
    assert "away" in capfd.readouterr().err
