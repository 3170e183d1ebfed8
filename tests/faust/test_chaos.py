"""Workers and the server die, freeze and come back: tables and outputs are exact all the same.

Exactness is read from the changelog and the output topic, not from what workers say.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections import Counter
from pathlib import Path

import pytest

from tests.faust.waiting import until
from tests.faust.workers import Truth, Worker, connect
from tests.nats_server import NatsServer, running_server

RUNS = int(os.environ.get("CHAOS_RUNS") or "2")
EVENTS, KEYS, AT_ONCE = 20_000, 100, 200
PACE_S = 0.2
SESSION_S = 4.0
FROZEN_S = 2 * SESSION_S
CAUGHT_UP_S = 240.0
FAULTS = ("kill", "kill in a rebalance", "freeze", "server")


class Chaos:
    """Workers under a supervisor, events that keep coming, and faults."""

    def __init__(self, server: NatsServer, workers: list[Worker], rng: random.Random) -> None:
        self._server, self._workers, self._rng = server, workers, rng

    async def cause(self, fault: str) -> None:
        """Let one thing go wrong, and what died be started again."""
        victim = self._rng.choice(self._workers)
        if fault == "server":
            await asyncio.to_thread(self._server.restart)
        elif fault == "freeze":
            victim.signal(signal.SIGSTOP)
            await asyncio.sleep(FROZEN_S)  # long enough to be replaced, then it wakes and knows nothing
            victim.signal(signal.SIGCONT)
        else:
            await asyncio.to_thread(victim.kill)
            if fault == "kill in a rebalance":
                victim.start()
                await asyncio.sleep(self._rng.uniform(1.0, 3.0))  # a start takes about two seconds to join
                await asyncio.to_thread(self._rng.choice(self._workers).kill)
        await asyncio.sleep(self._rng.uniform(0.5, 2.5))
        self.supervise()

    def supervise(self) -> None:
        """Start what died."""
        for worker in self._workers:
            worker.keep_running()


@pytest.mark.chaos
@pytest.mark.timeout(RUNS * 400)
@pytest.mark.parametrize(("count", "partitions"), [(2, 4), (3, 16)])
def test_tables_and_outputs_are_exact_under_faults(
    tmp_path: Path, rng: random.Random, count: int, partitions: int
) -> None:
    """20,000 events under kills, freezes and a dying server: each counted once, each sent on once."""
    for number in range(RUNS):
        folder = tmp_path / str(number)
        folder.mkdir()
        with running_server(folder / "nats") as server:
            asyncio.run(_run(server, folder, rng, count, partitions))


async def _run(server: NatsServer, folder: Path, rng: random.Random, count: int, partitions: int) -> None:
    client = await connect(server.url)
    truth = Truth(client, "counting", partitions)
    await truth.create_input()
    workers = [
        Worker(
            number,
            folder,
            COUNTING_URL=server.url,
            COUNTING_PARTITIONS=str(partitions),
            COUNTING_SESSION_S=str(SESSION_S),
        )
        for number in range(count)
    ]
    events = [(f"k{number % KEYS}", number) for number in range(EVENTS)]

    async def feed() -> None:
        for start in range(0, EVENTS, AT_ONCE):
            await truth.send(events[start : start + AT_ONCE])
            await asyncio.sleep(PACE_S)  # so that faults find the workers at work

    async def begun() -> bool:
        return bool(await truth.counts())

    chaos = Chaos(server, workers, rng)
    chaos.supervise()
    try:
        async with asyncio.TaskGroup() as tasks:
            feeding = tasks.create_task(feed())
            await until(begun, "the first events counted")
            faults = list(FAULTS)
            rng.shuffle(faults)
            for fault in faults:
                await chaos.cause(fault)
            await feeding

        async def caught_up() -> bool:
            chaos.supervise()
            return sum((await truth.counts()).values()) >= EVENTS

        await until(caught_up, "all events counted", CAUGHT_UP_S)
        for worker in workers:
            await asyncio.to_thread(worker.stop)
        assert await truth.counts() == Counter({f"k{key}": EVENTS // KEYS for key in range(KEYS)})
        echoes = await truth.echoes()
        assert set(echoes) == set(events), "an output is missing"
        assert set(echoes.values()) == {1}, "an output is doubled"
    finally:
        for worker in workers:
            worker.kill()
        await client.close()
