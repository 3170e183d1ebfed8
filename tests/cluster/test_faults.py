"""A node of three is killed, cut off or restarted: what was acknowledged is there, and work goes on."""

import asyncio
import random
from collections.abc import Awaitable, Callable

import pytest

from lucid_events.domain.envelope import Recorded
from lucid_events.domain.ids import NO_DIGEST, Digest, SessionId, Version
from lucid_events.domain.legality import violations
from lucid_events.errors import AppendUncertain, StoreUnavailable, VersionConflict
from tests.cluster.cluster import NODES, Cluster
from tests.contract.bundle import events
from tests.integration.arena import CHUNK, WORK_S, Arena, Feed, arena, bytes_of

BYTES = 30 * CHUNK + 1234
"""About six seconds of recording at the pace of the feed, so that faults fall into it."""
LONG_LEASE_S = 90.0
"""Longer than any fault here lasts: nobody is given up as lost, so every byte has to arrive."""
WRITERS = 4
APPENDS = 40
"""Events that each writer appends before, while and after the leader is away."""

Trouble = Callable[[Cluster, int], Awaitable[None]]

pytestmark = pytest.mark.timeout(300)


async def killed(cluster: Cluster, node: int) -> None:
    """Kill the node at once and start it again when another one leads."""
    await asyncio.to_thread(cluster.kill, node)
    await cluster.leader("LUCID_EVENTS", not_node=node)
    await asyncio.to_thread(cluster.start, node)


async def cut_off(cluster: Cluster, node: int) -> None:
    """Isolate the node until another one leads, then let it come back believing that it still does."""
    await asyncio.to_thread(cluster.isolate, node)
    await cluster.leader("LUCID_EVENTS", not_node=node)
    await asyncio.to_thread(cluster.rejoin, node)


@pytest.mark.parametrize("trouble", [killed, cut_off])
def test_no_acknowledged_event_is_lost_with_the_leader(
    cluster: Cluster, rng: random.Random, trouble: Trouble
) -> None:
    """Writers append through the loss of the log's leader: each history is what was acked, in order."""
    asyncio.run(_appends(cluster, rng, trouble))


async def _appends(cluster: Cluster, rng: random.Random, trouble: Trouble) -> None:
    async with arena(cluster, rng, replicas=len(NODES)) as stage:
        halfway = asyncio.Barrier(WRITERS + 1)
        writers = [asyncio.create_task(_write(stage, f"s{n}", halfway)) for n in range(WRITERS)]
        async with asyncio.timeout(WORK_S):
            await halfway.wait()
            await trouble(cluster, await cluster.leader("LUCID_EVENTS"))
            acked = await asyncio.gather(*writers)
        await cluster.whole(["LUCID_EVENTS"])
        for number, versions in enumerate(acked):
            history = await stage.history(f"s{number}")
            assert [int(one.sequence) for one in history] == versions, "what is stored is not what was acked"
            _check_chain(history)


async def _write(stage: Arena, sid: str, halfway: asyncio.Barrier) -> list[int]:
    adapters = await stage.join(f"writer-{sid}")
    versions: list[int] = []
    head: Digest = NO_DIGEST
    for number in range(APPENDS):
        if number == APPENDS // 2:
            await halfway.wait()
        event = events(f"cause-{number}", f"mark {number}", session=SessionId(sid))
        while True:
            expected = Version(versions[-1] if versions else 0)
            try:
                done = await adapters.store.append(SessionId(sid), event, expected=expected, head=head)
            except (StoreUnavailable, AppendUncertain):
                continue  # the same event under the same guard: sending it again is harmless
            except VersionConflict as exc:
                raise AssertionError(f"{sid} has another writer's event: {exc}") from exc
            versions.append(int(done.version))
            head = done.head
            break
    return versions


def _check_chain(history: list[Recorded]) -> None:
    head = NO_DIGEST
    for recorded in history:
        assert recorded.prev == head, f"the chain is broken at {recorded.sequence}"
        head = recorded.digest


async def leader_lost(cluster: Cluster, stage: Arena) -> None:
    """Kill the leader of the log, then that of the chunks, each once the other is back."""
    for stream in ("LUCID_EVENTS", "OBJ_lucid-chunks"):
        await killed(cluster, await cluster.leader(stream))
        await cluster.whole([stream])


async def leader_cut_off(cluster: Cluster, stage: Arena) -> None:
    """Isolate the leader of the log until the others have gone on without it."""
    await cut_off(cluster, await cluster.leader("LUCID_EVENTS"))
    await cluster.whole(["LUCID_EVENTS"])


async def capture_lost(cluster: Cluster, stage: Arena) -> None:
    """Kill the only node that has capture, for as long as the others take to notice, and start it again."""
    await killed(cluster, await cluster.leader("LUCID_CAPTURE"))
    await cluster.whole(["LUCID_EVENTS", "OBJ_lucid-chunks"])


async def rolling_restart(cluster: Cluster, stage: Arena) -> None:
    """Stop and start one node after the other, each in order, as an upgrade does."""
    for node in range(len(NODES)):
        await asyncio.to_thread(cluster.stop, node)
        await asyncio.to_thread(cluster.start, node)
        await cluster.whole(["LUCID_EVENTS", "OBJ_lucid-chunks"])


@pytest.mark.slow
@pytest.mark.parametrize("trouble", [leader_lost, leader_cut_off, capture_lost, rolling_restart])
def test_a_recording_outlasts_the_loss_of_any_node(
    cluster: Cluster, rng: random.Random, trouble: Callable[[Cluster, Arena], Awaitable[None]]
) -> None:
    """Recorder and workers go on through it: the session stops by itself and plays every byte."""
    asyncio.run(_recording(cluster, rng, trouble))


async def _recording(
    cluster: Cluster, rng: random.Random, trouble: Callable[[Cluster, Arena], Awaitable[None]]
) -> None:
    data = bytes_of(rng, BYTES)
    async with arena(cluster, rng, replicas=len(NODES), lease_s=LONG_LEASE_S) as stage:
        await stage.workers(2)
        over, acked = asyncio.Event(), [0]
        adapters = await stage.join("recorder")
        # The last byte waits for the end of the trouble: all of it falls into the recording.
        source = Feed(data, pace_s=0.02, until=over)
        recording = stage.recording(adapters, "s", source, on_acked=acked.append)
        running = asyncio.create_task(recording.run())
        await stage.until("s", "active")
        try:
            await trouble(cluster, stage)
        finally:
            over.set()
        async with asyncio.timeout(WORK_S):
            await running
        audited = await stage.audited("s", data, acked=acked[-1])
        assert audited.state == "stopped"
        assert audited.played == data
        assert not list(violations(list(audited.history)))
