"""What is told of the windows: reports, metrics and the table for people."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any, cast

import msgspec
import pytest
from rich.console import Console

from lucid_events.cli.analytics import shown, sparkline
from lucid_events.domain import events as ev
from lucid_events.domain.values import SessionSettings
from lucid_events.errors import ConfigError, StoreUnavailable
from lucid_events.gateway.analytics import analytics_families
from lucid_events.projections.analytics.folding import window_key
from lucid_events.projections.analytics.reading import glance, last_minute, needed, report
from lucid_events.projections.analytics.reports import Glance
from lucid_events.projections.analytics.windows import Window
from lucid_events.service import analytics as service
from lucid_events.service.adapters import Adapters
from lucid_events.service.analytics import glance as look
from lucid_events.subjects import Subjects
from tests.faust.histories import BEGAN, SIZE, Rows, give, history, recorded


def test_an_owner_who_is_sixth_in_every_window_can_be_first_over_all() -> None:
    """The busiest of a report are counted over its windows, not over those windows' own busiest."""
    rows = {}
    for number in range(10):
        window = Window()
        give(window, "steady", 50)
        for other in range(5):
            give(window, f"w{number}-{other}", 60)
        rows[window_key(60, 60 * number, 0)] = msgspec.json.encode(window)
    found = report((), rows.items(), 60, 10)
    assert all("steady" not in row.owners for row in found.windows)
    assert next(iter(found.owners.items())) == ("steady", 500)
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(shown(found))
    assert "busiest owners: steady 500" in console.export_text()


def test_idle_time_is_in_the_report() -> None:
    """Between two windows in which something happened the empty ones are told: bars stand at their time."""
    late = BEGAN + timedelta(seconds=95)
    rows = Rows().take(
        *history("s", 1), recorded("t", 1, ev.SessionCreated(settings=SessionSettings()), late)
    )
    found = report(rows.totals.values(), rows.windows.items(), 10, 20)
    assert [row.start for row in found.windows] == [BEGAN + timedelta(seconds=10 * n) for n in range(10)]
    assert [row.events for row in found.windows] == [6, *[0] * 8, 1]
    empty = found.windows[5]
    assert (empty.ready_bytes_per_second, empty.ratio, empty.delay_ms["p50"], empty.owners) == (
        0,
        None,
        None,
        {},
    )
    assert len(report(rows.totals.values(), rows.windows.items(), 10, 3).windows) == 1
    assert report((), (), 10, 20).windows == []


def test_a_report_needs_only_its_own_windows() -> None:
    """What a reader asks the server for is what the report is made of, and no more."""
    rows = Rows().take(*history("s", 300)).take(*history("t", 100), partition=3)
    for size_s, last in ((10, 5), (60, 20), (3600, 720)):
        places = needed(rows.totals, size_s, last)
        some = {key: rows.windows[key] for _, key in places}
        every = report(rows.totals.values(), rows.windows.items(), size_s, last)
        assert report(rows.totals.values(), some.items(), size_s, last) == every
        assert len(some) <= 2 * last
        assert all(int(key.rpartition(b"/")[2]) == partition for partition, key in places)


def _minute(rows: Rows, now: datetime, messages: int) -> Glance:
    start, places = last_minute(now)
    found = [rows.windows[key] for _, key in places if key in rows.windows]
    return glance(rows.totals.values(), start, found, messages)


def test_the_last_whole_minute_is_told_once_it_is_known() -> None:
    """Rates are of the minute that ended; of one the analytics are not through with nothing is told."""
    rows = Rows().take(*history("s", 5))
    events = rows.total.events
    within, after = BEGAN + timedelta(seconds=63), BEGAN + timedelta(seconds=66)
    done = _minute(rows, after, events)
    assert done.minute is not None
    assert (done.minute.start, done.minute.ready_bytes) == (BEGAN, 5 * SIZE)
    earlier = _minute(rows, within, events).minute
    assert earlier is not None
    assert earlier.start == BEGAN - timedelta(minutes=1)
    assert earlier.ready_bytes_per_second == 0
    behind = _minute(rows, after, events + 7)
    assert (behind.events_behind, behind.minute) == (7, None)
    rows.take(recorded("t", 1, ev.SessionCreated(settings=SessionSettings()), after))
    busy = _minute(rows, after, events + 7)
    assert busy.events_behind == 6
    assert busy.minute is not None


def _samples(found: Glance | None) -> dict[str, dict[tuple[str, ...], float]]:
    """Name -> values of labels -> value."""
    made: dict[str, dict[tuple[str, ...], float]] = {}
    for family in analytics_families(found):
        for sample in family.samples:
            made.setdefault(sample.name, {})[tuple(sample.labels.values())] = sample.value
    return made


def test_metrics_tell_what_a_glance_sees() -> None:
    """Every figure is under its name and in its unit; without analytics there is none."""
    rows = Rows().take(*history("s", 5))
    told = _samples(_minute(rows, BEGAN + timedelta(seconds=66), 14))
    delays = told.pop("lucid_analytics_ready_delay_seconds")
    assert list(delays) == [("0.5",), ("0.95",), ("0.99",)]
    assert delays["0.5",] == pytest.approx(0.2, rel=0.02)
    assert told == {
        "lucid_analytics_events_total": {(): 14},
        "lucid_analytics_events_behind": {(): 0},
        "lucid_analytics_late_total": {(): 0},
        "lucid_analytics_undecodable_total": {(): 0},
        "lucid_analytics_sessions": {("error",): 1},
    } | {
        f"lucid_analytics_{what}_bytes_per_second": {(): pytest.approx(5 * SIZE / 60)}
        for what in ("captured", "sealed", "ready")
    } | {"lucid_analytics_compression_ratio": {("gzip",): 4.0}}
    assert _samples(None) == {}


def test_a_scrape_does_not_wait_for_analytics(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that does not answer is given up soon; one that refuses to tell has nothing to tell."""

    class Odd:
        def __init__(self, answer: Callable[[], Awaitable[Any]]) -> None:
            self.connection, self.subjects, self._answer = self, Subjects(), answer

        async def stream_info(self, _: str) -> Any:
            return await self._answer()

    async def forbidden() -> None:
        raise ConfigError("no right to it")

    monkeypatch.setattr(service, "GLANCE_S", 0.05)
    with pytest.raises(StoreUnavailable, match="were not read within"):
        asyncio.run(look(cast(Adapters, Odd(lambda: asyncio.sleep(60)))))
    assert asyncio.run(look(cast(Adapters, Odd(forbidden)))) is None


def test_the_report_is_shown_with_its_bars() -> None:
    """The table for people names states, ratio and owners, and draws throughput as bars."""
    rows = Rows().take(*history("s", 5))
    found = report(rows.totals.values(), rows.windows.items(), 10, 20)
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(shown(found))
    text = console.export_text()
    assert "error 1" in text
    assert "4.00" in text
    assert "ann 4.8 MiB" in text
    assert sparkline([0.0, 50.0, 100.0]) == "▁▅█"
    assert sparkline([0.0, 0.0]) == "▁▁"
