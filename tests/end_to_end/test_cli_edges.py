"""What a new user gets wrong, or is surprised by: each is told plainly, and nothing claims a success."""

import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.end_to_end.pipeline import Pipeline
from tests.end_to_end.processes import until

SHOWN_S = 20.0
"""Bound of what must be seen once it has happened."""
START_TIMEOUT_S = 4.0


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    """Run one pipeline for the tests of this file; each has sessions of its own."""
    quick = {"LUCID_START_TIMEOUT": str(START_TIMEOUT_S)}
    with Pipeline(tmp_path_factory.mktemp("edges"), quick) as pipeline:
        yield pipeline


def status(pipeline: Pipeline, session: str) -> dict[str, Any]:
    """Return the session's status; empty when there is none yet."""
    done = pipeline.cli("status", session, "--json", check=False)
    return dict(json.loads(done.stdout)) if done.returncode == 0 else {}


def refused(pipeline: Pipeline, code: int, *args: str, **env: str) -> str:
    """Run a command that must end with `code`; return what it says, which is short and no traceback."""
    done = pipeline.cli(*args, check=False, env=env)
    assert done.returncode == code, (args, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) < 10, done.stderr
    return done.stderr


def recorded(pipeline: Pipeline, session: str, data: bytes, folder: Path, *args: str) -> None:
    """Record `data` from a file."""
    source = folder / f"{session}.bin"
    source.write_bytes(data)
    pipeline.cli("record", session, str(source), *args)


def test_a_second_interrupt_says_what_is_durable_and_how_to_go_on(
    shared: Pipeline, rng: Random, tmp_path: Path
) -> None:
    """It ends at once, names the safe offset, and the command it gives completes the recording."""
    source = tmp_path / "growing.bin"
    data = rng.randbytes(50_000)
    source.write_bytes(data)
    # Without the part that stores chunks the first interrupt can't come to its end.
    script = f"cat {source}; exec sleep 600"
    stubborn = f"trap '' INT TERM; {script}"
    recording = shared.spawn("record", "twice", "--", "sh", "-c", stubborn)
    until(
        lambda: (status(shared, "twice").get("captured") or {}).get("offset") == len(data),
        within_s=SHOWN_S,
        what="all of it is captured",
    )
    recording.signal(signal.SIGINT)
    until(lambda: "stopping" in recording.err, within_s=SHOWN_S, what="the first interrupt is answered")
    recording.signal(signal.SIGINT)
    assert recording.wait() == 130
    assert f"bytes of twice up to {len(data)}" in recording.err
    assert "go on with: lucid record twice --recover --append -- sh -c" in recording.err
    shared.cli("record", "twice", "--recover", "--append", "--", "sh", "-c", "printf more")
    played = tmp_path / "played"
    shared.cli("play", "twice", "-o", str(played))
    assert played.read_bytes() == data + b"more"


