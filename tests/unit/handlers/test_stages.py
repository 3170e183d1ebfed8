"""The pools of the stages: places, bytes, time-outs, and what is told of them."""

import asyncio

import pytest

from lucid_events.compression.budget import ByteBudget
from lucid_events.errors import ContractError, StoreUnavailable
from lucid_events.handlers.stages import Stage, measured
from lucid_events.measures import ProcessMeasures, StageFigures


def storage(measures: ProcessMeasures) -> StageFigures:
    """The figures of the stage that is tested with."""
    return measures.stages()[-1]


def test_a_stage_has_so_many_places() -> None:
    """No more pieces of work are in a stage than it has workers; the others wait for their turn."""

    async def main() -> None:
        stage = Stage("storage", ProcessMeasures(), workers=2, timeout_s=60)
        inside, most, go = 0, 0, asyncio.Event()

        async def work() -> None:
            nonlocal inside, most
            async with stage.enter(1):
                inside += 1
                most = max(most, inside)
                await go.wait()
                inside -= 1

        async with asyncio.TaskGroup() as tasks:
            for _ in range(6):
                tasks.create_task(work())
            while inside < 2:  # noqa: ASYNC110 - turns of the loop
                await asyncio.sleep(0)
            go.set()
        assert most == 2

    asyncio.run(main())


def test_a_stage_has_a_ceiling_of_bytes() -> None:
    """Work that would not fit beside what is there waits, also with a place free."""

    async def main() -> None:
        stage = Stage("storage", ProcessMeasures(), workers=5, timeout_s=60, budget=ByteBudget(100))
        async with stage.enter(60):
            second = asyncio.create_task(stage.enter(60).__aenter__())
            while stage.budget is None or not stage.budget.waiting:  # noqa: ASYNC110 - turns of the loop
                await asyncio.sleep(0)
            assert stage.budget.in_use == 60
            second.cancel()
            with pytest.raises(asyncio.CancelledError):
                await second
        assert stage.budget.in_use == 0

    asyncio.run(main())


def test_work_that_takes_too_long_is_given_back() -> None:
    """The time-out of a stage is no failure of the chunk: it is tried again, and does not count."""
    measures = ProcessMeasures()

    async def main() -> None:
        stage = Stage("storage", measures, workers=1, timeout_s=0.01)
        for _ in range(2):  # the place is free again after the first
            with pytest.raises(
                StoreUnavailable, match=r"storage of 7 bytes took more than 0\.01 s"
            ) as raised:
                async with stage.enter(7):
                    await asyncio.Event().wait()
            assert raised.value.retry

    asyncio.run(main())
    assert (storage(measures).failed, storage(measures).processed, storage(measures).in_flight) == (0, 0, 0)


def test_a_time_out_of_the_work_itself_is_not_the_stages() -> None:
    """What the work raises reaches the caller as it is, a TimeoutError of its own too."""

    async def main() -> None:
        stage = Stage("storage", ProcessMeasures(), workers=1, timeout_s=60)
        with pytest.raises(TimeoutError, match="mine"):
            async with stage.enter(1):
                raise TimeoutError("mine")

    asyncio.run(main())


def test_failures_are_told_from_what_is_given_back() -> None:
    """A server that is away and a cancellation say nothing about the stage; other errors are failures."""
    measures = ProcessMeasures()
    for error in (StoreUnavailable("away"), asyncio.CancelledError()):
        with pytest.raises(type(error)), measured(measures, "storage"):
            raise error
    assert storage(measures).failed == 0
    for failure in (ContractError("wrong"), ValueError("bug")):
        with pytest.raises(type(failure)), measured(measures, "storage"):
            raise failure
    assert (storage(measures).failed, storage(measures).in_flight) == (2, 0)
    with measured(measures, "storage", 5) as work:
        work.seconds = 2.0
    assert (storage(measures).processed, storage(measures).bytes, storage(measures).mean_ms) == (1, 5, 2000)
