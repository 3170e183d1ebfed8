import asyncio
import gc
import weakref
from collections.abc import AsyncGenerator, AsyncIterable, Generator, Iterable
from contextlib import aclosing

import pytest

from lucid_events.compression.budget import ByteBudget
from lucid_events.compression.ordered import in_order, settle
from tests.unit.compression.test_budget import turn_over


class Bench:
    """Work that finishes when the test says so; item `n` costs `n` bytes."""

    def __init__(self, limit: int = 100, ahead: int = 4) -> None:
        self.budget = ByteBudget(limit)
        self.ahead = ahead
        self.begun: list[int] = []
        self.cancelled: list[int] = []
        self.gates: dict[int, asyncio.Event] = {}

    async def work(self, item: int) -> int:
        self.begun.append(item)
        try:
            await self.gate(item).wait()
        except asyncio.CancelledError:
            self.cancelled.append(item)
            raise
        if item % 10 == 3:
            raise ValueError(f"item {item}")
        return -item

    def gate(self, item: int) -> asyncio.Event:
        return self.gates.setdefault(item, asyncio.Event())

    def finish(self, *items: int) -> None:
        for item in items:
            self.gate(item).set()

    def run(self, items: AsyncIterable[int] | Iterable[int]) -> AsyncGenerator[int, None]:
        return in_order(items, self.work, cost=abs, kept=self.kept, budget=self.budget, ahead=self.ahead)

    @staticmethod
    def kept(result: int) -> int:
        return -result

    def is_clean(self) -> bool:
        return (self.budget.in_use, self.budget.waiting, len(asyncio.all_tasks())) == (0, 0, 1)


def test_results_come_in_order_however_work_finishes() -> None:
    """Items that finish early wait for the ones before them."""

    async def run() -> None:
        bench = Bench()
        seen: list[int] = []

        async def consume() -> None:
            seen.extend([result async for result in bench.run([1, 2, 4, 5])])

        consumer = asyncio.create_task(consume())
        for item in (5, 4, 2):
            bench.finish(item)
            await turn_over()
        assert (bench.begun, seen) == ([1, 2, 4, 5], [])
        bench.finish(1)
        await consumer
        assert seen == [-1, -2, -4, -5]
        assert bench.is_clean()

    asyncio.run(run())


def test_nothing_is_pulled_beyond_the_budget() -> None:
    """No more runs than the budget has bytes for; one item more is pulled and waits."""

    async def run() -> None:
        bench = Bench(limit=100, ahead=50)
        pulled: list[int] = []

        def items() -> Generator[int]:
            for item in (40, 50, 60, 70):
                pulled.append(item)
                yield item

        async with aclosing(bench.run(items())) as results:
            first = asyncio.ensure_future(anext(results))
            await turn_over()
            assert (bench.begun, pulled, bench.budget.in_use) == ([40, 50], [40, 50, 60], 90)
            bench.finish(40)
            await first
            await turn_over()
            assert (bench.begun, bench.budget.in_use) == ([40, 50], 50)
            bench.finish(50, 60, 70)
            assert [result async for result in results] == [-50, -60, -70]
        assert bench.is_clean()

    asyncio.run(run())


def test_what_is_done_keeps_only_its_result() -> None:
    """A result that waits for a slow one before it frees the bytes that only its making took."""

    async def run() -> None:
        budget = ByteBudget(100)
        first_may_end = asyncio.Event()
        begun: list[int] = []

        async def work(item: int) -> bytes:
            begun.append(item)
            if item == 1:
                await first_may_end.wait()
            return bytes(10)

        results = in_order(range(1, 5), work, cost=lambda _: 40, kept=len, budget=budget, ahead=5)
        first = asyncio.ensure_future(anext(results))
        await turn_over()
        await turn_over()
        assert (begun, budget.in_use) == ([1, 2, 3, 4], 40 + 3 * 10)
        first_may_end.set()
        await first
        assert len([result async for result in results]) == 3
        assert budget.in_use == 0

    asyncio.run(run())


def test_a_slow_source_does_not_keep_the_last_item_alive() -> None:
    """While the next item is awaited, nothing holds on to the one before, or to its result."""

    class Thing:
        """An object that can be watched."""

    async def run() -> None:
        more, watched = asyncio.Event(), []

        async def items() -> AsyncGenerator[Thing]:
            thing = Thing()
            watched.append(weakref.ref(thing))
            yield thing
            del thing
            await more.wait()

        async def work(thing: Thing) -> list[Thing]:
            return [thing]

        results = in_order(items(), work, cost=lambda _: 1, kept=len, budget=ByteBudget(1), ahead=3)
        assert len(await anext(results)) == 1
        rest = asyncio.ensure_future(anext(results, None))
        await turn_over()
        gc.collect()
        assert [ref() for ref in watched] == [None]
        more.set()
        assert await rest is None

    asyncio.run(run())


