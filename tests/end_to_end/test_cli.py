"""The command line as people and scripts use it: sessions, their life, their errors."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from lucid_events import errors
from lucid_events.cli import app
from lucid_events.cli.exits import EXIT_CODES, exit_code
from tests.end_to_end.pipeline import Pipeline
from tests.end_to_end.processes import Running, lucid, until

SHOWN_S = 20.0
"""Bound of what a following command shows once it has happened."""

COMMANDS = {
    *("up", "worker", "deploy", "doctor", "rebuild", "demo", "record", "play", "sessions", "status"),
    *("create", "start", "pause", "resume", "stop", "fail", "recover", "mark", "hold", "release"),
    *("cleanup", "destroy", "replay", "events", "schemas export", "chunks list", "chunks get"),
    *("chunks sweep", "dlq list", "dlq show", "dlq redrive", "dlq drop"),
    *("audit verify", "audit export", "audit checkpoint", "audit checkpoints"),
    *("audit reconcile", "projections list", "projections rebuild", "projections compare"),
    *("projections switch", "projections rollback", "projections drop"),
    *("keys generate", "keys show", "keys rotate", "serve", "tokens add", "tokens list", "tokens revoke"),
    *("analytics", "retention explain", "retention due", "backup create", "backup verify", "backup restore"),
}
"""Every command there is, each of them used for real in the files of this folder."""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    """Run one pipeline for the tests of this file; each has sessions of its own."""
    with Pipeline(tmp_path_factory.mktemp("cli"), {"LUCID_START_TIMEOUT": "60"}) as pipeline:
        yield pipeline


def said(pipeline: Pipeline, *args: str) -> list[dict[str, Any]]:
    """Return the objects that a command prints with --json."""
    return [json.loads(line) for line in pipeline.cli(*args, "--json").stdout.splitlines()]


def refused(pipeline: Pipeline, code: int, *args: str) -> dict[str, Any]:
    """Return the error a command ends with, which has to be of status `code`, in words and in JSON."""
    done = pipeline.cli(*args, check=False)
    assert done.returncode == code, (args, done.stdout, done.stderr)
    assert done.stderr.startswith("error (")
    assert "Traceback" not in done.stderr
    done = pipeline.cli(*args, "--json", check=False)
    assert done.returncode == code
    return dict(json.loads(done.stdout)["error"])


def recorded(pipeline: Pipeline, session: str, data: bytes, *args: str) -> dict[str, Any]:
    """Record `data` from a pipe and return the totals."""
    done = subprocess.run(
        [*lucid(), "record", session, "-", "--json", *args],
        env={**pipeline.env, "NATS_URL": pipeline.url},
        input=data,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return dict(json.loads(done.stdout))


def all_commands(group: Any, above: str = "") -> Iterator[str]:
    """Yield every command that a user can type."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from all_commands(command, f"{above}{name} ")
        else:
            yield above + name


def test_every_command_explains_itself() -> None:
    """`--help` of every command and group works without a server and says what the command does."""
    assert set(all_commands(typer.main.get_command(app))) == COMMANDS
    for words in ["", "chunks", "dlq", "schemas", *sorted(COMMANDS)]:
        shown = CliRunner().invoke(app, [*words.split(), "--help"])
        assert shown.exit_code == 0, words
        assert "Usage:" in shown.output
        assert len(shown.output.splitlines()) > 5


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_generated(shell: str) -> None:
    """The completion script of each shell is printed, and completing a word offers the commands."""
    env = {**os.environ, "_LUCID_COMPLETE": f"source_{shell}"}
    script = subprocess.run(lucid(), env=env, capture_output=True, text=True, timeout=30, check=True)
    assert "_LUCID_COMPLETE" in script.stdout
    if shell == "bash":
        asked = {"_LUCID_COMPLETE": "complete_bash", "COMP_WORDS": "lucid rec", "COMP_CWORD": "1"}
        done = subprocess.run(
            lucid(), env={**os.environ, **asked}, capture_output=True, text=True, timeout=30, check=True
        )
        assert done.stdout.split() == ["record", "recover"]


def test_every_error_has_an_exit_status() -> None:
    """Each leaf of the error tree has a row of its own, and what has none ends with 1."""
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    leaves = [kind for kind in kinds if issubclass(kind, errors.LucidError) and not kind.__subclasses__()]
    assert len(leaves) >= 10
    assert [leaf.__name__ for leaf in leaves if leaf not in EXIT_CODES] == []
    assert all(0 < exit_code(leaf("x")) < 126 for leaf in leaves)
    assert exit_code(RuntimeError()) == 1


