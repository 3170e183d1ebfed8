"""`lucid record` and `lucid play` of files, pipes and commands, on a running pipeline."""

import hashlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor as Pool
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.end_to_end.pipeline import Pipeline
from tests.end_to_end.processes import Running, lucid, until

SHOWN_S = 20.0
"""Bound of what must be seen once it has happened."""
REACHES_S = 1.0
"""How soon a running recorder has to follow a pause, a resume or a stop."""
TICKING = "while :; do date +%s.%N; sleep 0.02; done"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    """Run one pipeline for the tests of this file; each has sessions of its own."""
    with Pipeline(tmp_path_factory.mktemp("recording")) as pipeline:
        yield pipeline


def play(pipeline: Pipeline, session: str, *args: str) -> bytes:
    """Return what `lucid play` writes to standard output."""
    words = [*lucid(), "play", session, *args]
    env = {**pipeline.env, "NATS_URL": pipeline.url}
    return subprocess.run(words, env=env, stdout=subprocess.PIPE, timeout=60, check=True).stdout


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


def times(pipeline: Pipeline, session: str) -> dict[str, float]:
    """Return when each kind of event was stored first, by the server's clock."""
    found: dict[str, float] = {}
    for line in pipeline.cli("replay", session, "--json").stdout.splitlines():
        event = json.loads(line)
        found.setdefault(event["type"], datetime.fromisoformat(event["stored_at"]).timestamp())
    return found


def test_a_file_is_recorded_and_played(shared: Pipeline, rng: Random, tmp_path: Path) -> None:
    """A file comes back byte for byte, to a file and from any offset, and the totals say its digest."""
    source, played = tmp_path / "source", tmp_path / "played"
    data = rng.randbytes(3_000_000)
    source.write_bytes(data)
    totals = json.loads(
        shared.cli("record", "file", str(source), "--chunk-bytes", "1048576", "--json").stdout
    )
    assert totals["sha256"] == hashlib.sha256(data).hexdigest()
    assert (totals["bytes"], totals["chunks"], totals["gaps"]) == (3_000_000, 3, 0)
    played.write_bytes(b"an older recording")
    shared.cli("play", "file", "-o", str(played))
    assert played.read_bytes() == data
    for offset in (0, 1, 1_048_575, 1_048_576, 2_999_999, 3_000_000):
        assert play(shared, "file", "--from", str(offset)) == data[offset:]
    done = shared.cli("play", "file", "--json", "-o", os.devnull)
    assert json.loads(done.stderr) == {"session_id": "file", "bytes": 3_000_000, "missing": []}
    assert shared.cli("play", "file", "--from", "noon", "-o", os.devnull, check=False).returncode == 2
    absent = shared.cli("record", "no-file", str(tmp_path / "absent"), check=False)
    assert absent.returncode == 2
    assert "absent" in absent.stderr


def test_a_finished_session_is_not_recorded_over(shared: Pipeline, tmp_path: Path) -> None:
    """Recording into a stopped session is refused with what is allowed; `--recover` goes on where it was."""
    source = tmp_path / "source"
    source.write_bytes(b"a" * 5000)
    shared.cli("record", "again", str(source))
    refused = shared.cli("record", "again", str(source), check=False)
    assert refused.returncode == 3
    assert "recover" in refused.stderr
    source.write_bytes(b"a" * 5000 + b"b" * 5000)
    shared.cli("record", "again", str(source), "--recover")
    assert play(shared, "again") == b"a" * 5000 + b"b" * 5000


def shows(process: Running, expected: bytes) -> None:
    """Return when the process has written `expected` and nothing else."""
    until(
        lambda: process.out_path.read_bytes() == expected,
        within_s=SHOWN_S,
        what=f"{len(expected)} bytes are played while recording",
    )


