"""Replaying from the command line: choosing, pacing, the past, and the rules of today."""

import asyncio
import json
import os
import pty
import select
import signal
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lucid_events.config import Settings
from lucid_events.service import connect
from tests.end_to_end.pipeline import Pipeline
from tests.end_to_end.processes import ROOT, lucid

SID = "replayed"
SIZE = 25_000
WITHIN_S = 60.0


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    """One pipeline with one recording of three chunks, which no test here changes."""
    folder = tmp_path_factory.mktemp("replay")
    source = folder / "source"
    source.write_bytes(os.urandom(SIZE))
    with Pipeline(folder / "pipeline") as pipeline:
        pipeline.cli("record", SID, str(source), "--chunk-bytes", "10000")
        yield pipeline


def said(pipeline: Pipeline, *words: str) -> list[dict[str, Any]]:
    """What a command prints as JSON."""
    return [json.loads(line) for line in pipeline.cli(*words, "--json").stdout.splitlines()]


def test_a_replay_is_chosen_by_type_time_and_sequence(shared: Pipeline) -> None:
    """Session, type, sequences and times each narrow a replay down, both ends included."""
    everything = said(shared, "replay", SID)
    assert [one["type"] for one in said(shared, "replay")] == [one["type"] for one in everything]
    ready = said(shared, "replay", SID, "--type", "chunk.ready")
    assert ready == [one for one in everything if one["type"].startswith("chunk.ready")]
    assert sorted(one["data"]["index"] for one in ready) == [0, 1, 2]
    first, last = everything[2], everything[5]
    for start, end in (("sequence", "sequence"), ("stored_at", "stored_at"), ("sequence", "stored_at")):
        chosen = said(shared, "replay", SID, "--from", str(first[start]), "--to", str(last[end]))
        assert chosen == everything[2:6], (start, end)


def test_a_status_as_of_then_knows_nothing_of_later(shared: Pipeline) -> None:
    """At the time of every event the status is that of the history until then; before it there is none."""
    everything = said(shared, "replay", SID)
    for count, event in enumerate(everything, 1):
        (view,) = said(shared, "replay", SID, "--as-of", event["stored_at"])
        assert (view["events"], view["position"]["sequence"]) == (count, event["sequence"])
    assert "captured" not in shared.cli("replay", SID, "--as-of", everything[3]["stored_at"]).stdout
    early = shared.cli("replay", SID, "--as-of", "2020-01-01", check=False)
    assert (early.returncode, "it began at" in early.stderr) == (3, True)


def test_a_recording_agrees_with_the_rules_and_views_of_today(shared: Pipeline) -> None:
    """Every append of a fresh recording is decided alike again, and its view is what the history says."""
    (present,) = said(shared, "replay", SID, "--against", "present")
    assert (present["differ"], present["untold"]) == (0, 0)
    assert present["events"] == present["decided"] == len(said(shared, "replay", SID))
    (view,) = said(shared, "replay", "--against", "1")
    assert (view["differ"], view["events"]) == (0, present["events"])


def test_a_view_that_was_changed_does_not_agree(pipelines: Callable[..., Pipeline]) -> None:
    """A stored view that is not what its history says is named by field, with status 7."""
    pipeline = pipelines()
    pipeline.cli("create", "changed", "--owner", "ann")
    pipeline.cli("status", "changed", "--min-version", "1")

    async def change() -> None:
        async with connect(Settings(nats_url=pipeline.url)) as client:
            views = client.adapters.kv(client.subjects.status_bucket(1))
            found = await views.get("s.changed")
            assert found is not None
            await views.put("s.changed", found[0].replace(b"ann", b"eve"))

    asyncio.run(change())
    done = pipeline.cli("replay", "changed", "--against", "1", check=False)
    assert done.returncode == 7
    assert "owner is not what the history says at 1" in done.stdout


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--speed", "step"), "standard input is no terminal"),
        (("--break", "chunk.ready"), "standard input is no terminal"),
        (("--break", "chunk.eaten"), "is no event"),
        (("--speed", "warp"), "use max, step, or a factor"),
        (("--as-of", "1", "--type", "chunk.ready"), "three different questions"),
        (("--against", "yesterday"), "use present, or a generation"),
    ],
)
def test_what_can_not_be_replayed_is_refused(shared: Pipeline, words: tuple[str, ...], reason: str) -> None:
    """Steps without a terminal, and words that mean nothing, are errors that say what to do."""
    done = shared.cli("replay", SID, *words, check=False)
    assert (done.returncode, reason in done.stderr) == (2, True), done.stderr


