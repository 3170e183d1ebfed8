"""Who gets which partitions: leases that run out, workers that sleep, rebalances that are interrupted.

On records in memory and a clock that the test moves; `test_membership.py` holds the records to what
the server does.
"""

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
from lucid_events.faust_nats.membership import Assignment, Generation
from tests.faust.memory_group import MemoryGroup, Records
from tests.faust.waiting import until

SESSION_S, REBALANCE_S = 10.0, 30.0
PARTITIONS = 6
BEAT_S = 0.01


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look often: the clock that counts is the records'."""
    monkeypatch.setattr(coordinator_module, "LOOK_S", BEAT_S)
    monkeypatch.setattr(coordinator_module, "SETTLE_S", 0.0)


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
async def _stage() -> AsyncIterator[Stage]:
    stage = Stage()
    try:
        yield stage
    finally:
        for one in stage.all:
            one.worker.may_let_go.set()
            await one.die()


def test_workers_that_start_at_once_have_one_leader() -> None:
    """Of three that claim the lease together one decides; no partition is ever two workers' at once."""

    async def run() -> None:
        async with _stage() as stage:
            workers = await stage.joined("a", "b", "c")
            await stage.shared(*workers)
            deciding = [one for one in workers if one.assignor.assigned]
            assert len(deciding) == 1

    asyncio.run(run())


def test_a_dead_leader_is_replaced_when_its_lease_runs_out() -> None:
    """Nothing moves before the session is over; then another leads, and has everything, later in time."""

    async def run() -> None:
        async with _stage() as stage:
            (leader,) = await stage.joined("a")
            await stage.shared(leader)
            (other,) = await stage.joined("b")
            await stage.shared(leader, other)
            before = stage.generation()
            await leader.die()
            stage.records.advance(SESSION_S / 2)
            await other.coordinator._beat()
            assert stage.generation() == before
            stage.records.advance(SESSION_S / 2 + 1)
            await stage.shared(other)
            assert other.assignor.assigned == 1
            assert stage.generation().number > before.number

    asyncio.run(run())


def test_a_worker_that_leaves_is_not_waited_for() -> None:
    """A good-bye, even the leader's, lets the others go on without any time passing."""

    async def run() -> None:
        async with _stage() as stage:
            first, second = await stage.joined("a", "b")
            await stage.shared(first, second)
            now = stage.records.now_s
            leader, other = (first, second) if first.assignor.assigned else (second, first)
            await leader.leave()
            stage.records.advance(1.1)  # the empty records say it no longer than that
            await stage.shared(other)
            assert stage.records.now_s - now < SESSION_S

    asyncio.run(run())


def test_a_worker_that_slept_past_its_session_is_fenced() -> None:
    """Its next sign of life is refused and it says so, instead of going on with what is others' by now."""

    async def run() -> None:
        async with _stage() as stage:
            (sleeper,) = await stage.joined("a")
            await stage.shared(sleeper)
            stage.records.advance(SESSION_S + 1)
            assert sleeper.task is not None
            with pytest.raises(Fenced, match="a"):
                await asyncio.wait_for(sleeper.task, 10)

    asyncio.run(run())


