"""The scrub: what a disk forgot is found while nobody looks, and stands in the history."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lucid_events.jetstream.bucket import Bucket
from lucid_events.jetstream.connection import connect
from lucid_events.jetstream.options import NatsOptions
from tests.end_to_end.pipeline import Pipeline
from tests.end_to_end.processes import until

FOUND_S = 60.0
"""Bound of a round that looks at everything; it takes a second."""


async def lose(url: str, name: str) -> None:
    """Take the pieces of an object away, as a disk does, and leave its metadata."""
    async with connect(NatsOptions(servers=(url,))) as connection:
        bucket = Bucket(connection, "lucid-chunks")
        await bucket.drop((await bucket.entry(name)).nuid)


def history(pipeline: Pipeline, session: str) -> list[dict[str, Any]]:
    """Return the events of a session."""
    return [json.loads(line) for line in pipeline.cli("replay", session, "--json").stdout.splitlines()]


def test_a_lost_chunk_is_found_and_written_down_once(
    pipelines: Callable[..., Pipeline], tmp_path: Path
) -> None:
    """Each round says what it verified; a chunk that is gone is `chunk.corrupt` once, not every time."""
    pipeline = pipelines(env={"LUCID_SCRUB_INTERVAL": "1", "LUCID_SCRUB_SAMPLE": "100"})
    file = tmp_path / "bytes"
    file.write_bytes(bytes(range(256)) * 400)
    pipeline.cli("record", "s1", str(file), "--chunk-bytes", "40000")

    def of(kind: str) -> list[dict[str, Any]]:
        return [event for event in history(pipeline, "s1") if event["type"] == kind]

    def rounds(holds: bool) -> list[dict[str, Any]]:
        return [event for event in of("session.verified.v1") if event["data"]["holds"] is holds]

    until(lambda: rounds(True), within_s=FOUND_S, what="a round that finds everything in order")
    first = rounds(True)[-1]["data"]
    assert (first["chunks"], first["ready"], first["raw_bytes"]) == (3, 3, 102_400)
    assert of("chunk.corrupt.v1") == []

    ready = of("chunk.ready.v1")[1]["data"]
    asyncio.run(lose(pipeline.url, ready["object"]))
    until(lambda: len(rounds(False)) >= 2, within_s=FOUND_S, what="two rounds that find it")
    (corrupt,) = of("chunk.corrupt.v1")
    assert corrupt["actor"] == "lucid_events/scrub"
    assert (corrupt["data"]["index"], corrupt["data"]["what"]) == (ready["index"], "object_bytes")
    where = f"object_bytes: session s1, chunk {ready['index']}, "
    assert rounds(False)[0]["data"]["first"].startswith(where)

    view = json.loads(pipeline.cli("status", "s1", "--json").stdout)
    assert view["corrupt"] == [ready["index"]]
    verified = pipeline.cli("audit", "verify", "s1", check=False)
    assert verified.returncode == 7
    assert f"chunk {ready['index']}" in verified.stdout