def test_a_pipe_is_followed_while_it_is_recorded(shared: Pipeline) -> None:
    """`play --follow` shows each chunk while the recording goes on, and ends with it."""
    read, write = os.pipe()
    recording = shared.spawn("record", "piped", "-", "--chunk-bytes", "4096", "--json", stdin=read)
    os.close(read)
    until_state(shared, "piped", "active")
    following = shared.spawn("play", "piped", "--follow")
    watching = shared.spawn("status", "piped", "--watch", "--json")
    blocks = [bytes([65 + number]) * 4096 for number in range(4)]
    for number, block in enumerate(blocks, 1):
        os.write(write, block)
        shows(following, b"".join(blocks[:number]))
        assert recording.code is None
    os.write(write, b"the end")
    os.close(write)
    assert [process.wait() for process in (recording, following, watching)] == [0, 0, 0]
    assert following.out_path.read_bytes() == b"".join(blocks) + b"the end"
    views = [json.loads(line) for line in watching.out.splitlines()]
    assert views[-1]["state"] == "stopped"
    assert [v["position"]["sequence"] for v in views] == sorted(v["position"]["sequence"] for v in views)


def test_playing_begins_at_a_time(shared: Pipeline) -> None:
    """`--from 90s`, `1:30` and a UTC time begin at the chunk recorded then; later is an error."""
    read, write = os.pipe()
    recording = shared.spawn("record", "timed", "-", "--chunk-bytes", "4096", stdin=read)
    os.close(read)
    os.write(write, b"1" * 4096)

    def sealed() -> list[dict[str, Any]]:
        done = shared.cli("chunks", "list", "timed", "--json", check=False)
        return [json.loads(line)["sealed"] for line in done.stdout.splitlines() if '"sealed"' in line]

    until(sealed, within_s=SHOWN_S, what="the first chunk is sealed")
    first = datetime.fromisoformat(sealed()[0]["ended_at"]).timestamp()
    until(lambda: time.time() > first + 1.0, within_s=SHOWN_S, what="a second has passed")
    os.write(write, b"2" * 4096)
    os.close(write)
    assert recording.wait() == 0
    began = times(shared, "timed")["recorder.attached.v1"]
    into = sealed()[1]["started_at"]
    assert play(shared, "timed", "--from", into) == b"2" * 4096
    assert play(shared, "timed", "--from", f"{first - began + 0.5:.3f}s") == b"2" * 4096
    assert play(shared, "timed", "--from", "0s") == b"1" * 4096 + b"2" * 4096
    assert play(shared, "timed", "--from", "0:00") == b"1" * 4096 + b"2" * 4096
    for late in ("90s", "1:30"):
        refused = shared.cli("play", "timed", "--from", late, check=False)
        assert (refused.returncode, refused.stdout) == (3, "")
        assert "timed was recorded until" in refused.stderr


def test_a_command_is_recorded_with_its_status(shared: Pipeline, tmp_path: Path) -> None:
    """A command's output is the recording, its status ours, its standard error shown or in a file."""
    script = "echo out; echo said-why >&2; exit 3"
    done = shared.cli("record", "command", "--json", "--", "sh", "-c", script, check=False)
    assert done.returncode == 3
    assert json.loads(done.stdout)["exit_code"] == 3
    assert "said-why" in done.stderr
    assert play(shared, "command") == b"out\n"
    detached = [
        json.loads(line)
        for line in shared.cli("replay", "command", "--json").stdout.splitlines()
        if '"recorder.detached.v1"' in line
    ]
    assert detached[0]["data"]["exit_code"] == 3
    kept = tmp_path / "stderr"
    done = shared.cli("record", "kept", "--stderr-file", str(kept), "--", "sh", "-c", script, check=False)
    assert (done.returncode, kept.read_text()) == (3, "said-why\n")
    assert "said-why" not in done.stderr.replace(script, "")
    assert shared.cli("record", "silent", "--", "true").returncode == 0
    assert play(shared, "silent") == b""
    assert shared.cli("record", "absent", "--", "no-such-program", check=False).returncode == 2
    assert shared.cli("record", "words", "a", "b", check=False).returncode == 2


