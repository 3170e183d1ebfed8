"""Who leads and who is there: leases that run out, workers that sleep, die and leave.

On records in memory and a clock that the test moves; `test_membership.py` holds the records to what
the server does.
"""

from __future__ import annotations

import asyncio

import pytest

from lucid_events.faust_nats.errors import Fenced
from tests.faust.group_stage import SESSION_S, staged


def test_workers_that_start_at_once_have_one_leader() -> None:
    """Of three that claim the lease together one decides; no partition is ever two workers' at once."""

    async def run() -> None:
        async with staged() as stage:
            workers = await stage.joined("a", "b", "c")
            await stage.shared(*workers)
            deciding = [one for one in workers if one.assignor.assigned]
            assert len(deciding) == 1

    asyncio.run(run())


def test_a_dead_leader_is_replaced_when_its_lease_runs_out() -> None:
    """Nothing moves before the session is over; then another leads, and has everything, later in time."""

    async def run() -> None:
        async with staged() as stage:
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
        async with staged() as stage:
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
        async with staged() as stage:
            (sleeper,) = await stage.joined("a")
            await stage.shared(sleeper)
            stage.records.advance(SESSION_S + 1)
            assert sleeper.task is not None
            with pytest.raises(Fenced, match="a"):
                await asyncio.wait_for(sleeper.task, 10)

    asyncio.run(run())


def test_a_leader_that_leaves_takes_no_lease_back() -> None:
    """Its good-bye wakes nothing of its own: it ends in order, not as one that was left out."""

    async def run() -> None:
        async with staged() as stage:
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
