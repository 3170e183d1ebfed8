"""Faust on three servers: its topics, state and group survive the loss of any one of them."""

import asyncio
from collections import Counter
from typing import Any

import pytest

from lucid_events.faust_nats import running
from tests.cluster.cluster import NODES, Cluster
from tests.faust.counting import Counting
from tests.faust.waiting import until
from tests.faust.workers import Truth, connect

EVENTS, KEYS, PARTITIONS = 2000, 20, 4
WAIT_S = 90.0
"""A lost leader costs an election, and the reconnect of whoever was on that server."""


@pytest.mark.timeout(400)
def test_counts_are_exact_while_servers_die(cluster: Cluster) -> None:
    """The leader of the state dies, then that of the input, amid events: each is counted and sent on once."""

    async def run() -> None:
        first, *others = cluster.urls
        url = ";".join([first, *others])
        made = Counting(
            url,
            "replicated",
            partitions=PARTITIONS,
            topic_replication_factor=len(NODES),
            broker_session_timeout=30.0,
            broker_commit_interval=0.1,
        )
        client = await connect(list(cluster.urls))
        truth = Truth(client, "replicated", PARTITIONS)

        async def counted(total: int) -> None:
            async def all_counted() -> bool:
                return sum((await truth.counts()).values()) >= total

            await until(all_counted, f"{total} events counted", WAIT_S)

        try:
            async with running(made.app):
                await until(lambda: bool(made.app.consumer.assignment()), "an assignment", WAIT_S)
                # The last is made by the first message sent to it.
                streams = [
                    "faust_numbers",
                    "faust_replicated_state",
                    "faust_replicated_group",
                    "faust_echoes",
                ]
                await truth.send(_events(-EVENTS // 2))
                await counted(EVENTS // 2)
                for name in streams:
                    transport: Any = made.app.transport
                    info = await transport.link.api(f"STREAM.INFO.{name}")
                    assert info["config"]["num_replicas"] == len(NODES), name
                for number, stream in enumerate(("faust_replicated_state", "faust_numbers"), 1):
                    await truth.send(_events((number - 1) * EVENTS))
                    lost = await cluster.leader(stream)
                    sending = asyncio.create_task(truth.send(_events((number - 1) * EVENTS + EVENTS // 2)))
                    await asyncio.to_thread(cluster.kill, lost)
                    await asyncio.wait_for(sending, WAIT_S)
                    await counted(EVENTS // 2 + number * EVENTS)
                    await asyncio.to_thread(cluster.start, lost)
                    await cluster.whole(streams)
            total = EVENTS // 2 + 2 * EVENTS
            assert await truth.counts() == Counter({f"k{key}": total // KEYS for key in range(KEYS)})
            echoes = await truth.echoes()
            assert len(echoes) == total
            assert set(echoes.values()) == {1}
        finally:
            await client.close()

    asyncio.run(run())


def _events(first: int) -> list[tuple[str, int]]:
    """Half of the events of a round."""
    return [(f"k{number % KEYS}", number) for number in range(first, first + EVENTS // 2)]