def test_a_life_from_create_to_destroy(shared: Pipeline) -> None:
    """Each verb brings about what it says, a repeated id the same once more, and holds keep a session."""
    sid = "life"
    (made,) = said(shared, "create", sid, "--owner", "ann", "--label", "a b", "--meta", "k=v=w", "--id", "i1")
    assert (made["outcome"], made["state"], made["repeated"]) == ("accepted", "created", False)
    (again,) = said(shared, "create", sid, "--id", "i1")
    assert (again["version"], again["repeated"]) == (made["version"], True)
    assert shared.cli("start", sid).stdout.startswith(f"{sid}: starting")
    (marked,) = said(shared, "mark", sid, "here")
    assert [event["type"] for event in marked["events"]] == ["session.marked.v1"]
    assert said(shared, "stop", sid, "--reason", "done")[0]["state"] in ("stopping", "stopped")
    watched = said(shared, "status", sid, "--watch")
    assert watched[-1]["state"] == "stopped"
    assert (watched[-1]["owner"], watched[-1]["metadata"]) == ("ann", {"k": "v=w"})
    assert said(shared, "recover", sid)[0]["state"] == "created"
    assert said(shared, "fail", sid, "--reason", "for a test")[0]["state"] == "error"
    said(shared, "hold", sid, "audit")
    assert refused(shared, 3, "cleanup", sid)["code"] == "held"
    assert refused(shared, 3, "destroy", sid)["code"] == "held"
    said(shared, "release", sid, "audit")
    assert said(shared, "destroy", sid)[0]["state"] == "destroyed"
    error = refused(shared, 3, "start", sid)
    assert (error["code"], error["allowed"]) == ("illegal_transition", [])
    assert "destroyed" in shared.cli("status", sid).stdout


def test_cleanup_erases_and_keeps_the_history(shared: Pipeline) -> None:
    """After cleanup the bytes are gone, play says so, and the whole history can still be read."""
    sid = "erased"
    recorded(shared, sid, b"secret" * 1000)
    assert refused(shared, 3, "pause", sid)["allowed"] == ["recover", "cleanup"]
    assert refused(shared, 3, "destroy", sid)["message"]
    assert said(shared, "cleanup", sid, "-r", "asked for")[0]["state"] == "cleanup"

    def destroyed() -> bool:
        return bool(said(shared, "status", sid)[0]["state"] == "destroyed")

    until(destroyed, within_s=SHOWN_S, what=f"{sid} is destroyed")
    assert refused(shared, 3, "play", sid)["code"] == "not_found"
    kinds = [line["type"] for line in said(shared, "replay", sid)]
    assert kinds[0] == "session.created.v1"
    assert kinds[-1] == "session.destroyed.v1"
    assert "chunk.ready.v1" in kinds


def test_a_queued_command_is_handled(shared: Pipeline) -> None:
    """`--queued` returns once the command is stored, under the id given; its effect follows."""
    sid = "queued"
    (queued,) = said(shared, "create", sid, "--queued", "--id", "q1")
    assert (queued["outcome"], queued["command_id"]) == ("queued", "q1")

    def created() -> bool:
        return shared.cli("status", sid, check=False).returncode == 0

    until(created, within_s=SHOWN_S, what=f"{sid} is created")
    assert said(shared, "replay", sid)[0]["cause"] == "q1"


def test_sessions_are_paged(shared: Pipeline) -> None:
    """Pages hold what they are asked for, follow one another without a gap, and filter by owner and state."""
    names = {f"paged-{number}" for number in range(5)}
    for name in sorted(names):
        shared.cli("create", name, "--owner", "pager")
    shared.cli("start", "paged-3")
    found: list[str] = []
    cursor, pages = 0, 0
    while True:
        words = ("sessions", "--owner", "pager", "--limit", "2", "--after", str(cursor), "--json")
        done = shared.cli(*words)
        page = [json.loads(line)["session_id"] for line in done.stdout.splitlines()]
        found, pages = found + page, pages + 1
        if not done.stderr:
            break
        cursor = json.loads(done.stderr)["cursor"]
        assert len(page) == 2
    assert sorted(found) == sorted(names)
    assert pages == 3
    assert found[-1] == "paged-3"  # it moved last
    (started,) = said(shared, "sessions", "--owner", "pager", "--state", "starting")
    assert started["session_id"] == "paged-3"
    shown = shared.cli("sessions", "--owner", "pager", "--limit", "4")
    assert "paged-0" in shown.stdout
    assert shown.stderr.startswith("more: lucid sessions --owner pager --limit 4 --after ")