def test_nothing_is_pulled_beyond_the_count() -> None:
    """Items that cost next to nothing are bounded by their number."""

    async def run() -> None:
        bench = Bench(ahead=2)
        async with aclosing(bench.run([0, 0, 0, 0, 0])) as results:
            first = asyncio.ensure_future(anext(results))
            await turn_over()
            assert bench.begun == [0, 0]
            bench.finish(0)
            await first
            await turn_over()
            assert bench.begun == [0, 0, 0]

    asyncio.run(run())


def test_an_oversized_item_runs_alone() -> None:
    """An item above the limit is not refused: it runs while nothing else does."""

    async def run() -> None:
        bench = Bench(limit=10)
        bench.finish(4, 500, 5)
        assert [result async for result in bench.run([4, 500, 5])] == [-4, -500, -5]
        assert bench.is_clean()

    asyncio.run(run())


def test_an_error_comes_in_its_place() -> None:
    """Results before a failing item are handed over first; what runs after it is cancelled."""

    async def run() -> None:
        bench = Bench(ahead=5)
        bench.finish(13, 2)
        results = bench.run([1, 2, 13, 4, 5])
        first = asyncio.ensure_future(anext(results))
        await turn_over()
        assert not first.done()  # the failure behind it does not get ahead of it
        bench.finish(1)
        assert [await first, await anext(results)] == [-1, -2]
        with pytest.raises(ValueError, match="item 13"):
            await anext(results)
        assert bench.cancelled == [4, 5]
        assert bench.is_clean()
        assert [result async for result in results] == []

    asyncio.run(run())


def test_an_error_of_the_source_comes_in_its_place() -> None:
    """What was pulled before the source failed is finished and handed over first."""

    async def items() -> AsyncGenerator[int]:
        yield 1
        yield 2
        raise OSError("no more")

    async def run() -> None:
        bench = Bench()
        bench.finish(1, 2)
        results = bench.run(items())
        assert [await anext(results), await anext(results)] == [-1, -2]
        with pytest.raises(OSError, match="no more"):
            await anext(results)
        assert bench.is_clean()

    asyncio.run(run())


def test_a_slow_source_does_not_hold_results_back() -> None:
    """A result is handed over when it is ready, though the next item is not there yet."""

    async def run() -> None:
        bench, more = Bench(), asyncio.Event()

        async def items() -> AsyncGenerator[int]:
            yield 1
            await more.wait()
            yield 2

        bench.finish(1, 2)
        results = bench.run(items())
        assert await anext(results) == -1
        more.set()
        assert [result async for result in results] == [-2]
        assert bench.is_clean()

    asyncio.run(run())


@pytest.mark.parametrize("kind", ["async", "plain"])
def test_leaving_early_frees_everything(kind: str) -> None:
    """After `aclose` nothing runs, nothing is held, and the source is closed."""

    async def run() -> None:
        bench, closed = Bench(limit=10), asyncio.Event()

        def plain() -> Generator[int]:
            try:
                yield from (1, 2, 4, 5, 6)
            finally:
                closed.set()

        async def asynchronous() -> AsyncGenerator[int]:
            try:
                for item in (1, 2, 4, 5, 6):
                    yield item
            finally:
                closed.set()

        bench.finish(1)
        async with aclosing(bench.run(plain() if kind == "plain" else asynchronous())) as results:
            async for result in results:
                assert result == -1
                await turn_over()
                assert bench.budget.in_use > 0
                break
        assert closed.is_set()
        assert bench.cancelled == bench.begun[1:] != []
        assert bench.is_clean()

    asyncio.run(run())


def test_a_cancelled_consumer_frees_everything() -> None:
    """Cancelling whoever iterates cancels what runs for it, and says CancelledError."""

    async def run() -> None:
        bench = Bench()

        async def consume() -> None:
            async with aclosing(bench.run([1, 2, 4])) as results:
                async for _ in results:
                    pass

        consumer = asyncio.create_task(consume())
        await turn_over()
        consumer.cancel()
        with pytest.raises(asyncio.CancelledError):
            await consumer
        assert sorted(bench.cancelled) == [1, 2, 4]
        assert bench.is_clean()

    asyncio.run(run())


def test_no_items_are_no_results() -> None:
    """An empty source ends at once; one that is closed before it began has run nothing."""

    async def run() -> None:
        bench = Bench()
        assert [result async for result in bench.run([])] == []
        await bench.run([1]).aclose()
        assert bench.begun == []
        assert bench.is_clean()

    asyncio.run(run())


def test_settle_waits_through_cancellation() -> None:
    """Cancelling a wait for unfinished work takes effect when the work is done, not before."""

    async def run() -> None:
        work = asyncio.get_running_loop().create_future()
        waiter = asyncio.create_task(settle(work))
        await turn_over()
        for _ in range(2):
            waiter.cancel()
            await turn_over()
        assert not waiter.done()
        work.set_exception(ValueError("seen to"))
        with pytest.raises(asyncio.CancelledError):
            await waiter

    asyncio.run(run())
