"""Generations of the status views from the command line, beside a pipeline that is up."""

import json
from pathlib import Path
from typing import Any

from tests.end_to_end.pipeline import Pipeline


def said(pipeline: Pipeline, *words: str) -> list[dict[str, Any]]:
    """What a command prints as JSON."""
    return [json.loads(line) for line in pipeline.cli(*words, "--json").stdout.splitlines()]


def roles(pipeline: Pipeline) -> dict[int, str]:
    """Which generations there are, and what they are."""
    return {one["generation"]: one["role"] for one in said(pipeline, "projections", "list")}


def test_a_generation_from_its_beginning_to_its_end(pipeline: Pipeline) -> None:
    """Rebuild, compare, switch, roll back, switch and drop; what is in the way is refused with what to do."""
    pipeline.cli("create", "first", "--owner", "ann")
    assert "no way back" in pipeline.cli("projections", "rollback", check=False).stderr
    (report,) = said(pipeline, "projections", "rebuild")
    assert (report["generation"], report["sessions"], report["differences"]) == (2, 1, [])
    assert roles(pipeline) == {1: "live", 2: "candidate"}
    again = pipeline.cli("projections", "rebuild", check=False)
    assert (again.returncode, "lucid projections drop 2" in again.stderr) == (3, True)
    pipeline.cli("create", "second", "--owner", "bob")
    (compared,) = said(pipeline, "projections", "compare", "2")
    assert (compared["sessions"], compared["different"]) == (2, 0)
    (live,) = said(pipeline, "projections", "switch", "2")
    assert (live["generation"], live["previous"]["generation"]) == (2, 1)
    (status,) = said(pipeline, "status", "second", "--min-version", "2")
    assert status["owner"] == "bob"
    refused = pipeline.cli("projections", "drop", "2", check=False)
    assert (refused.returncode, "is live" in refused.stderr) == (3, True)
    assert "generation 1 is live" in pipeline.cli("projections", "rollback").stdout
    pipeline.cli("projections", "switch", "2")
    pipeline.cli("projections", "drop", "1")
    assert roles(pipeline) == {2: "live"}
    assert said(pipeline, "deploy", "--check")[0]["differences"] == []
    pipeline.restart()
    assert roles(pipeline) == {2: "live"}
    pipeline.cli("create", "third")
    assert said(pipeline, "status", "third", "--min-version", "1")[0]["state"] == "created"
    assert {one["session_id"] for one in said(pipeline, "sessions")} == {"first", "second", "third"}


def test_a_recording_is_reconciled(pipeline: Pipeline, tmp_path: Path) -> None:
    """A whole recording has nothing missing and ends with status 0, one alone and all of them."""
    source = tmp_path / "source"
    source.write_bytes(bytes(50_000))
    pipeline.cli("record", "s1", str(source), "--chunk-bytes", "20000")
    *sessions, total = said(pipeline, "audit", "reconcile")
    assert [one["ready_bytes"] for one in sessions] == [50_000]
    assert (total["total"]["sessions"], total["total"]["incomplete"]) == (1, 0)
    assert "1 session, 0 with something missing" in pipeline.cli("audit", "reconcile", "s1").stdout
    pipeline.cli("create", "empty")
    assert said(pipeline, "audit", "reconcile", "empty")[-1]["total"]["captured_bytes"] == 0
    unknown = pipeline.cli("audit", "reconcile", "nobody", check=False)
    assert (unknown.returncode, "there is no session nobody" in unknown.stderr) == (3, True)
