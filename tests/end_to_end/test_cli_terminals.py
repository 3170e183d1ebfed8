"""`lucid record --tty` as a person at a terminal uses it, on a running pipeline."""

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from asciinema import asciicast

from tests.end_to_end.pipeline import Pipeline
from tests.end_to_end.processes import until
from tests.end_to_end.screens import SHOWN_S, screen


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    """Run one pipeline for the tests of this file; each has sessions of its own."""
    with Pipeline(tmp_path_factory.mktemp("terminals")) as pipeline:
        yield pipeline


def status(pipeline: Pipeline, session: str) -> dict[str, Any]:
    """Return the session's status; empty when there is none yet."""
    done = pipeline.cli("status", session, "--json", check=False)
    return dict(json.loads(done.stdout)) if done.returncode == 0 else {}


def until_state(pipeline: Pipeline, session: str, state: str) -> None:
    """Return when the session is in `state`."""
    until(
        lambda: status(pipeline, session).get("state") == state,
        within_s=SHOWN_S,
        what=f"{session} is {state}",
    )


def test_a_terminal_is_recorded_without_its_pause(shared: Pipeline, tmp_path: Path) -> None:
    """Paused output is shown and not recorded, playback time stands still meanwhile, asciinema plays it."""
    began = time.monotonic()
    with screen(shared, "record", "terminal", "--tty", "--", "sh") as user:
        user.shows("$ ")
        user.type("echo be''fore; printf '\\033[31mr\\303\\266d\\033[0m\\n'\n")
        user.shows("before\r\n")
        user.shows("röd")
        shared.cli("pause", "terminal")
        until_state(shared, "terminal", "paused")
        paused = time.monotonic()
        user.type("echo hid''den\n")
        user.shows("hidden\r\n")
        until(lambda: time.monotonic() > paused + 1.5, within_s=SHOWN_S, what="the pause has been long")
        resuming = time.monotonic()
        shared.cli("resume", "terminal")
        until_state(shared, "terminal", "active")
        resumed = time.monotonic()
        user.type("echo af''ter\n")
        user.shows("after\r\n")
        user.type("exit 7\n")
        user.shows("recorded terminal")
        assert user.process.wait(timeout=SHOWN_S) == 7
    whole_s = time.monotonic() - began
    path = tmp_path / "terminal.cast"
    shared.cli("play", "terminal", "-o", str(path))
    with asciicast.open_from_url(str(path)) as cast:
        events = list(cast.events())
        assert cast.version == 2
    text = "".join(event[2] for event in events if event[1] == "o")
    assert "before" in text
    assert "röd" in text
    assert "after" in text
    assert "hidden" not in text
    assert "hid''den" not in text
    moments = [event[0] for event in events]
    assert moments == sorted(moments)
    assert moments[-1] <= whole_s - (resuming - paused)
    after = next(event[0] for event in events if "af''ter" in event[2] or "after" in event[2])
    before = max(event[0] for event in events if event[0] < after)
    assert after - before < (resuming - paused) + (resumed - resuming)
    assert json.loads(path.read_text().splitlines()[0])["version"] == 2


def test_what_is_typed_is_recorded_only_when_asked_for(shared: Pipeline, tmp_path: Path) -> None:
    """People type passwords: input is in the recording with `--input` and not without."""
    for session, flags in (("typed", ["--input"]), ("untyped", [])):
        ask = "stty -echo; echo password:; read x"
        with screen(shared, "record", session, "--tty", *flags, "--", "sh", "-c", ask) as user:
            user.shows("password:")
            user.type("geheim\n")
            assert user.process.wait(timeout=SHOWN_S) == 0
        path = tmp_path / session
        shared.cli("play", session, "-o", str(path))
        with asciicast.open_from_url(str(path)) as cast:
            typed = "".join(event[2] for event in cast.events() if event[1] == "i")
        assert ("geheim" in typed) is bool(flags)
        assert ("geheim" in path.read_text()) is bool(flags)


@pytest.mark.parametrize("controlling", [True, False])
def test_a_terminal_that_is_closed_ends_its_recording(
    shared: Pipeline, tmp_path: Path, controlling: bool
) -> None:
    """The program is hung up, its last words are stored, the session is stopped, and that is a success.

    The system tells who the terminal belongs to by a signal; everybody else finds its end.
    """
    session = f"closed-{controlling}"
    heard = tmp_path / "heard"
    script = f"trap 'echo good''bye; : > {heard}; exit 9' HUP; echo u''p; while :; do sleep 0.05; done"
    words = ("record", session, "--tty", "--", "sh", "-c", script)
    with screen(shared, *words, controlling=controlling) as user:
        user.shows("up")
        user.close()
        assert user.process.wait(timeout=SHOWN_S) == 0
    assert heard.exists()
    until_state(shared, session, "stopped")
    path = tmp_path / "closed.cast"
    shared.cli("play", session, "-o", str(path))
    with asciicast.open_from_url(str(path)) as cast:
        text = "".join(event[2] for event in cast.events())
    assert text.endswith("goodbye\r\n")
    found = status(shared, session)
    assert found["captured"]["unstored_bytes"] == 0
    detached = [
        json.loads(line)["data"]
        for line in shared.cli("replay", session, "--json").stdout.splitlines()
        if '"recorder.detached.v1"' in line
    ]
    assert [event["exit_code"] for event in detached] == [9]


def test_a_recorder_told_to_ignore_hang_ups_outlives_its_terminal(shared: Pipeline, tmp_path: Path) -> None:
    """As under `nohup`: the program goes on behind the closed terminal and is recorded to its own end."""
    go = tmp_path / "go"
    script = f"echo u''p; while [ ! -e {go} ]; do sleep 0.05; done; echo last; exit 4"
    with screen(shared, "record", "deaf", "--tty", "--", "sh", "-c", script, ignoring=signal.SIGHUP) as user:
        user.shows("up")
        user.close()
        time.sleep(0.5)  # a hang-up would end it here
        assert user.process.poll() is None
        go.touch()
        assert user.process.wait(timeout=SHOWN_S) == 4
    path = tmp_path / "deaf.cast"
    shared.cli("play", "deaf", "-o", str(path))
    assert '"last\\r\\n"' in path.read_text()
