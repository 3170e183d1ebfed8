"""A change of the group: who is waited for, who is left out, and that only the last generation has parts."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment

from lucid_events.faust_nats.errors import Fenced
from lucid_events.faust_nats.membership import Assignment
from tests.faust.group_stage import PARTITIONS, REBALANCE_S, SESSION_S, staged
from tests.faust.waiting import until


def test_a_worker_that_does_not_let_go_is_left_out() -> None:
    """The others wait for the time of a rebalance, then share without it; it is fenced when it wakes."""

    async def run() -> None:
        async with staged() as stage:
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
        async with staged() as stage:
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
        async with staged() as stage:
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
        async with staged() as stage:
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


def test_the_parts_of_a_generation_are_written_once() -> None:
    """A leader that was replaced while it dealt the partitions out leaves those of its successor in force."""

    async def run() -> None:
        async with staged() as stage:
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
        async with staged() as stage:
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
        async with staged() as stage:
            first, second = await stage.joined("a", "b")
            await stage.shared(first, second)
            before = stage.generation()
            await first.coordinator.subscribe({"t"})
            assert stage.generation() == before
            await first.coordinator.subscribe({"t", "u"})
            await until(lambda: stage.generation().number > before.number, "a new generation")
            await stage.shared(first, second)

    asyncio.run(run())
