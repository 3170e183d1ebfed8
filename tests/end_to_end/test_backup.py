"""`lucid backup`: a running pipeline into a folder, back onto an empty server, and what may go wrong."""

import json
import os
import re
import shlex
import subprocess
from pathlib import Path
from random import Random

import pytest

from tests.end_to_end.pipeline import Pipeline
from tests.end_to_end.processes import ROOT, hooked, lucid, until
from tests.end_to_end.session import CHUNK, Session

SHOWN_S = 60.0
"""Bound of what must be seen once it has happened."""
REFUSED, NO_SETTING, DAMAGED = 3, 2, 7


def restored(
    pipeline: Pipeline, backup: Path, folder: Path, *, check: bool = True
) -> list[dict[str, object]]:
    """Restore to the folder of a new pipeline; returns what the command prints as JSON."""
    done = pipeline.cli(
        "backup", "restore", str(backup), "--data", str(folder / "data"), "--json", check=check
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_backup_taken_while_recording_is_restored_and_verified(
    pipeline: Pipeline, tmp_path: Path, rng: Random
) -> None:
    """Everything the log held at the backup's position is there again and holds; the pipeline works on it."""
    done = [Session(pipeline, name, rng) for name in ("one", "two")]
    for session in done:
        assert session.record().wait() == 0
    live = Session(pipeline, "live", rng, size=40 * CHUNK)
    reading, writing = os.pipe()
    recording = live.record(stdin=reading)
    os.close(reading)
    with os.fdopen(writing, "wb", buffering=0) as source:
        source.write(live.data[: 10 * CHUNK])
        until(lambda: len(live.events("chunk.ready")) >= 5, within_s=SHOWN_S, what="chunks are ready")
        making = pipeline.spawn("backup", "create", str(tmp_path / "backup"), "--json")
        source.write(live.data[10 * CHUNK : 30 * CHUNK])
        assert making.wait() == 0, making.err
        source.write(live.data[30 * CHUNK :])
    assert recording.wait() == 0, recording.err
    made = json.loads(making.out)
    position = made["manifest"]["log"]["sequence"]
    checked = pipeline.cli("backup", "verify", str(tmp_path / "backup"), "--digest", made["sha256"])
    assert "whole" in checked.stdout
    other = Pipeline(tmp_path / "other")
    told = restored(pipeline, tmp_path / "backup", other.folder)
    facts = told[0]["restored"]
    assert isinstance(facts, dict)
    assert (facts["incarnation"], facts["sequence"], facts["views"]) == (2, position, "")
    assert {report["session"]: report["holds"] for report in told if "session" in report} == {
        "one": True,
        "two": True,
        "live": True,
    }
    with other:
        for session in done:
            other.cli("play", session.sid, "-o", str(tmp_path / session.sid))
            assert (tmp_path / session.sid).read_bytes() == session.data
        # Its recorder is not there: the session is given up after its lease, what was captured is salvaged.
        failed = lambda: json.loads(other.cli("status", "live", "--json").stdout)["state"] == "error"  # noqa: E731
        until(failed, within_s=SHOWN_S, what="the session without a recorder is given up")
        other.cli("audit", "verify", "--all")
        other.cli("play", "live", "-o", str(tmp_path / "live"))
        played = (tmp_path / "live").read_bytes()
        assert len(played) >= 5 * CHUNK
        assert live.data.startswith(played)
        assert "everything is as defined" in other.cli("deploy", "--check").stdout
        other.cli("rebuild")
        again = Session(other, "again", rng)
        assert again.record().wait() == 0


def test_the_drill_of_the_documents_runs(pipeline: Pipeline, tmp_path: Path, rng: Random) -> None:
    """The commands of the chapter on backups, typed in its order in an empty folder, all end well.

    The checkpoint that the first of them keeps holds against what the last has restored.
    """
    session = Session(pipeline, "kept", rng)
    assert session.record().wait() == 0
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    chapter = page.partition("## Backup and restore\n")[2].partition("\n## ")[0]
    commands = re.findall(r"^\$ lucid (.+)$", chapter, re.MULTILINE)
    assert [words.split()[1] for words in commands] == ["checkpoint", "create", "verify", "restore"]
    said = ""
    for words in commands:
        done = subprocess.run(
            [*lucid(), *shlex.split(words)],
            env={**pipeline.env, "NATS_URL": pipeline.url},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=SHOWN_S,
            check=False,
        )
        assert done.returncode == 0, (words, done.stderr)
        said = done.stdout
    assert "kept: holds" in said
    ((data, held),) = re.findall(
        r"^\$ env -u NATS_URL lucid up --data (\S+) --port \d+\n"
        r"\$ NATS_URL=\S+ lucid (audit checkpoints \S+ \S+)",
        chapter,
        re.MULTILINE,
    )
    other = Pipeline(tmp_path / "other")
    other.data = tmp_path / data
    with other:
        done = subprocess.run(
            [*lucid(), *shlex.split(held)],
            env={**other.env, "NATS_URL": other.url},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=SHOWN_S,
            check=False,
        )
    assert (done.returncode, "everything holds" in done.stderr) == (0, True), done.stdout + done.stderr


def test_a_server_with_a_pipeline_is_not_restored_to(pipeline: Pipeline, tmp_path: Path, rng: Random) -> None:
    """A restore refuses a server that is not empty and leaves it alone; so does a backup a folder."""
    session = Session(pipeline, "kept", rng)
    assert session.record().wait() == 0
    place = str(tmp_path / "backup")
    pipeline.cli("backup", "create", place)
    again = pipeline.cli("backup", "create", place, check=False)
    assert (again.returncode, "never written over" in again.stderr) == (NO_SETTING, True)
    refused = pipeline.cli("backup", "restore", place, check=False)
    assert (refused.returncode, "LUCID_EVENTS" in refused.stderr) == (REFUSED, True)
    pipeline.cli("audit", "verify", "--all")


@pytest.mark.parametrize("file", ["manifest.json", "stream.tar.s2", "backup.json"])
def test_a_damaged_backup_is_named_before_anything_is_restored(
    pipeline: Pipeline, tmp_path: Path, rng: Random, file: str
) -> None:
    """A changed byte in any file of a backup is found by verify and by restore, which names the file."""
    session = Session(pipeline, "kept", rng)
    assert session.record().wait() == 0
    place = tmp_path / "backup"
    digest = json.loads(pipeline.cli("backup", "create", str(place), "--json").stdout)["sha256"]
    damaged = place / file if file == "manifest.json" else place / "LUCID_EVENTS" / file
    text = bytearray(damaged.read_bytes())
    text[len(text) // 2] ^= 1
    damaged.write_bytes(text)
    target = ("--data", str(tmp_path / "other"))
    for command, more in (("verify", ()), ("restore", target)):
        done = pipeline.cli("backup", command, str(place), "--digest", digest, *more, check=False)
        assert (done.returncode, str(damaged) in done.stderr) == (DAMAGED, True), done.stderr
    found = restored(pipeline, tmp_path / "nothing", tmp_path / "other", check=False)
    assert "is no backup" in str(found)


@pytest.mark.parametrize(
    "step", ["backup.LUCID_ADVISORIES", "backup.LUCID_EVENTS", "backup.OBJ_lucid-chunks"]
)
def test_a_killed_backup_is_none_and_is_made_again(
    pipeline: Pipeline, tmp_path: Path, rng: Random, step: str
) -> None:
    """Whatever step it is killed after, nothing stands under the name, and the next run makes it whole."""
    session = Session(pipeline, "kept", rng)
    assert session.record().wait() == 0
    place = tmp_path / "backup"
    killed = pipeline.spawn("backup", "create", str(place), words=hooked("--at", step))
    assert killed.wait() < 0
    assert not place.exists()
    partial = pipeline.cli("backup", "verify", f"{place}.partial", check=False)
    assert (partial.returncode, "interrupted" in partial.stderr) == (NO_SETTING, True)
    pipeline.cli("backup", "create", str(place))
    assert not Path(f"{place}.partial").exists()
    pipeline.cli("backup", "verify", str(place))
    restored(pipeline, place, tmp_path / "other")


@pytest.mark.parametrize(
    "step",
    ["restore.begun", "restore.checked", "restore.LUCID_EVENTS", "restore.OBJ_lucid-chunks", "restore.views"],
)
def test_a_killed_restore_is_no_pipeline_and_is_run_again(
    pipeline: Pipeline, tmp_path: Path, rng: Random, step: str
) -> None:
    """Whatever step it is killed after, nothing starts on what it left, and the next run restores it all."""
    session = Session(pipeline, "kept", rng)
    assert session.record().wait() == 0
    place = tmp_path / "backup"
    pipeline.cli("backup", "create", str(place))
    other = Pipeline(tmp_path / "other")
    args = ("backup", "restore", str(place), "--data", str(other.data))
    killed = pipeline.spawn(*args, words=hooked("--at", step))
    assert killed.wait() < 0
    started = subprocess.run(
        [*hooked(), "up", "--data", str(other.data), "--port", "0"],
        env=other.env,
        capture_output=True,
        text=True,
        timeout=SHOWN_S,
        check=False,
    )
    assert started.returncode == NO_SETTING, started.stderr
    assert "run `lucid backup restore` again" in started.stderr
    told = restored(pipeline, place, other.folder)
    assert [report["holds"] for report in told if "session" in report] == [True]
    with other:
        other.cli("play", "kept", "-o", str(tmp_path / "played"))
    assert (tmp_path / "played").read_bytes() == session.data
