"""Making reports of the tables: rows of their changelogs in, what people ask about out. Pure."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Final

import msgspec

from lucid_events.projections.analytics.folding import Totals, window_key
from lucid_events.projections.analytics.layout import PARTITIONS
from lucid_events.projections.analytics.reports import Glance, Report, Row
from lucid_events.projections.analytics.windows import Window, merged

TOP: Final = 5
MINUTE_S: Final = 60
GRACE_S: Final = 5.0
"""How long after its end a minute is told. An event is in the tables a second after it is in the log: half
would find minutes unfinished that are not, twice tells everything later."""

Place = tuple[int, bytes]
"""A partition, and a key of its rows in the table of windows."""


def needed(totals: Mapping[bytes, bytes], size_s: int, last: int) -> list[Place]:
    """Return which windows the report on the `last` ones of `size_s` seconds is made of.

    Args:
        totals: the table of totals.
    """
    live = [
        (int(key.rpartition(b"/")[2]), start)
        for key, row in totals.items()
        for start in msgspec.json.decode(row, type=Totals).live.get(size_s, ())
    ]
    newest = max((start for _, start in live), default=0)
    return [
        (partition, window_key(size_s, start, partition))
        for partition, start in live
        if start > newest - last * size_s
    ]


def report(totals: Iterable[bytes], windows: Iterable[tuple[bytes, bytes]], size_s: int, last: int) -> Report:
    """Return what the rows say about the `last` windows of `size_s` seconds, empty ones between them too.

    Args:
        totals: values of the table of totals.
        windows: keys and values of the table of windows.
    """
    found = [msgspec.json.decode(row, type=Totals) for row in totals]
    parts: dict[int, list[Window]] = {}
    for name, row in windows:
        size, start, _ = name.split(b"/")
        if int(size) == size_s:
            parts.setdefault(int(start), []).append(msgspec.json.decode(row, type=Window))
    newest = max(parts, default=0)
    first = min((start for start in parts if start > newest - last * size_s), default=newest + 1)
    wholes = {start: merged(parts.get(start, ())) for start in range(first, newest + 1, size_s)}
    return Report(
        sequence=max((one.sequence for one in found), default=0),
        events=sum(one.events for one in found),
        sessions=_sessions(found),
        late=sum(one.late for one in found),
        ahead=sum(one.ahead for one in found),
        strays=sum(one.strays for one in found),
        undecodable=sum(one.undecodable for one in found),
        owners=_busiest(merged(wholes.values())),
        windows=[_row(start, size_s, whole) for start, whole in wholes.items()],
    )


def last_minute(now: datetime) -> tuple[int, list[Place]]:
    """Return the start of the minute that a glance at `now` tells, and which windows it is made of."""
    start = int((now.timestamp() - GRACE_S) // MINUTE_S - 1) * MINUTE_S
    return start, [(partition, window_key(MINUTE_S, start, partition)) for partition in range(PARTITIONS)]


def glance(totals: Iterable[bytes], minute: int, windows: Iterable[bytes], messages: int) -> Glance:
    """Return what is seen from outside.

    Args:
        totals: values of the table of totals.
        minute: start of the minute that is told.
        windows: values of its windows.
        messages: how many the log held before the totals were read.
    """
    found = [msgspec.json.decode(row, type=Totals) for row in totals]
    behind = max(0, messages - sum(one.events + one.strays + one.undecodable for one in found))
    newest = max((one.newest for one in found), default=0.0)
    whole = merged(msgspec.json.decode(row, type=Window) for row in windows)
    return Glance(
        events=sum(one.events for one in found),
        events_behind=behind,
        sessions=_sessions(found),
        late=sum(one.late for one in found),
        strays=sum(one.strays for one in found),
        undecodable=sum(one.undecodable for one in found),
        minute=_row(minute, MINUTE_S, whole) if not behind or newest >= minute + MINUTE_S else None,
    )


def _sessions(totals: Iterable[Totals]) -> dict[str, int]:
    states: dict[str, int] = {}
    for one in totals:
        for state, count in one.states.items():
            states[state] = states.get(state, 0) + count
    return dict(sorted(states.items()))


def _busiest(window: Window) -> dict[str, int]:
    return dict(sorted(window.owners.items(), key=lambda one: (-one[1], one[0]))[:TOP])


def _row(start: int, size_s: int, window: Window) -> Row:
    return Row(
        start=datetime.fromtimestamp(start, UTC),
        seconds=size_s,
        events=window.events,
        captured_bytes=window.captured,
        sealed_bytes=window.sealed,
        ready_bytes=window.ready,
        stored_bytes=window.stored,
        chunks=window.chunks,
        ready_bytes_per_second=window.ready / size_s,
        ratio=window.ratio,
        codecs={name: use.raw / use.stored if use.stored else 0.0 for name, use in window.codecs.items()},
        delay_ms={f"p{round(share * 100)}": window.percentile(share) for share in (0.5, 0.95, 0.99)},
        failures=window.failures,
        gaps=window.gaps,
        gap_bytes=window.gap_bytes,
        recoveries=window.recoveries,
        salvaged_chunks=window.salvaged,
        entered=window.entered,
        owners=_busiest(window),
    )
