"""What the analytics tell, as structs: for the command, for HTTP and for metrics. Needs no other package."""

from datetime import datetime

import msgspec


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One window over all partitions, as people ask about it."""

    start: datetime
    seconds: int
    events: int
    captured_bytes: int
    sealed_bytes: int
    ready_bytes: int
    stored_bytes: int
    chunks: int
    ready_bytes_per_second: float
    ratio: float | None
    codecs: dict[str, float]
    delay_ms: dict[str, float | None]
    failures: int
    gaps: int
    gap_bytes: int
    recoveries: int
    salvaged_chunks: int
    entered: dict[str, int]
    owners: dict[str, int]


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What the analytics know: sessions by state, and windows of one size, oldest first.

    The newest window is the newest that anything happened in; between two of them none is missing: in
    an empty one nothing happened. `sequence` is the last event of the log that is in it; `late`,
    `strays` and `undecodable` say what was left out, `ahead` how many events were counted at the time
    they were stored, because their own was far ahead of it. `owners` are the busiest over all
    `windows`.
    """

    sequence: int
    events: int
    sessions: dict[str, int]
    late: int
    ahead: int
    strays: int
    undecodable: int
    owners: dict[str, int]
    windows: list[Row]


class Glance(msgspec.Struct, frozen=True, kw_only=True):
    """What a look from outside sees: the sums, and the last whole minute.

    `events_behind` are messages of the log that are not in it yet. `minute` is None while the
    analytics have not come to its end: what they know of it is not all.
    """

    events: int
    events_behind: int
    sessions: dict[str, int]
    late: int
    strays: int
    undecodable: int
    minute: Row | None
