import asyncio
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lucid_events.compression.budget import ByteBudget
from lucid_events.errors import ConfigError


async def turn_over() -> None:
    """Let every task that can go on go on, until all of them wait for something."""
    for _ in range(5):
        await asyncio.sleep(0)


async def hold(budget: ByteBudget, size: int, served: list[int], leave: asyncio.Event) -> None:
    """Take `size`, note it in `served`, and give it back when told to leave."""
    async with budget.take(size):
        served.append(size)
        await leave.wait()


def test_takes_and_gives_back() -> None:
    """Bytes are counted while the block runs, and given back also when it fails."""

    async def run() -> None:
        budget = ByteBudget(100)

        async def fail() -> None:
            async with budget.take(60), budget.take(40):
                assert (budget.in_use, budget.limit) == (100, 100)
                raise RuntimeError("inside")

        with pytest.raises(RuntimeError, match="inside"):
            await fail()
        assert budget.in_use == 0

    asyncio.run(run())


def test_first_come_first_served() -> None:
    """A small taking does not overtake a large one that came before it."""

    async def run() -> None:
        budget, leave = ByteBudget(100), asyncio.Event()
        served: list[int] = []
        await budget.acquire(50)
        async with asyncio.TaskGroup() as tasks:
            for size in (80, 10, 5):
                tasks.create_task(hold(budget, size, served, leave))
            await turn_over()
            assert (served, budget.waiting, budget.in_use) == ([], 3, 50)
            budget.release(50)
            await turn_over()
            assert (served, budget.waiting, budget.in_use) == ([80, 10, 5], 0, 95)
            leave.set()
        assert budget.in_use == 0

    asyncio.run(run())


def test_an_oversized_taking_is_served_alone() -> None:
    """More than the limit is let in when nothing else is held, and nothing is let in beside it."""

    async def run() -> None:
        budget, leave = ByteBudget(100), asyncio.Event()
        served: list[int] = []
        await budget.acquire(1)
        async with asyncio.TaskGroup() as tasks:
            for size in (1000, 0):
                tasks.create_task(hold(budget, size, served, leave))
            await turn_over()
            assert served == []
            budget.release(1)
            await turn_over()
            assert (served, budget.in_use) == ([1000], 1000)
            leave.set()
        assert (served, budget.in_use) == ([1000, 0], 0)

    asyncio.run(run())


def test_a_cancelled_waiter_lets_the_next_one_in() -> None:
    """Giving up a place in the queue frees it at once for whoever fits."""

    async def run() -> None:
        budget, leave = ByteBudget(100), asyncio.Event()
        served: list[int] = []
        await budget.acquire(50)
        large = asyncio.create_task(hold(budget, 80, served, leave))
        small = asyncio.create_task(hold(budget, 10, served, leave))
        await turn_over()
        large.cancel()
        await turn_over()
        assert (served, budget.in_use, budget.waiting) == ([10], 60, 0)
        leave.set()
        await small
        assert budget.in_use == 50

    asyncio.run(run())


def test_cancelled_in_the_moment_of_being_served() -> None:
    """A taking that is granted and cancelled before it wakes up is given back."""

    async def run() -> None:
        budget, leave = ByteBudget(100), asyncio.Event()
        served: list[int] = []
        await budget.acquire(100)
        first = asyncio.create_task(hold(budget, 100, served, leave))
        second = asyncio.create_task(hold(budget, 100, served, leave))
        await turn_over()
        budget.release(100)  # grants to the first, which has not run yet
        first.cancel()
        await turn_over()
        assert (first.cancelled(), served, budget.in_use) == (True, [100], 100)
        leave.set()
        await second
        assert (budget.in_use, budget.waiting) == (0, 0)

    asyncio.run(run())


def test_a_cancelled_waiter_is_passed_over() -> None:
    """Bytes given back between a waiter's cancellation and its last turn go to the one behind it."""

    async def run() -> None:
        budget, leave = ByteBudget(100), asyncio.Event()
        served: list[int] = []
        await budget.acquire(100)
        first = asyncio.create_task(hold(budget, 90, served, leave))
        second = asyncio.create_task(hold(budget, 80, served, leave))
        await turn_over()
        first.cancel()
        budget.release(100)
        await turn_over()
        assert (first.cancelled(), served, budget.in_use) == (True, [80], 80)
        leave.set()
        await second

    asyncio.run(run())


@given(sizes=st.lists(st.integers(0, 150), max_size=40), seed=st.integers(0, 2**32))
def test_the_bound_holds_whatever_happens(sizes: list[int], seed: int) -> None:
    """Under any mix of sizes and cancellations no more than the limit is held, and nothing leaks."""
    rng = random.Random(seed)

    async def run() -> None:
        budget = ByteBudget(100)
        held: list[int] = []

        async def use(size: int, turns: int) -> None:
            async with budget.take(size):
                held.append(size)
                try:
                    assert sum(held) <= budget.in_use
                    assert budget.in_use <= 100 or sum(one > 0 for one in held) <= 1
                    for _ in range(turns):
                        await asyncio.sleep(0)
                finally:
                    held.remove(size)

        tasks = [asyncio.create_task(use(size, rng.randint(0, 3))) for size in sizes]
        for _ in tasks:
            await asyncio.sleep(0)
            if rng.random() < 0.3:
                rng.choice(tasks).cancel()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            assert outcome is None or isinstance(outcome, asyncio.CancelledError)
        assert (budget.in_use, budget.waiting) == (0, 0)

    asyncio.run(run())


def test_wrong_numbers_are_refused() -> None:
    """Limits below one, negative takings and giving back more than was taken are errors."""
    with pytest.raises(ConfigError, match="at least 1"):
        ByteBudget(0)
    budget = ByteBudget(10)
    with pytest.raises(ValueError, match="negative"):
        asyncio.run(budget.acquire(-1))
    with pytest.raises(ValueError, match="release of 1"):
        budget.release(1)
