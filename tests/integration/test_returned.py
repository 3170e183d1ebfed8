"""Purged capture that a killed server brings back is found and taken, and nothing else is."""

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest

from lucid_events.config import Settings
from lucid_events.domain.ids import Digest, SessionId
from lucid_events.domain.transitions import State
from lucid_events.handlers.histories import Histories
from lucid_events.service import connect, reconciling
from lucid_events.service.client import Client
from lucid_events.service.returned import ReturnedCapture
from tests.end_to_end.pipeline import Pipeline
from tests.end_to_end.processes import until

PATIENCE_S = 60.0
ONE, UNKNOWN = SessionId("one"), SessionId("unknown")
CHUNKS = 3
T = TypeVar("T")


def ask(pipeline: Pipeline, work: Callable[[Client], Awaitable[T]]) -> T:
    """Run `work(client)` on a connection of its own."""

    async def main() -> T:
        async with connect(Settings(nats_url=pipeline.url)) as client, asyncio.timeout(PATIENCE_S):
            return await work(client)

    return asyncio.run(main())


async def held(client: Client) -> dict[tuple[str, int, int], int]:
    """How many pieces capture holds of each chunk."""
    return {(x.session, x.epoch, x.n): x.pieces async for x in client.adapters.capture.held()}


async def sweep(client: Client, settled_s: float = 0.0) -> int:
    """Sweep capture once; returns how many pieces went."""
    a = client.adapters
    histories = Histories(a.store, a.snapshots, clock=a.clock)
    return await ReturnedCapture(histories, a.store, a.capture, a.clock, settled_s=settled_s).sweep()


async def told(client: Client) -> dict[str, int]:
    """How many chunks of each session a reconciliation says are back in capture."""
    found = reconciling.reconcile(client.adapters)
    return {one.session_id: one.capture_left or 0 async for one in found}


async def undecided(client: Client) -> None:
    """Store pieces that no seal speaks of: of an unknown session, and of an epoch of ours without one."""
    for session, epoch in ((UNKNOWN, 1), (ONE, 2)):
        await client.adapters.capture.publish(
            session, epoch=epoch, n=0, offset=0, data=b"x", sha256=Digest("0" * 64)
        )


def test_capture_that_came_back_is_purged_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Old pieces of ready chunks and of a destroyed session are told and taken, those undecided stay."""
    source, kept = tmp_path / "source", tmp_path / "kept"
    source.write_bytes(bytes(range(250)) * 1000)
    monkeypatch.setattr(reconciling, "SETTLED_S", 0.0)
    env = {"LUCID_LEASE": "60"}
    with Pipeline(tmp_path / "p", env=env, without=("chunks",)) as pipeline:
        capture = pipeline.data / "store" / "jetstream" / "$G" / "streams" / "LUCID_CAPTURE"

        def bring_back() -> None:
            pipeline.kill9()
            shutil.rmtree(capture)
            shutil.copytree(kept, capture)
            pipeline.start()

        recorder = pipeline.spawn("record", ONE, str(source), "--chunk-bytes", "100000")
        until(lambda: len(ask(pipeline, held)) == CHUNKS, within_s=PATIENCE_S, what="all is in capture")
        until(
            lambda: pipeline.cli("events", "--type", "chunk.sealed", "--json").stdout.count("\n") == CHUNKS,
            within_s=PATIENCE_S,
            what="all is sealed",
        )
        pipeline.kill9()
        shutil.copytree(capture, kept)
        pipeline.start()
        before = ask(pipeline, held)
        assert len(before) == CHUNKS
        assert (ask(pipeline, sweep), ask(pipeline, held)) == (0, before)  # sealed, not ready
        worker = pipeline.worker("chunks")
        assert recorder.wait() == 0, recorder.err
        until(lambda: not ask(pipeline, held), within_s=PATIENCE_S, what="capture is purged")
        worker.stop()

        bring_back()
        assert ask(pipeline, held) == before
        assert ask(pipeline, told) == {ONE: CHUNKS}
        ask(pipeline, undecided)
        left = {(UNKNOWN, 1, 0): 1, (ONE, 2, 0): 1}
        assert ask(pipeline, lambda client: sweep(client, 3600.0)) == 0  # may be somebody's work in hand
        assert ask(pipeline, held) == before | left
        assert ask(pipeline, sweep) == sum(before.values())
        assert ask(pipeline, held) == left
        assert ask(pipeline, told) == {ONE: 0}

        pipeline.cli("cleanup", ONE)
        ask(pipeline, lambda client: client.status_in(ONE, {State.DESTROYED}, timeout_s=PATIENCE_S))
        bring_back()
        assert ask(pipeline, held) == before
        assert ask(pipeline, told) == {ONE: CHUNKS}
        assert ask(pipeline, sweep) == sum(before.values())
        assert ask(pipeline, held) == {}
        assert ask(pipeline, told) == {ONE: 0}
