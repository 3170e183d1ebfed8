"""A recording at the end of its time, as operators, auditors and viewers meet it; and kill -9 on the way."""

import json
import random
from collections.abc import Callable
from typing import Any

import pytest

from lucid_events.service import REACTIONS
from tests.end_to_end.http import Http
from tests.end_to_end.pipeline import Pipeline
from tests.end_to_end.processes import Running, hooked, until
from tests.end_to_end.session import Session

KILLED = -9
END_S = 60.0
"""Longest until a session is where its policy takes it; a few seconds."""
SMALL = 16_384
DAY_S = 86_400


def periods(payload_s: float, grace_s: float) -> dict[str, str]:
    """Settings under which days are seconds."""
    return {
        "LUCID_RETENTION_PAYLOAD_DAYS": f"{payload_s / DAY_S:.9f}",
        "LUCID_RETENTION_GRACE_DAYS": f"{grace_s / DAY_S:.9f}",
        "LUCID_RETENTION_MIN_DAYS": "0.000001",
    }


def explained(pipeline: Pipeline, sid: str) -> dict[str, Any]:
    """What `lucid retention explain` says."""
    return dict(json.loads(pipeline.cli("retention", "explain", sid, "--json").stdout))


def reaches(pipeline: Pipeline, sid: str, state: str) -> dict[str, Any]:
    """Wait until the session is in `state`; returns its retention."""

    def look() -> dict[str, Any]:
        found = explained(pipeline, sid)
        return found if found["state"] == state else {}

    return until(look, within_s=END_S, what=f"{sid} is {state}")


def recorded(pipeline: Pipeline, sid: str, rng: random.Random, *more: str, size: int = 5 * SMALL) -> Session:
    """A session that has ended, every byte stored."""
    session = Session(pipeline, sid, rng, size=size, chunk=SMALL)
    recorder: Running = session.record(*more)
    assert recorder.wait() == 0, recorder.err
    return session


def test_an_erased_session_still_proves_what_it_was(
    pipelines: Callable[..., Pipeline], rng: random.Random
) -> None:
    """Verified, exported, verified again from the file, shown: all are told by which policy, and when."""
    pipeline = pipelines(env=periods(30 * DAY_S, 0.5))
    recorded(pipeline, "s1", rng, "--payload-days", f"{1 / DAY_S:.9f}")
    found = reaches(pipeline, "s1", "destroyed")
    erasure = found["erasure"]
    assert (found["source"], found["chunks"], erasure["objects"]) == ("session", 0, 5)
    assert erasure["proposal"]["due"] <= erasure["started_at"] <= erasure["completed_at"]

    verified = json.loads(pipeline.cli("audit", "verify", "s1", "--json").stdout)
    assert (verified["holds"], verified["erased"], verified["erasure"]) == (True, 5, erasure)
    assert "by policy" in pipeline.cli("audit", "verify", "s1").stdout

    bundle = str(pipeline.folder / "s1.tar")
    exported = json.loads(pipeline.cli("audit", "export", "s1", "-o", bundle, "--json").stdout)
    assert exported["description"]["chunks"]["included"] == 0
    assert exported["erasure"] == erasure
    (report,) = [json.loads(x) for x in pipeline.cli("audit", "verify", bundle, "--json").stdout.splitlines()]
    assert (report["holds"], report["erasure"]) == (True, erasure)
    assert "by policy" in pipeline.cli("audit", "verify", bundle).stdout

    status = json.loads(pipeline.cli("status", "s1", "--json").stdout)
    assert (status["state"], status["proposal"]) == ("destroyed", erasure["proposal"])
    played = pipeline.cli("play", "s1", "-o", "-", check=False)
    assert (played.returncode, played.stdout) == (3, "")
    assert "erased" in played.stderr
    assert "retention explain s1" in played.stderr
    again = pipeline.cli("cleanup", "s1", "--dry-run", check=False)
    assert again.returncode == 3
    assert pipeline.cli("retention", "due", "--json").stdout == ""
    assert pipeline.cli("replay", "s1", "--against", "present").returncode == 0

    http = Http(pipeline)
    try:
        answer = http.pipelines.get("/pipelines/s1/retention")
        assert (answer.status_code, answer.json()) == (200, explained(pipeline, "s1"))
        assert http.pipelines.get("/pipelines/nobody/retention").status_code == 404
    finally:
        http.close()