def test_a_worker_that_does_not_let_go_is_left_out() -> None:
    """The others wait for the time of a rebalance, then share without it; it is fenced when it wakes."""

    async def run() -> None:
        async with _stage() as stage:
            (leader,) = await stage.joined("a")
            await stage.shared(leader)
            (stuck,) = await stage.joined("b")
            await stage.shared(leader, stuck)
            stuck.worker.may_let_go.clear()
            stuck.worker.letting_go.clear()
            (third,) = await stage.joined("c")
            await asyncio.wait_for(stuck.worker.letting_go.wait(), 10)
            waited = stage.generation()
            assert set(waited.members) == {"a", "b", "c"}
            for number in stuck.worker.parts:
                del stage.owners.owner[number]  # the ledger fences it off; see test_ledger.py
            for _ in range(int(REBALANCE_S // (SESSION_S / 2)) + 1):
                stage.records.advance(SESSION_S / 2)
                for one in (leader, third, stuck):
                    await one.coordinator._beat()
            await stage.shared(leader, third)
            assert set(stage.generation().members) == {"a", "c"}
            stuck.worker.may_let_go.set()
            assert stuck.task is not None
            with pytest.raises(Fenced, match="goes on without b"):
                await asyncio.wait_for(stuck.task, 10)

    asyncio.run(run())


def test_a_worker_alone_that_is_slow_is_waited_for() -> None:
    """Nobody is left out for whom nobody would take over: it has everything again once it let go."""

    async def run() -> None:
        async with _stage() as stage:
            (alone,) = await stage.joined("a")
            await stage.shared(alone)
            before = stage.generation()
            await stage.barrier(alone)
            await stage.take(REBALANCE_S, alone)
            alone.worker.may_let_go.set()
            await until(lambda: alone.coordinator.generation > before.number, "its part of a generation")
            await stage.shared(alone)

    asyncio.run(run())


def test_a_group_that_is_slow_as_a_whole_is_waited_for() -> None:
    """The time of a rebalance counts from the first that let go: the second is not left out at once."""

    async def run() -> None:
        async with _stage() as stage:
            first, second = await stage.joined("a", "b")
            await stage.shared(first, second)
            leader, other = (first, second) if first.assignor.assigned else (second, first)
            await stage.barrier(leader, other)
            await stage.take(REBALANCE_S, leader, other)
            other.worker.may_let_go.set()
            await stage.take(REBALANCE_S / 3, leader, other)
            leader.worker.may_let_go.set()
            await stage.shared(leader, other)
            assert set(stage.generation().members) == {"a", "b"}

    asyncio.run(run())


def test_a_leader_that_does_not_let_go_is_fenced() -> None:
    """It does not hold up those that did: it says so, and another leads when its session is over."""

    async def run() -> None:
        async with _stage() as stage:
            first, second = await stage.joined("a", "b")
            await stage.shared(first, second)
            leader, other = (first, second) if first.assignor.assigned else (second, first)
            await stage.barrier(leader)
            await until(lambda: not other.worker.parts, "the other let go")
            await stage.take(REBALANCE_S, leader, other)
            assert leader.task is not None
            with pytest.raises(Fenced, match=f"{leader.name} leads generation .* restart this worker"):
                await asyncio.wait_for(leader.task, 10)
            for number in leader.worker.parts:
                del stage.owners.owner[number]  # the ledger fences it off
            await stage.take(SESSION_S / 2, other)
            await stage.take(SESSION_S / 2, other)
            await stage.shared(other)

    asyncio.run(run())


def test_a_leader_that_leaves_takes_no_lease_back() -> None:
    """Its good-bye wakes nothing of its own: it ends in order, not as one that was left out."""

    async def run() -> None:
        async with _stage() as stage:
            first, second = await stage.joined("a", "b")
            await stage.shared(first, second)
            leader, other = (first, second) if first.assignor.assigned else (second, first)
            await leader.worker.let_go()
            await leader.coordinator.leave()
            assert leader.task is not None
            await asyncio.wait_for(leader.task, 10)
            await leader.coordinator.subscribe({"u"})  # Faust may: it is too late
            await stage.shared(other)
            assert set(stage.generation().members) == {other.name}

    asyncio.run(run())


def test_the_parts_of_a_generation_are_written_once() -> None:
    """A leader that was replaced while it dealt the partitions out leaves those of its successor in force."""

    async def run() -> None:
        async with _stage() as stage:
            (leader,) = await stage.joined("a")
            await stage.shared(leader)
            made: list[Assignment] = []

            async def overtaken(topics: set[str]) -> dict[str, int]:
                part = ConsumerProtocolMemberAssignment(1, [("t", [5])], b"").encode()
                made.append(Assignment(stage.generation().number, {"a": part}))
                stage.records.store("assignment", msgspec.json.encode(made[-1]), None, "")
                return dict.fromkeys(topics, PARTITIONS)

            leader.worker.partitions_of = overtaken  # type: ignore[method-assign]  # what another leader does
            before = stage.generation()
            await leader.coordinator.subscribe({"t", "u"})
            await until(lambda: leader.coordinator.generation > before.number, "a part")
            await until(lambda: leader.worker.parts == {5}, "the part of the successor")
            kept = msgspec.json.decode(stage.records.there()["assignment"][1], type=Assignment)
            assert kept == made[-1]

    asyncio.run(run())


def test_a_rebalance_that_is_overtaken_hands_nothing_out() -> None:
    """A worker that comes in the middle of a barrier starts it anew: only the last generation has parts."""

    async def run() -> None:
        async with _stage() as stage:
            first, second = await stage.joined("a", "b")
            await stage.shared(first, second)
            second.worker.may_let_go.clear()
            second.worker.letting_go.clear()
            (third,) = await stage.joined("c")
            await asyncio.wait_for(second.worker.letting_go.wait(), 10)
            interrupted = stage.generation()
            (fourth,) = await stage.joined("d")
            await until(lambda: stage.generation().number > interrupted.number, "a new generation")
            assert not stage.owners.owner.keys() - second.worker.parts, "parts of the interrupted one"
            second.worker.may_let_go.set()
            await stage.shared(first, second, third, fourth)
            assert stage.owners.generation == stage.generation().number > interrupted.number

    asyncio.run(run())


def test_other_topics_are_another_generation() -> None:
    """A worker that subscribes to something else makes the group share anew; the same again does not."""

    async def run() -> None:
        async with _stage() as stage:
            first, second = await stage.joined("a", "b")
            await stage.shared(first, second)
            before = stage.generation()
            await first.coordinator.subscribe({"t"})
            assert stage.generation() == before
            await first.coordinator.subscribe({"t", "u"})
            await until(lambda: stage.generation().number > before.number, "a new generation")
            await stage.shared(first, second)

    asyncio.run(run())
