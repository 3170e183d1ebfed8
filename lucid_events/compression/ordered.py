"""Run work on many items in parallel, bounded in bytes, and hand the results over in order.

Knows nothing of compression. The tasks are not in a TaskGroup, because a TaskGroup must not be
suspended by a `yield`; `finally` does for them what it would: cancel all, wait for all.
"""

import asyncio
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Callable,
    Coroutine,
    Generator,
    Iterable,
)
from typing import Any, TypeVar

from lucid_events.compression.budget import ByteBudget

Item = TypeVar("Item")
Result = TypeVar("Result")


async def in_order(
    items: AsyncIterable[Item] | Iterable[Item],
    run: Callable[[Item], Coroutine[Any, Any, Result]],
    *,
    cost: Callable[[Item], int],
    kept: Callable[[Result], int],
    budget: ByteBudget,
    ahead: int,
) -> AsyncGenerator[Result, None]:
    """Yield `run(item)` for each of `items`, in their order, several running at a time.

    An item is pulled only when less than `ahead` are unfinished or not yet handed over, and runs
    only when `budget` has its `cost`. When it is done only what is `kept` for the result stays
    taken, until it is handed over. So besides the budget there is one item pulled and waiting, and
    one result with the caller.

    The error of an item, or of `items`, is raised in its place, after the results before it. Then,
    and when the generator is closed early, what runs is cancelled and waited for, and `items` is
    closed when it is a generator. The caller must not hold `budget` while it iterates.
    """
    running: asyncio.Queue[asyncio.Task[Result] | None] = asyncio.Queue()
    held: dict[asyncio.Task[Result], int] = {}
    places = asyncio.Semaphore(ahead)

    def shrink(task: asyncio.Task[Result]) -> None:
        # Results that wait for a slow one before them would hold up work if they kept all they took.
        if task in held and not task.cancelled() and task.exception() is None:
            least = min(held[task], kept(task.result()))
            held[task], surplus = least, held[task] - least
            budget.release(surplus)

    async def feed() -> None:
        source = items if isinstance(items, AsyncIterable) else _async(items)
        try:
            await places.acquire()
            async for item in source:
                bytes_held = cost(item)
                await budget.acquire(bytes_held)
                task = asyncio.create_task(run(item))
                held[task] = bytes_held
                task.add_done_callback(shrink)
                running.put_nowait(task)
                del item, task  # not held on to while the source makes us wait for the next one
                await places.acquire()
        finally:
            running.put_nowait(None)
            if isinstance(source, AsyncGenerator):
                await source.aclose()

    feeder = asyncio.create_task(feed())
    try:
        while (task := await running.get()) is not None:
            result = await task
            budget.release(held.pop(task))
            places.release()
            del task
            yield result
            del result  # or one more of them would be alive while the next is awaited
        await feeder
    finally:
        feeder.cancel()
        for left in held:
            left.cancel()
        try:
            await settle(feeder, *held)
        finally:
            budget.release(sum(held.values()))
            held.clear()


async def settle(*futures: asyncio.Future[Any]) -> None:
    """Wait until all `futures` are done, whatever came of them; a cancellation is raised afterwards."""
    cancelled: asyncio.CancelledError | None = None
    while pending := [future for future in futures if not future.done()]:
        try:
            await asyncio.wait(pending)
        except asyncio.CancelledError as error:
            cancelled = error
    for future in futures:
        if not future.cancelled():
            # Looked at, so that asyncio does not report it as never retrieved.
            future.exception()
    if cancelled is not None:
        raise cancelled


async def _async(items: Iterable[Item]) -> AsyncGenerator[Item, None]:
    try:
        for item in items:
            yield item
    finally:
        if isinstance(items, Generator):
            items.close()
