"""The pools that chunks pass through, and the clock that is stopped on each of them.

    chunk_generation ──> compression ──> storage          merkle_building
    read, assemble       in threads      put, confirm     when a session stops

A stage has its own number of places, its own ceiling of bytes and its own time-out, so that a slow
store does not keep the threads idle, and a hanging read does not hold a place for ever.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext

from lucid_events import tracing
from lucid_events.compression.budget import ByteBudget
from lucid_events.domain.commands import Finish, InternalCommand
from lucid_events.domain.ids import SessionId
from lucid_events.domain.replies import Accepted
from lucid_events.errors import LucidError, StoreUnavailable
from lucid_events.handlers.base import Decisions
from lucid_events.measures import ProcessMeasures
from lucid_events.ports import Ending, Measures


class Work:
    """One piece of work under the clock; `seconds` may be set to what it took without its waiting."""

    def __init__(self) -> None:
        self.seconds: float | None = None


@contextmanager
def measured(measures: Measures, stage: str, size: int = 0, *, traced: bool = True) -> Iterator[Work]:
    """Tell `measures` what became of the block and how long it took; a span of its own if `traced`."""
    work, began = Work(), time.perf_counter()
    measures.begun(stage)
    outcome: Ending = "given back"
    try:
        with tracing.span(stage, lucid__bytes=size) if traced else nullcontext():
            yield work
        outcome = "done"
    except Exception as exc:
        if not (isinstance(exc, LucidError) and exc.retry):
            outcome = "failed"
        raise
    finally:
        seconds = time.perf_counter() - began if work.seconds is None else work.seconds
        measures.ended(stage, outcome, seconds=seconds, size=size)


class Stage:
    """At most `workers` pieces of work at once, within `budget`, each within `timeout_s`."""

    def __init__(
        self,
        name: str,
        measures: Measures,
        *,
        workers: int,
        timeout_s: float,
        budget: ByteBudget | None = None,
    ) -> None:
        self.name, self.budget = name, budget
        self._measures, self._timeout_s = measures, timeout_s
        self._places = asyncio.Semaphore(workers)

    @asynccontextmanager
    async def enter(self, size: int) -> AsyncIterator[Work]:
        """Do the block's work on `size` bytes when it is its turn.

        Raises:
            StoreUnavailable: it took longer than the stage allows; it may be tried again.
        """
        if self.budget is None:
            async with self._places, self._clocked(size) as work:
                yield work
            return
        # Place before bytes: who waits for bytes waits in the order of places.
        async with self._places, self.budget.take(size), self._clocked(size) as work:
            yield work

    @asynccontextmanager
    async def _clocked(self, size: int) -> AsyncIterator[Work]:
        with measured(self._measures, self.name, size) as work:
            limit = asyncio.timeout(self._timeout_s)
            try:
                async with limit:
                    yield work
            except TimeoutError as exc:
                if not limit.expired():
                    raise
                raise StoreUnavailable(
                    f"{self.name} of {size} bytes took more than {self._timeout_s:g} s: it is tried again"
                ) from exc


class ChunkStages:
    """The stages that the chunk handler enters; without arguments only the clock is theirs.

    Attributes:
        reading: `chunk_generation`.
        storing: `storage`.
    """

    def __init__(
        self,
        measures: Measures | None = None,
        *,
        reading: Stage | None = None,
        storing: Stage | None = None,
    ) -> None:
        self.measures: Measures = measures or ProcessMeasures()
        self.reading = reading or Stage("chunk_generation", self.measures, workers=16, timeout_s=3600)
        self.storing = storing or Stage("storage", self.measures, workers=16, timeout_s=3600)


class MeasuredFinish:
    """Decisions whose finishing of sessions (root, manifest) is measured as `merkle_building`."""

    def __init__(self, decisions: Decisions, measures: Measures) -> None:
        self._decisions, self._measures = decisions, measures

    async def append_internal(
        self,
        session: SessionId,
        command: InternalCommand,
        *,
        cause: str,
        reaction: str,
        correlation: str = "",
        traceparent: str = "",
    ) -> Accepted:
        """Decide and append as the decisions behind it do."""

        async def decided() -> Accepted:
            return await self._decisions.append_internal(
                session,
                command,
                cause=cause,
                reaction=reaction,
                correlation=correlation,
                traceparent=traceparent,
            )

        if not isinstance(command, Finish):
            return await decided()
        with measured(self._measures, "merkle_building"):
            return await decided()