def test_pause_resume_and_stop_reach_a_recorder_at_once(shared: Pipeline, tmp_path: Path) -> None:
    """A running recorder follows each within a second, and a session goes on with the same recorder."""
    acked = tmp_path / "acked"
    words = ("record", "driven", "--acked-file", str(acked), "--json", "--", "sh", "-c", TICKING)
    recording = shared.spawn(*words)
    until_state(shared, "driven", "active")
    until(lambda: acked.exists() and acked.read_text(), within_s=SHOWN_S, what="bytes are acked")
    shared.cli("pause", "driven")
    until_state(shared, "driven", "paused")
    paused_at = int(acked.read_text().split()[-1])
    shared.cli("resume", "driven")
    resumed = time.monotonic()
    until(
        lambda: int(acked.read_text().split()[-1]) > paused_at, within_s=SHOWN_S, what="bytes after the pause"
    )
    assert time.monotonic() - resumed < REACHES_S
    shared.cli("stop", "driven")
    assert recording.wait() == 0  # all is stored; that the shell was interrupted was our wish
    assert json.loads(recording.out)["exit_code"] != 0
    until_state(shared, "driven", "stopped")
    when = times(shared, "driven")
    assert when["session.paused.v1"] - when["session.pausing.v1"] < REACHES_S
    assert when["recorder.drained.v1"] - when["session.pausing.v1"] < REACHES_S
    assert when["recorder.detached.v1"] - when["session.stopping.v1"] < REACHES_S
    ticks = [float(line) for line in play(shared, "driven").split()]
    assert ticks == sorted(ticks)


def test_a_second_recorder_waits_or_takes_over(shared: Pipeline) -> None:
    """A living recorder makes another wait and say so; with `--takeover` it is replaced and ends with 5."""
    first = shared.spawn("record", "taken", "--", "sh", "-c", TICKING)
    until_state(shared, "taken", "active")
    waiting = shared.spawn("record", "taken", "--append", "--", "sh", "-c", "echo no")
    until(
        lambda: "takeover" in waiting.err, within_s=SHOWN_S, what="the second recorder says what it waits for"
    )
    assert waiting.err.count("waiting for another recorder") == 1
    waiting.kill9()
    second = shared.cli("record", "taken", "--takeover", "--append", "--", "sh", "-c", "echo the second")
    assert second.returncode == 0
    assert first.wait() == 5
    assert "took over" in first.err
    assert play(shared, "taken").endswith(b"the second\n")


def test_a_supervisor_is_not_kept_waiting(pipelines: Callable[..., Pipeline]) -> None:
    """With a server that stores nothing more, a SIGTERM ends in its time and says how to go on."""
    pipeline = pipelines()
    read, write = os.pipe()
    recording = pipeline.spawn("record", "held", "-", "--json", stdin=read)
    os.close(read)
    until_state(pipeline, "held", "active")
    os.kill(pipeline.server_pid, signal.SIGSTOP)
    try:
        os.write(write, b"nobody takes this")
        recording.signal(signal.SIGTERM)
        assert recording.wait(within_s=SHOWN_S) == 130
    finally:
        os.kill(pipeline.server_pid, signal.SIGCONT)
        os.close(write)
    error = json.loads(recording.out.splitlines()[-1])["error"]
    assert error["message"].startswith("interrupted: not everything was stored within 5 s")
    assert error["again"].startswith("lucid record held")


def test_a_page_says_the_whole_next_command(shared: Pipeline) -> None:
    """What comes behind a page of some sessions is asked for with the same words."""
    for name in ("page-1", "page-2"):
        shared.cli("create", name)
    said = shared.cli("sessions", "--state", "created", "--limit", "1").stderr
    again = said.partition("more: lucid ")[2].split()
    assert again[:-1] == ["sessions", "--state", "created", "--limit", "1", "--after"]
    assert shared.cli(*again).returncode == 0


def test_a_refused_recording_names_the_way_back(shared: Pipeline, tmp_path: Path) -> None:
    """Recording into a stopped session says the command that goes on; options of a new one are named."""
    source = tmp_path / "source"
    source.write_bytes(b"a")
    shared.cli("record", "back", str(source))
    refused = shared.cli("record", "back", str(source), check=False)
    assert f"lucid record back {source} --recover" in refused.stderr
    again = shared.cli("record", "back", str(source), "--recover", "--codec", "zstd")
    assert "it keeps its owner, label and settings" in again.stderr


