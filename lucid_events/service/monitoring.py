"""What can be seen of a running process and of its pipeline: one place that metrics and health read.

Everything that asks the server is kept for a moment, so that being looked at costs the pipeline
little, however many look.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final, Generic, TypeVar

import msgspec

from lucid_events.compression import CompressionStatistics
from lucid_events.domain.transitions import NEEDS_ATTENTION, State
from lucid_events.errors import LucidError
from lucid_events.handlers.progress import Figures, Lag
from lucid_events.measures import ProcessMeasures
from lucid_events.projections.analytics.reports import Glance
from lucid_events.projections.index import MAX_PAGE
from lucid_events.service import analytics
from lucid_events.service.adapters import Adapters, data_folder
from lucid_events.service.health import HealthCheck, probes_of
from lucid_events.service.indexes import live_index
from lucid_events.service.lagging import lags
from lucid_events.service.reconciling import Totals, noted
from lucid_events.service.workers import Workers
from lucid_events.subjects import object_stream

Value = TypeVar("Value")

KEPT_S: Final = 5.0
"""How long an answer of the server is given again. Half asks twice as often when many look; twice
hides a burst between two scrapes."""

COUNTED_UP_TO: Final = MAX_PAGE
"""Most sessions of a state that are counted: more than may be open, and there is no end of those in error.
Half could not tell `MAX_CONCURRENT_SESSIONS` from half of it, twice reads twice as much on every scrape."""


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What one stream holds; `limit_bytes` is None where there is no limit."""

    messages: int
    bytes: int
    limit_bytes: int | None


class Monitor:
    """What can be seen of this process.

    Args:
        adapters: the connection it works with.
        measures: what its parts have told.
        statistics: what it compressed.
        workers: its workers, when it has any.
        embedded: the server's store is on this machine, so its disk counts.
    """

    def __init__(
        self,
        adapters: Adapters,
        *,
        measures: ProcessMeasures | None = None,
        statistics: CompressionStatistics | None = None,
        workers: Workers | None = None,
        embedded: bool = False,
    ) -> None:
        settings = adapters.settings
        self.adapters, self.workers = adapters, workers
        self.measures = measures or (workers.measures if workers else ProcessMeasures())
        self.statistics = statistics or (
            workers.statistics if workers else CompressionStatistics(settings.codec, settings.level)
        )
        self._lags = _Kept(lambda: lags(adapters))
        self._streams = _Kept(self._read_streams)
        self._sessions = _Kept(self._count_sessions)
        self._reconciled = _Kept(lambda: noted(adapters))
        self._analytics = _Kept(lambda: analytics.glance(adapters))
        folders = [Path(folder) for folder in (settings.spool, settings.chunk_output) if folder]
        folders += [data_folder(settings)] if embedded else []
        self.health = HealthCheck(probes_of(adapters, self.lags, folders=folders))

    async def lags(self) -> Mapping[str, Lag]:
        """Return how far behind every consumer is, as of a moment ago.

        Raises:
            LucidError: the server could not be asked.
        """
        return await self._lags.get()

    async def streams(self) -> Mapping[str, Usage]:
        """Return what every stream of ours holds, as of a moment ago.

        Raises:
            LucidError: the server could not be asked.
        """
        return await self._streams.get()

    async def sessions(self) -> Mapping[State, int]:
        """Return how many sessions are in each state in which something may still happen to them.

        As of a moment ago. `COUNTED_UP_TO` is so many or more. Stopped and destroyed ones are not counted:
        there is no end of them.

        Raises:
            LucidError: the server could not be asked.
        """
        return await self._sessions.get()

    async def reconciled(self) -> Totals | None:
        """Return the sums of the last reconciliation of everything, None before the first.

        Raises:
            LucidError: the server could not be asked.
        """
        return await self._reconciled.get()

    async def analytics(self) -> Glance | None:
        """Return what the stream analytics say, None where there are none. As of a moment ago.

        Raises:
            LucidError: the server could not be asked.
        """
        return await self._analytics.get()

    def consumers(self) -> Mapping[str, Figures]:
        """Return what the runners of this process did, by their consumer."""
        if self.workers is None:
            return {}
        figures = [runner.progress.figures() for runner in self.workers.runners.values()]
        return {one.consumer: one for one in figures}

    async def _read_streams(self) -> Mapping[str, Usage]:
        subjects, found = self.adapters.subjects, {}
        names = {
            "events": subjects.events_stream,
            "capture": subjects.capture_stream,
            "commands": subjects.commands_stream,
            "dlq": subjects.dlq_stream,
            "chunks": object_stream(subjects.chunks_bucket),
        }
        for name, stream in names.items():
            info = await self.adapters.connection.api(f"STREAM.INFO.{stream}")
            limit = int(info["config"].get("max_bytes", -1))
            found[name] = Usage(
                messages=int(info["state"]["messages"]),
                bytes=int(info["state"]["bytes"]),
                limit_bytes=limit if limit > 0 else None,
            )
        return found

    async def _count_sessions(self) -> Mapping[State, int]:
        index = await live_index(self.adapters)
        pages = {state: await index.page(state=state, limit=COUNTED_UP_TO) for state in NEEDS_ATTENTION}
        return {state: len(page.entries) for state, page in pages.items()}


class _Kept(Generic[Value]):
    """What `ask` answered, for `KEPT_S`; askers at the same time share one question."""

    def __init__(self, ask: Callable[[], Awaitable[Value]]) -> None:
        self._ask, self._lock = ask, asyncio.Lock()
        self._answer: tuple[float, Value | LucidError] | None = None

    async def get(self) -> Value:
        async with self._lock:
            if self._answer is None or time.monotonic() - self._answer[0] > KEPT_S:
                answer: Value | LucidError
                try:
                    answer = await self._ask()
                except LucidError as exc:
                    answer = exc
                self._answer = (time.monotonic(), answer)
        found = self._answer[1]
        if isinstance(found, LucidError):
            raise found
        return found
