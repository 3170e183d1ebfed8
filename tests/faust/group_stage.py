"""Workers of a group on records in memory and a clock that the test moves, and who has which partitions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

import msgspec
import pytest
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment

from lucid_events.faust_nats import coordinator as coordinator_module
from lucid_events.faust_nats.coordinator import Coordinator
from lucid_events.faust_nats.errors import Fenced
from lucid_events.faust_nats.membership import Generation
from tests.faust.memory_group import MemoryGroup, Records
from tests.faust.waiting import until

SESSION_S, REBALANCE_S = 10.0, 30.0
PARTITIONS = 6
BEAT_S = 0.01


class Metadata:
    user_data = b""


class Assignor:
    """Deals the partitions out in turn."""

    version = 1

    def __init__(self) -> None:
        self.assigned = 0

    def metadata(self, topics: set[str]) -> Metadata:
        return Metadata()

    def assign(self, cluster: Any, member_metadata: Mapping[str, Any]) -> Mapping[str, Any]:
        self.assigned += 1
        members = sorted(member_metadata)
        numbers = sorted(cluster.partitions_for_topic("t"))
        return {
            member: ConsumerProtocolMemberAssignment(1, [("t", numbers[place :: len(members)])], b"")
            for place, member in enumerate(members)
        }

    def on_assignment(self, assignment: Any) -> None:
        """Nothing is remembered."""


class Owners:
    """Who holds each partition; two at once, or one of an earlier generation than the last, is an error."""

    def __init__(self) -> None:
        self.owner: dict[int, str] = {}
        self.generation = 0


class Worker:
    """What the consumer does for the coordinator; `may_let_go` cleared keeps it from that."""

    def __init__(self, name: str, owners: Owners) -> None:
        self.name, self._owners = name, owners
        self.may_let_go = asyncio.Event()
        self.may_let_go.set()
        self.letting_go = asyncio.Event()

    @property
    def parts(self) -> set[int]:
        return {number for number, owner in self._owners.owner.items() if owner == self.name}

    async def let_go(self) -> None:
        self.letting_go.set()
        await self.may_let_go.wait()
        for number in self.parts:
            del self._owners.owner[number]

    async def take_over(self, generation: int, parts: list[tuple[str, list[int]]]) -> None:
        assert generation >= self._owners.generation, "an earlier generation takes over"
        self._owners.generation = generation
        for number in (number for _, numbers in parts for number in numbers):
            assert number not in self._owners.owner, f"{number} is still {self._owners.owner.get(number)}'s"
            self._owners.owner[number] = self.name

    async def partitions_of(self, topics: set[str]) -> dict[str, int]:
        return dict.fromkeys(topics, PARTITIONS)


class One:
    """A worker in the group; `die` ends it without a word."""

    def __init__(self, name: str, records: Records, owners: Owners) -> None:
        self.name, self._records, self._owners = name, records, owners
        self.worker, self.assignor = Worker(name, owners), Assignor()
        self.coordinator = Coordinator(
            MemoryGroup(records, session_s=SESSION_S),
            self.assignor,
            self.worker,
            member=name,
            session_s=SESSION_S,
            beat_s=BEAT_S,
            rebalance_s=REBALANCE_S,
            clock=records.clock,
            now=records.clock,
        )
        self.task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self.coordinator.subscribe({"t"})
        self.task = asyncio.create_task(self.coordinator.run())

    async def die(self) -> None:
        """Nobody is told, and what it held is held until somebody takes it over."""
        if self.task is not None:
            self.task.cancel()
            with suppress(asyncio.CancelledError, Fenced):
                await self.task
        for number in self.worker.parts:
            del self._owners.owner[number]

    async def leave(self) -> None:
        await self.worker.let_go()
        await self.coordinator.leave()
        await self.die()


class Stage:
    """Records, owners and workers of one test."""

    def __init__(self) -> None:
        self.records, self.owners = Records(), Owners()
        self.all: list[One] = []

    async def joined(self, *names: str) -> list[One]:
        """Start workers, all at once."""
        made = [One(name, self.records, self.owners) for name in names]
        self.all += made
        await asyncio.gather(*(one.start() for one in made))
        return made

    async def shared(self, *among: One) -> None:
        """Wait until these workers share everything, in one generation."""

        def done() -> bool:
            sizes = [len(one.worker.parts) for one in among]
            generations = {one.coordinator.generation for one in among}
            return sum(sizes) == PARTITIONS and min(sizes) > 0 and len(generations) == 1

        await until(done, f"everything shared by {', '.join(one.name for one in among)}")

    async def take(self, seconds: float, *alive: One) -> None:
        """Let time pass while these give signs of life, and every worker look at the records after it."""
        for _ in range(int(seconds // (SESSION_S / 2)) + 1):
            self.records.advance(SESSION_S / 2)
            for one in alive:
                await one.coordinator._beat()
        seen = self.records.looks
        await until(lambda: self.records.looks > seen + 6 * len(self.all), "a look at the records")

    async def barrier(self, *stuck: One) -> None:
        """Begin a generation that these workers do not let go for."""
        for one in stuck:
            one.worker.may_let_go.clear()
            one.worker.letting_go.clear()
        await stuck[0].coordinator.subscribe({"t", f"t{self.records.looks}"})
        for one in stuck:
            await asyncio.wait_for(one.worker.letting_go.wait(), 10)

    def generation(self) -> Generation:
        """The last generation on record."""
        return msgspec.json.decode(self.records.there()["generation"][1], type=Generation)


@asynccontextmanager
async def staged() -> AsyncIterator[Stage]:
    """A stage without workers; those that join it look often: the clock that counts is the records'."""
    stage = Stage()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coordinator_module, "LOOK_S", BEAT_S)
        patch.setattr(coordinator_module, "SETTLE_S", 0.0)
        try:
            yield stage
        finally:
            for one in stage.all:
                one.worker.may_let_go.set()
                await one.die()
