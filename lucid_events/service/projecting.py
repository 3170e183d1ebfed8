"""Fills every generation of the status view that this release knows how to fill, each from its own consumer.

    consumer status      ──> generation 1 (live)
    consumer status-v2   ──> generation 2 (candidate)   own position, own failures: what goes wrong in
                                                        one generation does not hold up the other

A generation comes and goes while workers run: they look again every `LOOK_S`. Being late costs a
candidate time and never an event, because its consumer waits.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from lucid_events.errors import ConfigError, LucidError
from lucid_events.jetstream.inbox import JetStreamInbox
from lucid_events.ports import Delivery
from lucid_events.projections.checkpoints import Checkpoints
from lucid_events.projections.generations import Built, Generations, Live
from lucid_events.projections.projector import Projector
from lucid_events.projections.runner import ProjectionRunner
from lucid_events.projections.status import StatusProjection
from lucid_events.projections.status_view import StatusView
from lucid_events.projections.views import StatusViews
from lucid_events.service.adapters import Adapters

_log = logging.getLogger(__name__)

LOOK_S = 2.0
"""Between two looks at what generations there are. Half asks the bucket twice as often, from every worker;
twice lets a candidate wait, and a generation be written to for longer after it was dropped."""

Park = Callable[[Delivery, str], Awaitable[None]]


class StatusProjectors:
    """The projectors of one worker process.

    Args:
        park: sets aside what can't be decoded; called for the live generation alone. A generation that
            is being built sets nothing off outside its own bucket.
    """

    def __init__(self, adapters: Adapters, incarnation: int, checkpoints: Checkpoints, *, park: Park) -> None:
        self._adapters, self._checkpoints, self._park = adapters, checkpoints, park
        self._projection = StatusProjection(adapters.subjects.events_stream, incarnation)
        self._generations = Generations(adapters.meta, StatusProjection.name)
        self._runners: dict[int, ProjectionRunner[StatusView]] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._stopping = asyncio.Event()
        self._live: Live | None = None
        self._told: set[int] = set()

    async def check(self) -> None:
        """Make sure that the live generation can be filled.

        Raises:
            ConfigError: its consumer does not exist: apply the definitions first.
            StoreUnavailable: the server could not be asked.
        """
        self._live = await self._generations.live()
        inbox = await self._bind(self._live.generation)
        await inbox.close()

    async def run(self) -> None:
        """Fill generations until `stop`; what is in hand is answered then.

        Raises:
            ConfigError: the consumer of the live generation is gone.
        """
        async with asyncio.TaskGroup() as tasks:
            while not self._stopping.is_set():
                await self._look(tasks)
                try:
                    async with asyncio.timeout(LOOK_S):
                        await self._stopping.wait()
                except TimeoutError:
                    pass
            for runner in self._runners.values():
                runner.stop()

    def stop(self) -> None:
        """Fetch nothing more; `run` returns when what is in hand is answered."""
        self._stopping.set()
        for runner in self._runners.values():
            runner.stop()

    @property
    def filling(self) -> frozenset[int]:
        """The generations that are being filled by this process."""
        return frozenset(self._runners)

    async def _look(self, tasks: asyncio.TaskGroup) -> None:
        try:
            self._live = await self._generations.live()
        except LucidError as exc:
            if not exc.retry:
                raise
            _log.warning("can't see which generations there are", extra={"reason": exc.message})
            return
        there = {one.generation: one for one in self._live.all()}
        for generation, runner in self._runners.items():
            if generation not in there:
                runner.stop()  # dropped
        for generation, built in there.items():
            task = self._tasks.get(generation)
            if self._ours(built) and (task is None or task.done()):
                self._tasks[generation] = tasks.create_task(
                    self._fill(generation), name=f"lucid-status-{generation}"
                )
        for generation in [g for g, task in self._tasks.items() if g not in there and task.done()]:
            del self._tasks[generation]

    def _ours(self, built: Built) -> bool:
        if built.version == StatusProjection.version:
            return True
        if built.generation not in self._told:
            self._told.add(built.generation)
            _log.warning(
                "a generation of the status view is of another version: workers of that release fill it, or "
                "rebuild and switch (lucid projections)",
                extra={
                    "count": built.generation,
                    "expected": StatusProjection.version,
                    "actual": built.version,
                },
            )
        return False

    async def _fill(self, generation: int) -> None:
        try:
            inbox = await self._bind(generation)
            try:
                runner = self._runners[generation] = self._runner(inbox, generation)
                if self._stopping.is_set():
                    runner.stop()
                await runner.run()
            finally:
                await inbox.close()
        except ConfigError as exc:
            # Of one beside the live one: it is being made just now, or was dropped.
            if self._live is not None and generation == self._live.generation:
                raise
            _log.info("a generation can't be filled yet", extra={"reason": exc.message})
        except LucidError as exc:
            if not exc.retry:
                raise
            _log.warning("a generation can't be filled, trying again", extra={"reason": exc.message})
        finally:
            self._runners.pop(generation, None)

    async def _bind(self, generation: int) -> JetStreamInbox:
        subjects = self._adapters.subjects
        consumer = subjects.status_consumer(generation)
        return await JetStreamInbox.bind(self._adapters.connection, subjects.events_stream, consumer)

    def _runner(self, inbox: JetStreamInbox, generation: int) -> ProjectionRunner[StatusView]:
        a = self._adapters
        views = StatusViews(a.kv(a.subjects.status_bucket(generation)))

        async def park(delivery: Delivery, reason: str) -> None:
            if self._live is not None and self._live.generation == generation:
                await self._park(delivery, reason)

        return ProjectionRunner(
            inbox,
            Projector(self._projection, a.store, views),
            subjects=a.subjects,
            clock=a.clock,
            park=park,
            checkpoints=self._checkpoints,
        )