def test_chunks_are_listed_and_fetched(shared: Pipeline) -> None:
    """`chunks` lists every chunk with its place, `get` returns it raw or as stored, or says why not."""
    sid = "chunked"
    data = b"".join(b"%08d\n" % number for number in range(1000))
    totals = recorded(shared, sid, data, "--chunk-bytes", "4096", "--codec", "gzip")
    listed = said(shared, "chunks", "list", sid)
    assert [chunk["index"] for chunk in listed] == [0, 1, 2] == list(range(totals["chunks"]))
    assert {chunk["state"] for chunk in listed} == {"ready"}
    assert sum(chunk["sealed"]["size"] for chunk in listed) == len(data)
    assert "sha256" in shared.cli("chunks", sid).stdout
    assert shared.cli("chunks", "get", sid, "1").stdout.encode() == data[4096:8192]
    path = shared.folder / "chunk.gz"
    shared.cli("chunks", "get", sid, "2", "--stored", "-o", str(path))
    assert subprocess.run(["gzip", "-dc", str(path)], capture_output=True, check=True).stdout == data[8192:]
    done = shared.cli("chunks", "get", sid, "3", check=False)
    assert (done.returncode, "does not exist" in done.stderr) == (3, True)


def test_a_history_is_replayed_in_part_and_at_speed(shared: Pipeline) -> None:
    """`--from` and `--to` take versions and times, `--speed` keeps the order, and every line parses."""
    sid = "replayed"
    recorded(shared, sid, b"x" * 10_000, "--chunk-bytes", "4096")
    whole = said(shared, "replay", sid)
    first, last = whole[2]["sequence"], whole[-2]["sequence"]
    assert said(shared, "replay", sid, "--from", str(first), "--to", str(last)) == whole[2:-1]
    since = whole[3]["stored_at"]
    assert said(shared, "replay", sid, "--from", since) == [e for e in whole if e["stored_at"] >= since]
    assert said(shared, "replay", sid, "--speed", "100x") == whole
    assert len(shared.cli("replay", sid).stdout.splitlines()) == len(whole)
    assert [e["prev"] for e in whole[1:]] == [e["digest"] for e in whole[:-1]]
    assert refused(shared, 2, "replay", sid, "--speed", "fast")["code"] == "config"
    assert refused(shared, 2, "replay", sid, "--from", "noon")["code"] == "config"


def test_events_are_followed(shared: Pipeline) -> None:
    """`events --follow` prints each new event of the kind asked for, once, in order, until interrupted."""
    following = shared.spawn("events", "--follow", "--type", "chunk.ready", "--after", "0", "--json")
    for number in range(3):
        recorded(shared, f"followed-{number}", b"f" * 9000, "--chunk-bytes", "4096")

    def lines() -> list[dict[str, Any]]:
        return [json.loads(line) for line in following.out.splitlines(keepends=True) if line[-1] == "\n"]

    def followed() -> list[dict[str, Any]]:
        return [line for line in lines() if line["session"].startswith("followed-")]

    until(lambda: len(followed()) >= 9, within_s=SHOWN_S, what="nine chunks are followed")
    assert [(e["session"], e["data"]["index"]) for e in followed()] == [
        (f"followed-{number}", index) for number in range(3) for index in range(3)
    ]
    assert {e["type"] for e in lines()} == {"chunk.ready.v1"}
    assert interrupted(following) == 130
    one = said(shared, "events", "--session", "followed-1", "-t", "chunk.ready", "-t", "session.stopped")
    assert [e["type"] for e in one] == ["chunk.ready.v1"] * 3 + ["session.stopped.v1"]
    assert refused(shared, 2, "events", "--type", "chunk.eaten")["code"] == "config"


def interrupted(process: Running) -> int:
    """Interrupt as Ctrl-C does; returns the exit status."""
    process.signal(signal.SIGINT)
    return process.wait()


def test_errors_end_with_the_status_of_their_kind(shared: Pipeline) -> None:
    """Wrong settings, refusals, malformed input and an absent server each have a status of their own."""
    assert refused(shared, 3, "status", "nobody")["code"] == "not_found"
    assert refused(shared, 3, "start", "nobody")["code"] == "not_found"
    assert refused(shared, 4, "create", "a.b")["code"] == "contract"
    assert refused(shared, 4, "create", "unknown-codec", "--codec", "rar")["message"]
    wrong = shared.cli("sessions", check=False, env={"LUCID_CHUNK_SIZE_MB": "900", "LUCID_LEASE": "soon"})
    assert wrong.returncode == 2
    assert "LUCID_CHUNK_SIZE_MB" in wrong.stderr
    assert "LUCID_LEASE" in wrong.stderr
    absent = shared.cli("sessions", "--json", "-s", "nats://127.0.0.1:1", check=False)
    assert absent.returncode == 6
    error = json.loads(absent.stdout)["error"]
    assert (error["code"], error["retry"]) == ("unavailable", True)
    assert shared.cli("nothing", check=False).returncode == 2
    second = shared.cli("up", "--data", str(shared.data), "--port", "0", check=False, env={"NATS_URL": ""})
    assert second.returncode == 2, second.stderr
    assert "in use" in second.stderr
