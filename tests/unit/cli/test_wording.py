"""What the command line says to people, where the wire has another word or none."""

import errno
import re
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from lucid_events import __version__
from lucid_events.cli import app, operations, running
from lucid_events.cli.audit_bundles import files_among
from lucid_events.cli.output import counted
from lucid_events.cli.playing import _opened, _writing
from lucid_events.cli.projections import _differing
from lucid_events.cli.recording import open_words
from lucid_events.domain.transitions import Trigger
from lucid_events.errors import CommandRejected, ConfigError


def test_what_is_allowed_are_commands(capsys: pytest.CaptureFixture[str]) -> None:
    """A refusal names commands that can be typed, not the triggers of the wire."""
    refused = CommandRejected("no", allowed=("start_complete", "pause_complete", "stop", "error"))
    with pytest.raises(typer.Exit):
        running.fail(refused)
    assert "allowed now: record, stop, fail\n" in capsys.readouterr().err


def test_every_trigger_is_a_command_or_done_by_the_pipeline() -> None:
    """Whatever the rules allow, each word said to people is a command of `lucid`."""
    known = {command.callback.__name__ for command in app.registered_commands if command.callback}
    assert set(running.commands_of(Trigger)) <= known


@pytest.mark.parametrize("tty", [False, True])
def test_a_program_that_is_not_there_is_found_before_a_session_is(tty: bool, tmp_path: Path) -> None:
    """A mistyped program is refused while nothing has been created, a file that is no program, too."""
    plain = tmp_path / "plain"
    plain.write_text("no program")
    for program in ("no-such-program-here", str(plain)):
        with pytest.raises(ConfigError, match="can't be run"):
            open_words([program], tty=tty, command=not tty)


def test_the_version_is_told() -> None:
    """`lucid --version` prints the version and needs neither settings nor server."""
    done = CliRunner().invoke(app, ["--version"])
    assert (done.exit_code, done.output) == (0, f"lucid_events {__version__}\n")


def test_up_says_why_it_started_no_server(capsys: pytest.CaptureFixture[str]) -> None:
    """`up` on a NATS_URL that answers nobody says how to get an embedded server instead."""
    with pytest.raises(typer.Exit) as ended:
        operations.up(server="nats://127.0.0.1:1")
    assert ended.value.exit_code == 6
    assert "Without NATS_URL" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("asked", [{"port": 0}, {"data": Path("somewhere")}])
def test_up_drops_no_flag_in_silence(asked: dict[str, object], capsys: pytest.CaptureFixture[str]) -> None:
    """A folder or a port for a server of our own beside the URL of another one is refused, and named."""
    with pytest.raises(typer.Exit) as ended:
        operations.up(server="nats://127.0.0.1:1", **asked)  # type: ignore[arg-type]  # one of its options
    assert ended.value.exit_code == 2
    said = capsys.readouterr().err
    assert f"--{next(iter(asked))} is for a server of our own" in said
    assert "unset NATS_URL" in said


def test_a_server_of_another_protocol_is_refused() -> None:
    """An address of the web is no NATS server: said before anything is tried."""
    done = CliRunner().invoke(app, ["sessions", "--server", "http://127.0.0.1:4222"])
    assert done.exit_code == 2
    assert "http:// is another protocol" in done.output


def test_a_bundle_that_is_not_there_is_no_session(tmp_path: Path) -> None:
    """A path that leads nowhere is called a missing file, with the status of one; a session id is not."""
    for name in (str(tmp_path / "nosuch.tar"), "nosuch.tar"):
        with pytest.raises(ConfigError, match="there is no such file"):
            files_among([name], whole=False)
    assert files_among(["nosuch"], whole=False) == []


def test_another_file_is_no_checkpoint(tmp_path: Path) -> None:
    """A file that was never a checkpoint is a mistake of who named it, not evidence that does not hold."""
    for text in ("1\n2\n", "", '{"a":1}'):
        other = tmp_path / "numbers.txt"
        other.write_text(text)
        done = CliRunner().invoke(app, ["audit", "checkpoints", "--since-checkpoint", str(other)])
        assert done.exit_code == 2
        assert "is no checkpoint" in done.output


def test_a_played_file_that_can_not_be_written_leaves_nothing(tmp_path: Path) -> None:
    """On a full disk the part written goes with the error: it takes the room that is lacking."""
    target = tmp_path / "played"
    full = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(ConfigError, match="No space left"), _opened(str(target)), _writing(str(target)):
        raise full
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(KeyboardInterrupt), _opened(str(target)):
        raise KeyboardInterrupt
    assert [one.name for one in tmp_path.iterdir()] == ["played.part"]


def test_numbers_and_their_nouns_agree() -> None:
    """One session is one session."""
    assert [counted(n, "session") for n in (0, 1, 2)] == ["0 sessions", "1 session", "2 sessions"]


COUNTING = ("audit_bundles", "operations", "projections", "retention", "sessions")
NOUNS = "chunk|event|file|object|orphan|session|view"


@pytest.mark.parametrize("module", COUNTING)
def test_a_number_has_its_noun_in_the_right_number(module: str) -> None:
    """Where a command counts, one is told as one."""
    text = Path(running.__file__).with_name(f"{module}.py").read_text(encoding="utf-8")
    assert re.findall(rf"\{{[^{{}}]*\}} (?:{NOUNS})s\b", text) == []


def test_one_view_differs_and_two_differ() -> None:
    """The sentence fits its number."""
    told = [_differing(count) for count in (0, 1, 2)]
    assert [one.split(" from ")[0] for one in told] == ["0 views differ", "1 view differs", "2 views differ"]
