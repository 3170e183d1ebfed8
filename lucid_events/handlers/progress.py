"""How a consumer is doing: counts, times, and how far it is behind, in three numbers."""

from collections import Counter, deque
from datetime import datetime

import msgspec

from lucid_events.ports import Clock, ConsumerLag

RECENT = 512
"""Times kept for mean and p95: at half, p95 rests on a dozen values; at twice, it shows old trouble."""


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """What one runner did since it started; times are milliseconds over the last `RECENT` messages."""

    consumer: str
    processed: int
    skipped: int
    failed: int
    retried: int
    parked: int
    in_flight: int
    mean_ms: float
    p95_ms: float
    skips: dict[str, int]


class Lag(msgspec.Struct, frozen=True, kw_only=True):
    """How far behind: messages, the age of where it stands, and how long nothing has moved."""

    events_behind: int
    seconds_behind: float
    seconds_since_progress: float


class Progress:
    """Counts what one runner does."""

    def __init__(self, consumer: str, clock: Clock) -> None:
        self._consumer, self._clock = consumer, clock
        self.processed = self.failed = self.retried = self.parked = self.in_flight = 0
        self.skips: Counter[str] = Counter()
        self._times: deque[float] = deque(maxlen=RECENT)
        self._moved_at = clock.now()
        self._stands_at: datetime | None = None

    def settled(self, stored_at: datetime, elapsed_ms: float) -> None:
        """Note that one message will not come again."""
        self._times.append(elapsed_ms)
        self._moved_at = self._clock.now()
        self._stands_at = max(stored_at, self._stands_at or stored_at)

    def figures(self) -> Figures:
        """Return the counts of this moment."""
        times = sorted(self._times)
        return Figures(
            consumer=self._consumer,
            processed=self.processed,
            skipped=self.skips.total(),
            failed=self.failed,
            retried=self.retried,
            parked=self.parked,
            in_flight=self.in_flight,
            mean_ms=sum(times) / len(times) if times else 0.0,
            p95_ms=times[max(0, -(-len(times) * 95 // 100) - 1)] if times else 0.0,
            skips=dict(self.skips),
        )

    def lag(self, server: ConsumerLag) -> Lag:
        """Return the three numbers, from what the server says of the backlog."""
        now = self._clock.now()
        behind = server.pending + server.in_flight
        if behind == 0:
            self._moved_at = now
            return Lag(events_behind=0, seconds_behind=0.0, seconds_since_progress=0.0)
        still_s = max(0.0, (now - self._moved_at).total_seconds())
        stands_s = (now - self._stands_at).total_seconds() if self._stands_at else still_s
        return Lag(events_behind=behind, seconds_behind=max(0.0, stands_s), seconds_since_progress=still_s)