def test_a_named_pipe_without_a_writer_is_a_recording_that_waits(shared: Pipeline, tmp_path: Path) -> None:
    """The recorder attaches and beats while nobody writes, and an interrupt ends it in order."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    recording = shared.spawn("record", "fifo", str(pipe), "--json")
    until(lambda: status(shared, "fifo").get("state") == "active", within_s=SHOWN_S, what="it is active")
    into = os.open(pipe, os.O_WRONLY)
    os.write(into, b"through a pipe")
    until(
        lambda: (status(shared, "fifo").get("captured") or {}).get("offset") == 14,
        within_s=SHOWN_S,
        what="what is written is captured",
    )
    os.close(into)
    assert recording.wait() == 0
    assert json.loads(recording.out)["bytes"] == 14
    waiting = shared.spawn("record", "fifo-2", str(pipe), "--json")
    until(lambda: status(shared, "fifo-2").get("state") == "active", within_s=SHOWN_S, what="it is active")
    waiting.signal(signal.SIGINT)
    assert waiting.wait() == 0


def test_captured_bytes_are_shown_before_they_are_a_chunk(shared: Pipeline) -> None:
    """`status` tells how far capture has got and how much of it is in no chunk; in the end nothing is."""
    read, write = os.pipe()
    recording = shared.spawn("record", "gauge", "-", stdin=read)
    os.close(read)
    os.write(write, b"x" * 5000)
    until(
        lambda: (status(shared, "gauge").get("captured") or {}).get("offset") == 5000,
        within_s=SHOWN_S,
        what="the gauge shows what is captured",
    )
    found = status(shared, "gauge")
    assert (found["captured"]["unsealed_bytes"], found["captured"]["unstored_bytes"]) == (5000, 5000)
    assert found["sealed_offset"] == 0
    assert "4.9 KiB not yet stored" in shared.cli("status", "gauge").stdout
    watching = shared.spawn("status", "gauge", "--watch", "--json")
    watching.says('"captured"')
    os.close(write)
    assert recording.wait() == 0
    assert watching.wait() == 0
    last = json.loads(watching.out.splitlines()[-1])
    assert (last["state"], last["captured"]["offset"], last["captured"]["unstored_bytes"]) == (
        "stopped",
        5000,
        0,
    )


def test_an_active_session_without_a_recorder_says_so_and_ends(shared: Pipeline, tmp_path: Path) -> None:
    """A recorder that left without a stop is missed: status says it, and the session ends in error."""
    recorded(shared, "left", b"x" * 3000, tmp_path)
    # It attaches, finds that a pipe can't be read from where the recording ends, and leaves again.
    message = refused(shared, 2, "record", "left", "--recover", "--", "true")
    assert "--append" in message
    assert "none is attached, nothing is being recorded" in shared.cli("status", "left").stdout
    until(lambda: status(shared, "left")["state"] == "error", within_s=SHOWN_S, what="it is given up")
    assert status(shared, "left")["last_error"]["code"] == "attach_timeout"


def test_a_beginning_behind_the_end_is_an_error(shared: Pipeline, tmp_path: Path) -> None:
    """`play --from` and `mark --offset` name the end, and leave no file behind."""
    recorded(shared, "short", b"x" * 3000, tmp_path)
    output = tmp_path / "out"
    message = refused(shared, 3, "play", "short", "--from", "3001", "-o", str(output))
    assert "ends at byte 3000" in message
    assert list(tmp_path.glob("out*")) == []
    assert "ends at byte 3000" in refused(shared, 3, "play", "short", "--from", "3001", "--follow", "-o", "x")
    assert "ends at byte 3000" in refused(shared, 3, "mark", "short", "late", "--offset", "3001")
    shared.cli("mark", "short", "the end", "--offset", "3000")


def test_what_does_not_exist_is_said(shared: Pipeline) -> None:
    """Events of a session that is not there are not the same as none."""
    assert "there is no session nosuch" in refused(shared, 3, "events", "--session", "nosuch")
    shared.cli("create", "empty")
    assert shared.cli("events", "--session", "empty", "--type", "chunk.ready").stdout == ""


def test_a_wrong_option_is_named(shared: Pipeline, tmp_path: Path) -> None:
    """A chunk size out of range is the option's fault, whichever command it is given to."""
    source = tmp_path / "source"
    source.write_bytes(b"x")
    for words in (("record", "wrong", str(source)), ("create", "wrong")):
        message = refused(shared, 2, *words, "--chunk-bytes", "5")
        assert "--chunk-bytes" in message
        assert "1024" in message
    assert status(shared, "wrong") == {}


def test_erased_chunks_are_not_ready(shared: Pipeline, tmp_path: Path) -> None:
    """After a cleanup the list says that the bytes are gone, and so does who asks for one."""
    recorded(shared, "gone", b"x" * 3000, tmp_path)
    shared.cli("cleanup", "gone")
    until(lambda: status(shared, "gone")["state"] == "destroyed", within_s=SHOWN_S, what="it is erased")
    (line,) = shared.cli("chunks", "list", "gone", "--json").stdout.splitlines()
    assert json.loads(line)["state"] == "erased"
    assert "is erased" in refused(shared, 3, "chunks", "get", "gone", "0")


def test_missing_credentials_are_an_error(shared: Pipeline, tmp_path: Path) -> None:
    """A credentials file that isn't there is named, although the server would let anyone in."""
    message = refused(shared, 2, "sessions", NATS_CREDS=str(tmp_path / "absent.creds"))
    assert "absent.creds" in message
    assert "NATS_CREDS" in message


def test_a_port_that_is_taken_is_one_line(shared: Pipeline, tmp_path: Path) -> None:
    """`lucid up` says who has the port and what to do, not what the server logged."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        env = {"NATS_URL": ""}
        done = shared.cli("up", "--data", str(tmp_path), "--port", str(port), env=env, check=False)
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if "error" in line]
    assert f"port {port} is taken by process {os.getpid()}" in line
    assert len(done.stderr.splitlines()) == 1
