"""What this process did and how long it took: counts, times, rates, in memory of fixed size.

The one implementation of the port `Measures`. Knows numbers only; `gateway.metrics` gives them
Prometheus' names. Numbers begin at 0 with the process: totals of sessions are in the histories.
"""

import threading
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Final, Literal

import msgspec

Ending = Literal["done", "failed", "given back"]

STAGES: Final = ("recording", "chunk_generation", "compression", "merkle_building", "storage")

SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
"""Upper bounds of the buckets: an append on a fast disk at one end, 100 MiB at zstd 22 at the other."""

RECENT: Final = 512
"""Times kept for mean and p95: at half, p95 rests on a dozen values; at twice, it shows old trouble."""
RATE_S: Final = 60
"""Span of a throughput. Half jumps with every large chunk, twice still shows a load that is gone."""
MAX_LABELS: Final = 500
"""Different label values of one family; what comes beyond is counted as `other`, so that a mistake
here can't fill a monitoring system."""


class StageFigures(msgspec.Struct, frozen=True, kw_only=True):
    """One stage since the process started; mean and p95 are of the last `RECENT`, rates of `RATE_S`."""

    name: str
    processed: int
    failed: int
    in_flight: int
    bytes: int
    mean_ms: float
    p95_ms: float
    per_second: float
    bytes_per_second: float


class Histogram:
    """Counts of seconds in the buckets of `SECONDS`, as monitoring systems add them up."""

    def __init__(self) -> None:
        self.counts = [0] * (len(SECONDS) + 1)
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count one observation."""
        self.counts[bisect_left(SECONDS, seconds)] += 1
        self.sum += seconds

    def cumulative(self) -> list[tuple[str, float]]:
        """Return (upper bound, observations up to it), the last one unbounded."""
        found, total = [], 0
        for bound, count in zip((*map(str, map(float, SECONDS)), "+Inf"), self.counts, strict=True):
            total += count
            found.append((bound, float(total)))
        return found


class _Rate:
    """How much came in the last `RATE_S` seconds, to the second."""

    def __init__(self) -> None:
        self._slots = [(-1, 0, 0)] * RATE_S

    def add(self, now: float, size: int) -> None:
        second = int(now)
        at, count, total = self._slots[second % RATE_S]
        if at != second:
            count = total = 0
        self._slots[second % RATE_S] = (second, count + 1, total + size)

    def per_second(self, now: float, since: float) -> tuple[float, float]:
        oldest = int(now) - RATE_S
        inside = [(count, size) for at, count, size in self._slots if at > oldest]
        span = max(1.0, min(float(RATE_S), now - since))
        return sum(count for count, _ in inside) / span, sum(size for _, size in inside) / span


class _Stage:
    def __init__(self) -> None:
        self.processed = self.failed = self.in_flight = self.bytes = 0
        self.times: deque[float] = deque(maxlen=RECENT)
        self.histogram = Histogram()
        self.rate = _Rate()


class ProcessMeasures:
    """The measures of one process; any thread may tell, any thread may read.

    Args:
        clock: seconds that only go forward.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._since = clock, clock()
        self._lock = threading.Lock()
        self._stages = {name: _Stage() for name in STAGES}
        self._steps: dict[tuple[str, ...], Histogram] = {}
        self._commands: dict[tuple[str, ...], Histogram] = {}
        self._requests: dict[tuple[str, ...], Histogram] = {}

    def begun(self, stage: str) -> None:
        """Count one more in flight."""
        with self._lock:
            self._stages[stage].in_flight += 1

    def ended(self, stage: str, outcome: Ending, *, seconds: float = 0.0, size: int = 0) -> None:
        """Count one less in flight, and what came of it."""
        with self._lock:
            one = self._stages[stage]
            one.in_flight -= 1
            if outcome == "failed":
                one.failed += 1
            if outcome != "done":
                return
            one.processed += 1
            one.bytes += size
            one.times.append(seconds * 1000)
            one.histogram.observe(seconds)
            one.rate.add(self._clock(), size)

    def took(self, step: str, seconds: float) -> None:
        """Note one step of storing a chunk."""
        self._observe(self._steps, (step,), seconds)

    def answered(self, verb: str, outcome: str, seconds: float) -> None:
        """Note one command."""
        self._observe(self._commands, (verb, outcome), seconds)

    def served(self, service: str, method: str, route: str, status: int, seconds: float) -> None:
        """Note one HTTP request."""
        self._observe(self._requests, (service, method, route, str(status)), seconds)

    def stages(self) -> tuple[StageFigures, ...]:
        """Return the figures of every stage that is built, in their order."""
        with self._lock:
            now = self._clock()
            return tuple(self._figures(name, one, now) for name, one in self._stages.items())

    def stage_histograms(self) -> Mapping[str, Histogram]:
        """Return the times of every stage."""
        with self._lock:
            return {name: _copy(one.histogram) for name, one in self._stages.items()}

    def steps(self) -> Mapping[tuple[str, ...], Histogram]:
        """Return the times of every step of storing a chunk: (step,)."""
        return self._copied(self._steps)

    def commands(self) -> Mapping[tuple[str, ...], Histogram]:
        """Return the times of commands: (verb, outcome)."""
        return self._copied(self._commands)

    def requests(self) -> Mapping[tuple[str, ...], Histogram]:
        """Return the times of HTTP requests: (service, method, route, status)."""
        return self._copied(self._requests)

    def _figures(self, name: str, one: _Stage, now: float) -> StageFigures:
        times = sorted(one.times)
        per_second, bytes_per_second = one.rate.per_second(now, self._since)
        return StageFigures(
            name=name,
            processed=one.processed,
            failed=one.failed,
            in_flight=one.in_flight,
            bytes=one.bytes,
            mean_ms=sum(times) / len(times) if times else 0.0,
            p95_ms=percentile(times, 95),
            per_second=per_second,
            bytes_per_second=bytes_per_second,
        )

    def _observe(
        self, family: dict[tuple[str, ...], Histogram], labels: tuple[str, ...], seconds: float
    ) -> None:
        with self._lock:
            found = family.get(labels)
            if found is None:
                if len(family) >= MAX_LABELS:
                    labels = ("other",) * len(labels)
                found = family.setdefault(labels, Histogram())
            found.observe(seconds)

    def _copied(self, family: dict[tuple[str, ...], Histogram]) -> Mapping[tuple[str, ...], Histogram]:
        with self._lock:
            return {labels: _copy(one) for labels, one in sorted(family.items())}


def percentile(ordered: Iterable[float], rank: int) -> float:
    """Return the value that `rank` percent of the ordered values do not exceed, 0.0 of none.

    >>> percentile([1.0, 2.0, 3.0, 4.0], 95), percentile([], 95)
    (4.0, 0.0)
    """
    values = list(ordered)
    return values[max(0, -(-len(values) * rank // 100) - 1)] if values else 0.0


def _copy(one: Histogram) -> Histogram:
    made = Histogram()
    made.counts, made.sum = list(one.counts), one.sum
    return made
