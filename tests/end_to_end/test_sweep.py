"""`lucid chunks sweep`: what nobody points to goes, what a slow writer is still putting comes back."""

import asyncio
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.end_to_end.pipeline import Pipeline
from tests.end_to_end.plain import connected
from tests.end_to_end.processes import hooked, until

SHOWN_S = 30.0
"""Bound of what must be seen once it has happened."""
PARTS = "commands,queue,finaliser,deadlines,due,eraser,advisories,status"
"""Everything but the chunk handler, which runs in a process of its own here."""
LOST = 7
"""Publishes of the metadata that are lost: for the seconds between, the pieces stand alone."""


@pytest.fixture
def without_chunks(tmp_path: Path) -> Iterator[Pipeline]:
    """Run a pipeline whose chunks wait for a worker."""
    pipeline = Pipeline(tmp_path / "pipeline")
    try:
        pipeline.start(hooked("--only", PARTS))
        yield pipeline
    finally:
        pipeline.close()


def swept(pipeline: Pipeline, *flags: str) -> list[dict[str, Any]]:
    """Return what a sweep says it found."""
    said = pipeline.cli("chunks", "sweep", "--json", *flags).stdout
    return [json.loads(line) for line in said.splitlines()]


def leave_orphans(pipeline: Pipeline, nuids: list[str]) -> None:
    """Put pieces into the bucket as a writer does that dies before the metadata."""

    async def main() -> None:
        async with connected(pipeline.url) as client:
            for nuid in nuids:
                for _ in range(3):
                    await client.jetstream().publish(f"$O.lucid-chunks.C.{nuid}", b"o" * 1000)

    asyncio.run(main())


async def pieces(url: str) -> set[str]:
    """Return the nuids that have pieces."""
    async with connected(url) as client:
        asked = json.dumps({"subjects_filter": "$O.lucid-chunks.C.>"}).encode()
        info = json.loads((await client.request("$JS.API.STREAM.INFO.OBJ_lucid-chunks", asked)).data)
        return {subject.rpartition(".")[2] for subject in (info["state"].get("subjects") or {})}


def test_orphans_are_found_and_then_removed(pipeline: Pipeline, tmp_path: Path, rng: Random) -> None:
    """A dry run names orphans and touches nothing; a sweep takes them and nothing else; young ones stay."""
    source = tmp_path / "source"
    source.write_bytes(rng.randbytes(500_000))
    pipeline.cli("record", "kept", str(source), "--chunk-bytes", "100000")
    whole = asyncio.run(pieces(pipeline.url))
    assert len(whole) == 5
    assert swept(pipeline, "--grace", "0", "--dry-run") == []
    leave_orphans(pipeline, ["ORPHAN1", "ORPHAN2"])
    assert swept(pipeline) == []  # an hour's grace: somebody may still be writing
    for _ in range(2):
        found = swept(pipeline, "--grace", "0", "--dry-run")
        assert {one["nuid"]: (one["pieces"], one["removed"]) for one in found} == {
            "ORPHAN1": (3, False),
            "ORPHAN2": (3, False),
        }
    assert "2 orphans would be removed" in pipeline.cli("chunks", "sweep", "--grace", "0", "--dry-run").stdout
    assert {one["nuid"] for one in swept(pipeline, "--grace", "0")} == {"ORPHAN1", "ORPHAN2"}
    assert swept(pipeline, "--grace", "0") == []
    assert asyncio.run(pieces(pipeline.url)) == whole
    played = tmp_path / "played"
    pipeline.cli("play", "kept", "-o", str(played))
    assert played.read_bytes() == source.read_bytes()


def test_a_slow_writer_notices_a_sweep_and_puts_again(
    without_chunks: Pipeline, tmp_path: Path, rng: Random
) -> None:
    """Pieces swept before their metadata came are put again: the chunk is ready, whole, and there once."""
    pipeline = without_chunks
    source, played = tmp_path / "source", tmp_path / "played"
    source.write_bytes(rng.randbytes(2_000_000))
    recording = pipeline.spawn("record", "slow", str(source), "--chunk-bytes", "2000000", "--json")
    forgetful = hooked("--drop", f"$O.lucid-chunks.M.:{LOST}")
    worker = pipeline.spawn("worker", "--only", "chunks", "--json", words=forgetful)
    worker.says("parts")
    found = until(
        lambda: swept(pipeline, "--grace", "0"), within_s=SHOWN_S, what="the pieces stand without metadata"
    )
    assert [one["removed"] for one in found] == [True]
    assert "lost:" in worker.err
    assert recording.wait() == 0, recording.err
    totals = json.loads(recording.out)
    assert totals["sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()
    pipeline.cli("play", "slow", "-o", str(played))
    assert played.read_bytes() == source.read_bytes()
    assert swept(pipeline, "--grace", "0") == []
    (left,) = asyncio.run(pieces(pipeline.url))
    assert left != found[0]["nuid"]
    kinds = [json.loads(x)["type"] for x in pipeline.cli("replay", "slow", "--json").stdout.splitlines()]
    assert kinds.count("chunk.ready.v1") == 1
