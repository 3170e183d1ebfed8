"""Reading the tables from their changelogs: what a command shows while workers keep them up to date."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Final

import msgspec

from lucid_events.faust_nats.protocol import NULL
from lucid_events.faust_nats.topology import Names, key_of
from lucid_events.projections.analytics.folding import Totals
from lucid_events.projections.analytics.layout import PREFIX, app_id, changelog
from lucid_events.projections.analytics.windows import Window, merged

TOP: Final = 5


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

    `sequence` is the last event of the log that is in it; `late`, `strays` and `undecodable` say what
    was left out.
    """

    sequence: int
    events: int
    sessions: dict[str, int]
    late: int
    strays: int
    undecodable: int
    windows: list[Row]


def place(prefix: str, table: str) -> tuple[str, str]:
    """Return the stream of a table's changelog and the filter that finds it there."""
    names = Names(PREFIX, app_id(prefix))
    return names.state_stream, names.table(changelog(prefix, table))


def entry(subject: str, headers: Mapping[str, str]) -> bytes | None:
    """Return the key of a changelog entry, None for one that says its key is gone."""
    return None if NULL in headers else key_of(subject.rpartition(".")[2])


def report(totals: Iterable[bytes], windows: Iterable[tuple[bytes, bytes]], size_s: int, last: int) -> Report:
    """Return what the rows say about the `last` windows of `size_s` seconds.

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
    states: dict[str, int] = {}
    for one in found:
        for state, count in one.states.items():
            states[state] = states.get(state, 0) + count
    return Report(
        sequence=max((one.sequence for one in found), default=0),
        events=sum(one.events for one in found),
        sessions=dict(sorted(states.items())),
        late=sum(one.late for one in found),
        strays=sum(one.strays for one in found),
        undecodable=sum(one.undecodable for one in found),
        windows=[_row(start, size_s, merged(parts[start])) for start in sorted(parts)[-last:]],
    )


def _row(start: int, size_s: int, window: Window) -> Row:
    busiest = sorted(window.owners.items(), key=lambda one: (-one[1], one[0]))[:TOP]
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
        owners=dict(busiest),
    )
