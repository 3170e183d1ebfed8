"""Workers and the server die, freeze and come back: tables and outputs are exact all the same.

Exactness is read from the changelog and the output topic, not from what workers say. So is whether a
fault met what it was meant for (`evidence.py`): one that did not is caused again, and the run fails when
it never does.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.faust.counting import IN, OUT
from tests.faust.evidence import Evidence
from tests.faust.waiting import until
from tests.faust.workers import Truth, Worker, connect
from tests.nats_server import NatsServer, running_server

RUNS = int(os.environ.get("CHAOS_RUNS") or "2")
EVENTS, KEYS, AT_ONCE = 20_000, 100, 200
"""Events of a run, at least: they keep coming until the last fault is over."""
PACE_S = 0.2
SESSION_S = 4.0
CAUGHT_UP_S = 240.0
HIT_S = 90.0
"""How long a fault may be tried until it meets what it is meant for."""
ARRIVE_S = 0.1
"""How long what a stopped worker has sent may take to be stored."""
FAULTS = ("kill", "kill in a rebalance", "freeze", "server")


class Feed:
    """Events that keep coming, so that every fault meets workers at work."""

    def __init__(self, truth: Truth) -> None:
        self._truth = truth
        self.sent: list[tuple[str, int]] = []
        self.enough = False

    async def run(self) -> None:
        while len(self.sent) < EVENTS or not self.enough:
            first = len(self.sent)
            events = [(f"k{number % KEYS}", number) for number in range(first, first + AT_ONCE)]
            await self._truth.send(events)
            self.sent += events
            await asyncio.sleep(PACE_S)


class Chaos:
    """Workers under a supervisor, and faults that are told from the server's records to have hit."""

    def __init__(
        self, server: NatsServer, workers: list[Worker], evidence: Evidence, rng: random.Random
    ) -> None:
        self._server, self._workers, self._evidence, self._rng = server, workers, evidence, rng
        self.hit: list[str] = []

    async def cause(self, fault: str) -> None:
        """Let one thing go wrong, and what died be started again."""
        cause = {
            "kill": self._kill,
            "kill in a rebalance": self._kill_in_a_rebalance,
            "freeze": self._freeze,
            "server": self._kill_the_server,
        }[fault]
        try:
            async with asyncio.timeout(HIT_S):
                while not await cause():
                    self.supervise()
        except TimeoutError as exc:
            raise AssertionError(f"{fault}: not met what it is meant for within {HIT_S:g} s") from exc
        self.hit.append(fault)
        await asyncio.sleep(self._rng.uniform(0.5, 2.5))
        self.supervise()

    def supervise(self) -> None:
        """Start what died."""
        for worker in self._workers:
            worker.keep_running()

    async def _kill(self) -> bool:
        """A worker is killed that had sent on what it had not committed."""
        async with self._stopped_at_work() as victim:
            await asyncio.to_thread(victim.kill)
        assert victim.ended == -signal.SIGKILL
        return bool(await self._evidence.unfinished(victim.member))

    async def _kill_in_a_rebalance(self) -> bool:
        """A member of a generation is killed before its parts are handed out."""
        first = self._rng.choice(self._workers)
        await asyncio.to_thread(first.kill)
        first.start()  # which makes a generation, and another one when the old session ends
        while True:
            generation = await self._evidence.generation()
            if (await self._evidence.shares()).number < generation.number:
                break
        members = [worker for worker in self._workers if worker.member in generation.members]
        if not members:
            return False
        victim = self._rng.choice(members)
        await asyncio.to_thread(victim.kill)
        # It had begun before; if it has not ended by now, it had not when the victim died.
        return (await self._evidence.shares()).number < generation.number and victim.ended == -signal.SIGKILL

    async def _freeze(self) -> bool:
        """A worker with work in hand stands until others have its partitions, then it wakes and must end."""
        async with self._stopped_at_work() as victim:
            member, had = victim.member, await self._evidence.shares()

            async def replaced() -> bool:
                self.supervise()
                shares, generation = await self._evidence.shares(), await self._evidence.generation()
                if member in generation.members or shares.number != generation.number:
                    return False
                owners = [await self._evidence.offset(number) for number in had.partitions[member]]
                return all(owner.generation > had.number for owner in owners)

            await until(replaced, "somebody else has the partitions of a worker that stands", HIT_S / 2)
            assert victim.stands()
        # Nobody tells it: its session is over, or its commit is refused.
        await until(lambda: victim.ended is not None, "a worker that was replaced ends", HIT_S / 2)
        assert victim.ended != -signal.SIGKILL
        return True

    async def _kill_the_server(self) -> bool:
        """The server is killed while events come in and workers have some in hand."""
        before = await self._evidence.end(IN)
        while await self._evidence.end(IN) == before or not await self._at_work():
            self.supervise()
        killed = self._server.pid
        await asyncio.to_thread(self._server.restart)
        assert self._server.pid != killed
        arrived, done = await self._evidence.end(IN), await self._evidence.end(OUT)

        async def goes_on() -> bool:
            self.supervise()
            return await self._evidence.end(IN) > arrived and await self._evidence.end(OUT) > done

        await until(goes_on, "events that come in and go on after the restart", HIT_S / 2)
        return True

    async def _at_work(self) -> list[Worker]:
        """The workers that have sent on what they have not committed."""
        return [
            worker
            for worker in self._workers
            if worker.running and await self._evidence.unfinished(worker.member)
        ]

    @asynccontextmanager
    async def _stopped_at_work(self) -> AsyncIterator[Worker]:
        """Stop a worker that has sent on what it has not committed, for the time of the context."""
        while True:
            self.supervise()
            await asyncio.sleep(self._rng.uniform(0, 2 * PACE_S))
            for victim in self._rng.sample(self._workers, len(self._workers)):
                if victim not in await self._at_work():
                    continue
                victim.signal(signal.SIGSTOP)
                try:
                    await until(victim.stands, "a worker that stands")
                    await asyncio.sleep(ARRIVE_S)
                    if await self._evidence.unfinished(victim.member):
                        yield victim
                        return
                finally:
                    victim.signal(signal.SIGCONT)


@pytest.mark.chaos
@pytest.mark.timeout(RUNS * 500)
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
    feed = Feed(truth)

    async def begun() -> bool:
        return bool(await truth.counts())

    chaos = Chaos(server, workers, Evidence(truth), rng)
    chaos.supervise()
    try:
        async with asyncio.TaskGroup() as tasks:
            feeding = tasks.create_task(feed.run())
            await until(begun, "the first events counted")
            faults = list(FAULTS)
            rng.shuffle(faults)
            for fault in faults:
                await chaos.cause(fault)
            feed.enough = True
            await feeding
        assert sorted(chaos.hit) == sorted(FAULTS)

        async def caught_up() -> bool:
            chaos.supervise()
            return sum((await truth.counts()).values()) >= len(feed.sent)

        await until(caught_up, "all events counted", CAUGHT_UP_S)
        for worker in workers:
            await asyncio.to_thread(worker.stop)
        assert len(feed.sent) >= EVENTS
        assert await truth.counts() == Counter(key for key, _ in feed.sent)
        echoes = await truth.echoes()
        assert set(echoes) == set(feed.sent), "an output is missing"
        assert set(echoes.values()) == {1}, "an output is doubled"
    finally:
        for worker in workers:
            worker.kill()
        await client.close()
