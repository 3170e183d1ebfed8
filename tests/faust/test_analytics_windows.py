"""What the windows hold of the events, whatever their order and their clocks."""

from __future__ import annotations

import random
from datetime import timedelta

import msgspec
import pytest

from lucid_events.domain import events as ev
from lucid_events.domain.values import SessionSettings
from lucid_events.projections.analytics.folding import AHEAD_S, window_key
from lucid_events.projections.analytics.windows import KEPT, MAX_OWNERS, Window, delay_bin, merged
from tests.faust.histories import BEGAN, SIZE, Rows, give, history, recorded


def test_a_history_is_counted_where_it_happened() -> None:
    """Bytes, ratio, delay, states and failures of a session are in the windows of their own times."""
    rows = Rows().take(*history("s", 5))
    first, hour = rows.window(10, 0), rows.window(3600, 0)
    assert (first.sealed, first.ready, first.stored, first.chunks) == (3 * SIZE, 3 * SIZE, 3 * SIZE // 4, 3)
    assert (hour.captured, hour.ready, hour.failures, hour.ratio) == (5 * SIZE, 5 * SIZE, 1, 4.0)
    assert hour.entered == {"created": 1, "starting": 1, "active": 1, "error": 1}
    assert hour.owners == {"ann": 5 * SIZE}
    assert hour.codecs["gzip"].chunks == 5
    assert hour.percentile(0.5) == pytest.approx(200, rel=0.02)
    assert rows.total.states == {"error": 1}


def test_a_late_event_lands_in_the_window_of_its_own_time() -> None:
    """An event that arrives after later ones of other sessions is counted where its time says."""
    late = history("late", 1)
    rows = Rows().take(*history("s", 300))
    before = rows.window(10, 0).ready
    rows.take(*late)
    assert rows.window(10, 0).ready == before + SIZE
    assert rows.total.late == 0


def test_the_order_of_sessions_changes_nothing(rng: random.Random) -> None:
    """However the histories of several sessions are interleaved, the windows are the same."""
    histories = [history(f"s{number}", 4, step_s=2.0 + number) for number in range(6)]
    expected = Rows()
    for events in histories:
        expected.take(*events)
    left, mixed = [list(events) for events in histories], Rows()
    while any(left):
        mixed.take(rng.choice([events for events in left if events]).pop(0))
    decoded = [
        {key: msgspec.json.decode(row, type=Window) for key, row in rows.windows.items()}
        for rows in (expected, mixed)
    ]
    assert decoded[0] == decoded[1]


def test_old_windows_go_by_event_time_and_what_comes_too_late_is_counted() -> None:
    """A window is kept for its time behind the newest event; one that is gone is not begun again."""
    rows = Rows().take(*history("s", 1))
    later = BEGAN + timedelta(seconds=KEPT[10] + 100)
    rows.take(recorded("t", 1, ev.SessionCreated(settings=SessionSettings()), later))
    assert window_key(10, int(BEGAN.timestamp()), 0) not in rows.windows
    assert window_key(3600, int(BEGAN.timestamp()), 0) in rows.windows
    rows.take(recorded("u", 1, ev.SessionCreated(settings=SessionSettings()), BEGAN))
    assert rows.total.late == 1
    assert window_key(10, int(BEGAN.timestamp()), 0) not in rows.windows


def test_one_clock_far_ahead_ends_no_window_and_makes_nothing_late() -> None:
    """An event ten years ahead is counted when it was stored: later events land where they always would."""
    decade = timedelta(days=3650)
    created = ev.SessionCreated(settings=SessionSettings())
    rows, expected = Rows(), Rows()
    for made, ahead in ((rows, decade), (expected, timedelta())):
        made.take(*history("before", 1), recorded("wrong", 1, created, BEGAN, ahead=ahead))
        made.take(*history("after", 1))
    assert rows.windows == expected.windows
    assert rows.window(10, 0).ready == 2 * SIZE
    assert (rows.total.late, rows.total.ahead, expected.total.ahead) == (0, 1, 0)
    assert msgspec.structs.replace(rows.total, ahead=0) == expected.total


def test_clocks_that_differ_a_little_are_believed() -> None:
    """An event some minutes ahead of its storing is counted at its own time; one beyond is not."""
    created = ev.SessionCreated(settings=SessionSettings())
    near, far = timedelta(seconds=AHEAD_S), timedelta(seconds=AHEAD_S + 1)
    rows = Rows().take(
        recorded("s", 1, created, BEGAN, ahead=near), recorded("t", 1, created, BEGAN, ahead=far)
    )
    assert rows.window(10, AHEAD_S).events == rows.window(10, 0).events == 1
    assert rows.total.ahead == 1


def test_who_has_many_bytes_is_among_the_busiest_of_however_many(rng: random.Random) -> None:
    """An owner who comes after many small ones has their place: all but a bounded surplus is theirs."""
    window = Window()
    bytes_of = {"late": 100_000, "steady": 60_000, **{f"small{number}": 100 for number in range(1000)}}
    given = [(owner, 50) for owner, count in bytes_of.items() if owner != "late" for _ in range(count // 50)]
    rng.shuffle(given)
    for owner, count in [*given, *[("late", 50)] * 2000]:
        give(window, owner, count)
    assert len(window.owners) <= MAX_OWNERS
    assert sum(window.owners.values()) == window.ready == sum(bytes_of.values())
    assert sorted(window.owners, key=lambda owner: -window.owners[owner])[:2] == ["late", "steady"]
    for owner, count in window.owners.items():
        surplus = window.surplus.get(owner, 0)
        assert count - surplus <= bytes_of[owner] <= count
        assert surplus <= window.ready / MAX_OWNERS


def test_all_owners_of_the_parts_are_in_the_whole() -> None:
    """Putting parts together leaves nobody out, however many there are."""
    parts = [Window() for _ in range(4)]
    for number in range(4 * MAX_OWNERS):
        give(parts[number % 4], f"o{number}", number + 1)
    whole = merged(parts)
    assert whole.owners == {f"o{number}": number + 1 for number in range(4 * MAX_OWNERS)}


def test_percentiles_of_merged_parts_are_right_to_one_in_a_hundred(rng: random.Random) -> None:
    """Delays spread over partitions give the percentiles of all of them, within the sketch's accuracy."""
    delays = sorted(rng.lognormvariate(5, 1) for _ in range(5000))
    parts = [Window() for _ in range(4)]
    for number, delay in enumerate(delays):
        part = parts[number % 4].delays
        part[delay_bin(delay)] = part.get(delay_bin(delay), 0) + 1
    whole = merged(parts)
    for share in (0.5, 0.95, 0.99):
        assert whole.percentile(share) == pytest.approx(delays[int(share * (len(delays) - 1))], rel=0.025)


def test_a_session_that_is_destroyed_leaves_no_row() -> None:
    """Rows of sessions are bounded by the sessions that still exist; the count of the states stays."""
    rows = Rows().take(
        recorded("s", 1, ev.SessionCreated(settings=SessionSettings()), BEGAN),
        recorded("s", 2, ev.SessionDestroyed(), BEGAN),
    )
    assert not rows.sessions
    assert rows.total.states == {"destroyed": 1}