def test_what_is_due_is_listed_and_a_rehearsal_erases_nothing(pipeline: Pipeline, rng: random.Random) -> None:
    """By the defaults, thirty days and ninety: nothing is due today, everything is within a year."""
    session = recorded(pipeline, "s1", rng)
    found = explained(pipeline, "s1")
    assert found["retention"] == {"payload_days": 30.0, "metadata_days": 90.0}
    assert (found["source"], found["next"]["what"]) == ("session", "propose")
    assert pipeline.cli("retention", "due", "--json").stdout == ""
    (due,) = pipeline.cli("retention", "due", "--within", "30.1", "--json").stdout.splitlines()
    assert json.loads(due)["session_id"] == "s1"
    (due,) = pipeline.cli("retention", "due", "--metadata", "--within", "91", "--json").stdout.splitlines()
    assert json.loads(due)["metadata_due"] is False
    rehearsed = json.loads(pipeline.cli("cleanup", "s1", "--dry-run", "--json").stdout)
    assert (rehearsed["outcome"], rehearsed["retention"]["chunks"]) == ("rehearsed", 5)
    pipeline.cli("hold", "s1", "case-7", "--reason", "court")
    refused = pipeline.cli("cleanup", "s1", "--dry-run", check=False)
    assert refused.returncode == 3
    assert "case-7" in refused.stderr
    assert explained(pipeline, "s1")["next"] is None
    assert session.audit().played == session.data
    asked = pipeline.cli("create", "s2", "--payload-days", "0.5", check=False)
    assert asked.returncode == 4
    assert "1 to 36500 days" in asked.stderr


def test_a_service_killed_between_proposal_and_cleanup_carries_it_out(
    pipelines: Callable[..., Pipeline], rng: random.Random
) -> None:
    """The proposal is in the log and its time is kept by the server: whoever starts next does what is due."""
    pipeline = pipelines(env=periods(0.2, 6), ack_wait_s=1)
    recorded(pipeline, "s1", rng)

    def proposal() -> dict[str, Any] | None:
        found: dict[str, Any] | None = explained(pipeline, "s1")["proposal"]
        return found

    first = until(proposal, within_s=END_S, what="a cleanup is proposed")
    pipeline.restart()
    erasure = reaches(pipeline, "s1", "destroyed")["erasure"]
    assert first is not None
    assert erasure["proposal"]["version"] == first["version"]
    assert erasure["started_at"] >= first["due"]
    assert pipeline.cli("audit", "verify", "s1").returncode == 0


@pytest.mark.parametrize("step", ["erase.fenced", "erase.batch:2", "erase.deleted", "erase.captured"])
def test_an_eraser_killed_anywhere_is_finished_by_the_next(
    pipelines: Callable[..., Pipeline], rng: random.Random, step: str
) -> None:
    """Between any two steps, and between objects: in the end every object is gone, and counted once."""
    pipeline = pipelines(env=periods(0.2, 0.2), ack_wait_s=1, without=["eraser"])
    assert "eraser" in REACTIONS
    recorded(pipeline, "s1", rng, size=20 * SMALL)
    dying = pipeline.spawn("worker", "--only", "eraser", words=hooked("--at", step))
    assert dying.wait(within_s=END_S) == KILLED
    assert explained(pipeline, "s1")["state"] == "cleanup"
    worker = pipeline.worker("eraser")
    found = reaches(pipeline, "s1", "destroyed")
    assert found["erasure"]["objects"] == 20
    verified = json.loads(pipeline.cli("audit", "verify", "--all", "--json").stdout.splitlines()[0])
    assert (verified["holds"], verified["erased"]) == (True, 20)
    assert worker.stop() == 0