def test_a_server_that_is_away_at_the_start_is_waited_for(pipelines: Callable[..., Pipeline]) -> None:
    """The source is not begun meanwhile, so no byte of it is lost, and it is said what is waited for."""
    pipeline = pipelines()
    pipeline.kill9()
    began = pipeline.folder / "began"
    read, write = os.pipe()
    piped = pipeline.spawn("record", "piped", "-", "--json", stdin=read)
    os.close(read)
    os.write(write, b"the first bytes")
    os.close(write)
    program = pipeline.spawn("record", "program", "--json", "--", "sh", "-c", f"echo up; : > {began}")
    for waiting in (piped, program):
        until(
            lambda: "waiting for the server" in waiting.err,  # noqa: B023 - looked at in this turn
            within_s=SHOWN_S,
            what="the server is waited for",
        )
    assert not began.exists()
    pipeline.start()
    assert [piped.wait(), program.wait()] == [0, 0]
    assert began.exists()
    assert play(pipeline, "piped") == b"the first bytes"
    assert play(pipeline, "program") == b"up\n"


def test_a_wait_for_the_server_ends_when_told(pipelines: Callable[..., Pipeline]) -> None:
    """One Ctrl-C, or a supervisor's signal, ends a recording that has not begun, and nothing was read."""
    pipeline = pipelines()
    pipeline.kill9()
    began = pipeline.folder / "began"
    words = ("--", "sh", "-c", f": > {began}")
    for number in (signal.SIGINT, signal.SIGTERM):
        name = f"ended-{number.name}"
        waiting = pipeline.spawn("record", name, "--json", *words)
        until(lambda: "waiting for the server" in waiting.err, within_s=SHOWN_S, what="it waits")  # noqa: B023 - as above
        waiting.signal(number)
        assert waiting.wait(within_s=SHOWN_S) == 130
        error = json.loads(waiting.out)["error"]
        assert error["message"].startswith(f"interrupted: the recording of {name} had not begun")
        assert (error["code"], error["safe_offset"], error["read_offset"]) == ("interrupted", 0, 0)
    assert not began.exists()


def test_what_was_cut_off_says_what_is_in_the_spool(pipelines: Callable[..., Pipeline], rng: Random) -> None:
    """Cut off with a spool too small for all of it, each byte is durable, in the spool, or told as lost."""
    limits = {"LUCID_SPOOL_MAX_MB": "1", "LUCID_SPOOL_AFTER": "0.2", "LUCID_WINDOW_MB": "1"}
    pipeline = pipelines(env={**limits, "LUCID_LEASE": "30"})
    data, spool, acked = rng.randbytes(20_000_000), pipeline.folder / "spool", pipeline.folder / "acked"
    read, write = os.pipe()
    flags = ("--spool", str(spool), "--acked-file", str(acked), "--json")
    recording = pipeline.spawn("record", "small", "-", *flags, stdin=read)
    os.close(read)
    os.write(write, data[:1000])
    until(lambda: acked.exists() and "1000" in acked.read_text(), within_s=SHOWN_S, what="bytes are durable")
    os.kill(pipeline.server_pid, signal.SIGSTOP)
    try:
        with Pool(1) as feeder:
            feeding = feeder.submit(os.write, write, data[1000:])
            until(lambda: _full(spool), within_s=SHOWN_S, what="the spool is full")
            for number in (signal.SIGTERM, signal.SIGINT):  # two of one kind may arrive as one
                recording.signal(number)
            until(lambda: recording.out, within_s=SHOWN_S, what="it is told")
            assert recording.wait() == 130
            with suppress(BrokenPipeError):
                feeding.result()
    finally:
        os.kill(pipeline.server_pid, signal.SIGCONT)
        os.close(write)
    error = json.loads(recording.out)["error"]
    safe, spooled, told = error["safe_offset"], error["spool_offset"], error["read_offset"]
    assert safe == 1000
    assert safe < spooled < told
    assert f"bytes {safe} to {spooled}" in error["message"]
    assert f"bytes {spooled} to {told}" in error["message"]
    again = error["again"].split()
    assert again[:2] == ["lucid", "record"]
    pipeline.cli(*again[1:])
    played = play(pipeline, "small")
    assert len(played) >= spooled  # what the server was sent, and had not confirmed, may be there, too
    assert played == data[: len(played)]


def _full(spool: Path) -> bool:
    return sum(one.stat().st_size for one in spool.glob("*.spool")) == 1024 * 1024