def test_steps_and_breaks_wait_for_a_key(shared: Pipeline) -> None:
    """On a terminal each step waits for a key, a break before its events only, and q ends the replay."""
    everything = [one["type"] for one in said(shared, "replay", SID)]
    with Terminal(shared, "replay", SID, "--speed", "step", "--json") as terminal:
        for _ in range(3):
            terminal.expect("any key goes on")
            terminal.press("x")
        terminal.expect("any key goes on, q ends")
        terminal.press("q")
        assert [one["type"] for one in terminal.lines()] == everything[:3]
        assert terminal.rest() == ""
    with Terminal(shared, "replay", SID, "--break", "session.stopping", "--json") as terminal:
        terminal.expect("session.stopping: any key goes on")
        terminal.press("x")
        assert [one["type"] for one in terminal.lines()] == everything


def test_an_interrupt_while_it_waits_is_no_error(shared: Pipeline) -> None:
    """Ctrl-C between two events ends a replay with 130, and nothing but the prompt was said."""
    with Terminal(shared, "replay", SID, "--speed", "step", "--json") as terminal:
        terminal.expect("any key goes on, q ends")
        terminal.interrupt()
        assert terminal.lines(status=130) == []
        assert terminal.rest() == ""


@pytest.mark.parametrize("words", [("replay",), ("events",), ("replay", SID, "--type", "chunk.ready")])
@pytest.mark.parametrize("form", [(), ("--json",)])
def test_a_reader_who_has_enough_ends_it_quietly(
    shared: Pipeline, words: tuple[str, ...], form: tuple[str, ...]
) -> None:
    """Nobody reads the output (`| head` has ended): no error, and nothing is said."""
    theirs, output = os.pipe()
    os.close(theirs)
    try:
        done = subprocess.run(
            [*lucid(), *words, *form],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.PIPE,
            env={**shared.env, "NATS_URL": shared.url},
            cwd=ROOT,
            timeout=WITHIN_S,
            check=False,
        )
    finally:
        os.close(output)
    assert (done.returncode, done.stderr) == (0, b"")


class Terminal:
    """A command whose input and messages are a terminal, and whose data goes to a pipe."""

    def __init__(self, pipeline: Pipeline, *words: str) -> None:
        self._ours, theirs = pty.openpty()
        self._said = ""
        self._process = subprocess.Popen(
            [*lucid(), *words],
            stdin=theirs,
            stdout=subprocess.PIPE,
            stderr=theirs,
            env={**pipeline.env, "NATS_URL": pipeline.url},
            cwd=ROOT,
        )
        os.close(theirs)

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        os.close(self._ours)

    def expect(self, text: str) -> None:
        """Wait until the terminal shows `text`, and forget everything up to it."""
        while text not in self._said.replace("\r\n", " "):
            readable, _, _ = select.select([self._ours], [], [], WITHIN_S)
            assert readable, f"{text!r} was not shown, but {self._said!r}"
            self._said += os.read(self._ours, 4096).decode()
        self._said = self._said.replace("\r\n", " ").partition(text)[2]

    def press(self, key: str) -> None:
        """Press a key."""
        os.write(self._ours, key.encode())

    def interrupt(self) -> None:
        """Send what Ctrl-C sends."""
        self._process.send_signal(signal.SIGINT)

    def lines(self, status: int = 0) -> list[dict[str, Any]]:
        """Wait for the end and return the data."""
        assert self._process.stdout is not None
        data = self._process.stdout.read()
        assert self._process.wait(WITHIN_S) == status
        return [json.loads(line) for line in data.splitlines()]

    def rest(self) -> str:
        """Return what else was said, once the command has ended."""
        while select.select([self._ours], [], [], 0)[0]:
            try:
                self._said += os.read(self._ours, 4096).decode()
            except OSError:  # nobody has the other end any more
                break
        return self._said.strip()
