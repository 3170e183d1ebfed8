"""Stream analytics: what the windows hold, and that they hold it again after a replay."""

from __future__ import annotations

import asyncio
import io
import os
import random
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast, get_args

import msgspec
import pytest
from rich.console import Console

from lucid_events import codec
from lucid_events.cli.analytics import shown, sparkline
from lucid_events.config import Settings
from lucid_events.domain import events as ev
from lucid_events.domain.envelope import NewEvent, Recorded
from lucid_events.domain.ids import NO_DIGEST, SessionId, event_id
from lucid_events.domain.values import Quality, SessionSettings
from lucid_events.errors import ConfigError, NotFound, StoreUnavailable
from lucid_events.faust_nats import crashed, running
from lucid_events.faust_nats.errors import Refused
from lucid_events.faust_nats.protocol import NULL
from lucid_events.faust_nats.topology import Names
from lucid_events.gateway.analytics import analytics_families
from lucid_events.handlers.dead_letters import Pointer
from lucid_events.jetstream import topology
from lucid_events.projections.analytics.app import Analytics
from lucid_events.projections.analytics.folding import (
    AHEAD_S,
    Session,
    Totals,
    fold,
    totals_key,
    window_key,
)
from lucid_events.projections.analytics.layout import (
    GONE,
    LENGTHS,
    PREFIX,
    Length,
    app_id,
    changelog,
    entry_key,
    entry_subject,
    state_stream,
    table_filter,
)
from lucid_events.projections.analytics.reading import glance, last_minute, needed, report
from lucid_events.projections.analytics.reports import Glance
from lucid_events.projections.analytics.windows import (
    KEPT,
    MAX_OWNERS,
    SIZES_S,
    Window,
    add,
    delay_bin,
    merged,
)
from lucid_events.service import analytics as service
from lucid_events.service.adapters import Adapters, open_adapters, topology_settings
from lucid_events.service.analytics import glance as look
from lucid_events.service.analytics import read
from lucid_events.subjects import Subjects
from tests.faust.waiting import WAIT_S, until
from tests.nats_server import NatsServer

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
SIZE = 1_000_000
SHA = "ab" * 32
ROOT = Path(__file__).resolve().parent.parent.parent


def _recorded(
    session: str, number: int, event: ev.SessionEvent, at: datetime, *, ahead: timedelta = timedelta()
) -> Recorded:
    return Recorded(
        id=event_id(SessionId(session), "test", number),
        session=SessionId(session),
        event=event,
        type=event.type,
        time=at + ahead,
        cause="test",
        correlation="test",
        actor="test",
        sequence=msgspec.convert(number, int),  # type: ignore[arg-type]  # a NewType of int
        stored_at=at,
        prev=NO_DIGEST,
        digest=NO_DIGEST,
    )


def _sealed(index: int, at: datetime) -> ev.ChunkSealed:
    return ev.ChunkSealed(
        index=index,
        epoch=1,
        n=index,
        offset=index * SIZE,
        size=SIZE,
        sha256=SHA,
        first_seq=1,
        last_seq=1,
        started_at=at,
        ended_at=at,
        cut="size",
    )


def _ready(index: int, codec_name: str = "gzip") -> ev.ChunkReady:
    return ev.ChunkReady(
        index=index,
        offset=index * SIZE,
        size=SIZE,
        stored_size=SIZE // 4,
        sha256=SHA,
        stored_sha256=SHA,
        codec=codec_name,
        ratio=4.0,
        quality=Quality(score=1.0, complete=1.0),
        hash_by="recorder",
        bucket="b",
        object="o",
    )


def _history(
    session: str, chunks: int, *, owner: str = "ann", step_s: float = 3.0, began: datetime = BEGAN
) -> list[Recorded]:
    """A session that starts, stores `chunks` chunks, each ready 200 ms after it was sealed, and fails."""
    facts: list[tuple[ev.SessionEvent, float]] = [
        (ev.SessionCreated(owner=owner, settings=SessionSettings()), 0),
        (ev.SessionStarted(), 0.1),
        (ev.RecorderAttached(epoch=1, recorder="r", offset=0), 0.2),
    ]
    for index in range(chunks):
        at = 1 + index * step_s
        facts += [(_sealed(index, BEGAN), at), (_ready(index), at + 0.2)]
    facts.append((ev.SessionFailed(code="lost"), 1 + chunks * step_s))
    return [
        _recorded(session, number, fact, began + timedelta(seconds=at))
        for number, (fact, at) in enumerate(facts, 1)
    ]


class Rows:
    """The three tables, as dictionaries."""

    def __init__(self) -> None:
        self.sessions: dict[bytes, bytes] = {}
        self.totals: dict[bytes, bytes] = {}
        self.windows: dict[bytes, bytes] = {}

    def take(self, *events: Recorded, partition: int = 0) -> Rows:
        for recorded in events:
            fold(recorded, partition, self.sessions, self.totals, self.windows)
        return self

    def window(self, size_s: int, start_s: float) -> Window:
        key = window_key(size_s, int(BEGAN.timestamp() + start_s), 0)
        return msgspec.json.decode(self.windows[key], type=Window)

    @property
    def total(self) -> Totals:
        return msgspec.json.decode(self.totals[totals_key(0)], type=Totals)


def test_a_history_is_counted_where_it_happened() -> None:
    """Bytes, ratio, delay, states and failures of a session are in the windows of their own times."""
    rows = Rows().take(*_history("s", 5))
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
    late = _history("late", 1)
    rows = Rows().take(*_history("s", 300))
    before = rows.window(10, 0).ready
    rows.take(*late)
    assert rows.window(10, 0).ready == before + SIZE
    assert rows.total.late == 0


def test_the_order_of_sessions_changes_nothing(rng: random.Random) -> None:
    """However the histories of several sessions are interleaved, the windows are the same."""
    histories = [_history(f"s{number}", 4, step_s=2.0 + number) for number in range(6)]
    expected = Rows()
    for history in histories:
        expected.take(*history)
    left, mixed = [list(history) for history in histories], Rows()
    while any(left):
        mixed.take(rng.choice([history for history in left if history]).pop(0))
    decoded = [
        {key: msgspec.json.decode(row, type=Window) for key, row in rows.windows.items()}
        for rows in (expected, mixed)
    ]
    assert decoded[0] == decoded[1]


def test_old_windows_go_by_event_time_and_what_comes_too_late_is_counted() -> None:
    """A window is kept for its time behind the newest event; one that is gone is not begun again."""
    rows = Rows().take(*_history("s", 1))
    later = BEGAN + timedelta(seconds=KEPT[10] + 100)
    rows.take(_recorded("t", 1, ev.SessionCreated(settings=SessionSettings()), later))
    assert window_key(10, int(BEGAN.timestamp()), 0) not in rows.windows
    assert window_key(3600, int(BEGAN.timestamp()), 0) in rows.windows
    rows.take(_recorded("u", 1, ev.SessionCreated(settings=SessionSettings()), BEGAN))
    assert rows.total.late == 1
    assert window_key(10, int(BEGAN.timestamp()), 0) not in rows.windows


def test_one_clock_far_ahead_ends_no_window_and_makes_nothing_late() -> None:
    """An event ten years ahead is counted when it was stored: later events land where they always would."""
    decade = timedelta(days=3650)
    created = ev.SessionCreated(settings=SessionSettings())
    rows, expected = Rows(), Rows()
    for made, ahead in ((rows, decade), (expected, timedelta())):
        made.take(*_history("before", 1), _recorded("wrong", 1, created, BEGAN, ahead=ahead))
        made.take(*_history("after", 1))
    assert rows.windows == expected.windows
    assert rows.window(10, 0).ready == 2 * SIZE
    assert (rows.total.late, rows.total.ahead, expected.total.ahead) == (0, 1, 0)
    assert msgspec.structs.replace(rows.total, ahead=0) == expected.total


def test_clocks_that_differ_a_little_are_believed() -> None:
    """An event some minutes ahead of its storing is counted at its own time; one beyond is not."""
    created = ev.SessionCreated(settings=SessionSettings())
    near, far = timedelta(seconds=AHEAD_S), timedelta(seconds=AHEAD_S + 1)
    rows = Rows().take(
        _recorded("s", 1, created, BEGAN, ahead=near), _recorded("t", 1, created, BEGAN, ahead=far)
    )
    assert rows.window(10, AHEAD_S).events == rows.window(10, 0).events == 1
    assert rows.total.ahead == 1


def _give(window: Window, owner: str, count: int) -> None:
    add(window, Window(ready=count, owners={owner: count}))


def test_who_has_many_bytes_is_among_the_busiest_of_however_many(rng: random.Random) -> None:
    """An owner who comes after many small ones has their place: all but a bounded surplus is theirs."""
    window = Window()
    bytes_of = {"late": 100_000, "steady": 60_000, **{f"small{number}": 100 for number in range(1000)}}
    given = [(owner, 50) for owner, count in bytes_of.items() if owner != "late" for _ in range(count // 50)]
    rng.shuffle(given)
    for owner, count in [*given, *[("late", 50)] * 2000]:
        _give(window, owner, count)
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
        _give(parts[number % 4], f"o{number}", number + 1)
    whole = merged(parts)
    assert whole.owners == {f"o{number}": number + 1 for number in range(4 * MAX_OWNERS)}


def test_an_owner_who_is_sixth_in_every_window_can_be_first_over_all() -> None:
    """The busiest of a report are counted over its windows, not over those windows' own busiest."""
    rows = {}
    for number in range(10):
        window = Window()
        _give(window, "steady", 50)
        for other in range(5):
            _give(window, f"w{number}-{other}", 60)
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
        *_history("s", 1), _recorded("t", 1, ev.SessionCreated(settings=SessionSettings()), late)
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
    rows = Rows().take(*_history("s", 300)).take(*_history("t", 100), partition=3)
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
    rows = Rows().take(*_history("s", 5))
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
    rows.take(_recorded("t", 1, ev.SessionCreated(settings=SessionSettings()), after))
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
    rows = Rows().take(*_history("s", 5))
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

        async def api(self, _: str) -> Any:
            return await self._answer()

    async def forbidden() -> None:
        raise ConfigError("no right to it")

    monkeypatch.setattr(service, "GLANCE_S", 0.05)
    with pytest.raises(StoreUnavailable, match="were not read within"):
        asyncio.run(look(cast(Adapters, Odd(lambda: asyncio.sleep(60)))))
    assert asyncio.run(look(cast(Adapters, Odd(forbidden)))) is None


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
        _recorded("s", 1, ev.SessionCreated(settings=SessionSettings()), BEGAN),
        _recorded("s", 2, ev.SessionDestroyed(), BEGAN),
    )
    assert not rows.sessions
    assert rows.total.states == {"destroyed": 1}


def test_the_report_is_shown_with_its_bars() -> None:
    """The table for people names states, ratio and owners, and draws throughput as bars."""
    rows = Rows().take(*_history("s", 5))
    found = report(rows.totals.values(), rows.windows.items(), 10, 20)
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(shown(found))
    text = console.export_text()
    assert "error 1" in text
    assert "4.00" in text
    assert "ann 4.8 MiB" in text
    assert sparkline([0.0, 50.0, 100.0]) == "▁▅█"
    assert sparkline([0.0, 0.0]) == "▁▁"


@asynccontextmanager
async def _log(server: NatsServer, prefix: str) -> AsyncIterator[Adapters]:
    """The product's streams under a prefix of their own."""
    settings = Settings(nats_url=server.url, prefix=prefix)
    async with open_adapters(settings, name="test") as adapters:
        wanted = topology_settings(settings, capture_max_bytes=64 * 1024 * 1024)
        await topology.apply(adapters.connection, adapters.subjects, wanted)
        yield adapters


async def _append(adapters: Adapters, history: list[Recorded]) -> None:
    session = history[0].session
    new = [
        NewEvent(
            id=one.id,
            session=session,
            event=one.event,
            time=one.time,
            cause="test",
            correlation="test",
            actor="test",
        )
        for one in history
    ]
    version = await adapters.store.version(session)
    await adapters.store.append(session, new, expected=version, head=NO_DIGEST)


def _started(session: str) -> dict[str, str]:
    """Headers of an event that a reader takes for one of `session`."""
    headers, _ = codec.encode_event(
        NewEvent(
            id=event_id(SessionId(session), "test", 99),
            session=SessionId(session),
            event=ev.SessionStarted(),
            time=BEGAN,
            cause="test",
            correlation="test",
            actor="test",
        ),
        NO_DIGEST,
    )
    return dict(headers)


async def _read_all(made: Analytics, sequence: int) -> tuple[dict[bytes, Any], ...]:
    """The app's tables once it has gone through the log."""

    def done() -> bool:
        # Each partition goes at its own pace, so the last sequence alone says little.
        found = [msgspec.json.decode(row, type=Totals) for row in made.totals.values()]
        return sum(one.events + one.strays + one.undecodable for one in found) >= sequence

    await until(done, f"sequence {sequence} in the tables")
    return tuple(
        {key: msgspec.json.decode(row, type=kind) for key, row in table.items()}
        for table, kind in ((made.sessions, Session), (made.totals, Totals), (made.windows, Window))
    )


def test_a_replay_from_the_start_gives_the_same_tables(server: NatsServer, ident: str) -> None:
    """Tables kept live, over two starts, equal those of an app that reads the whole log at once."""

    async def run() -> None:
        async with _log(server, ident) as adapters:
            for number in range(8):
                await _append(adapters, _history(f"a{number}", 5, owner=f"o{number % 3}"))
            middle = (await adapters.store.last_position()).sequence
            live = Analytics(server.url, ident)
            async with running(live.app):
                await _read_all(live, middle)
            for number in range(8):
                await _append(adapters, _history(f"b{number}", 3, owner=f"o{number % 3}"))
            last = (await adapters.store.last_position()).sequence
            live = Analytics(server.url, ident)
            async with running(live.app):
                kept = await _read_all(live, last)
            replayed = Analytics(server.url, ident, version=2)
            async with running(replayed.app):
                again = await _read_all(replayed, last)
            assert kept == again
            found = await read(adapters, size_s=3600, last=5)
            assert (found.events, found.sequence) == (last, last)
            assert found.sessions == {"error": 16}
            assert found.windows[0].ready_bytes == 64 * SIZE
            assert found.windows[0].ratio == 4.0
            assert len(found.windows[0].owners) == 3

    asyncio.run(run())


def test_a_replay_places_a_wrong_clock_as_it_was_placed_live(server: NatsServer, ident: str) -> None:
    """An event ten years ahead is at the time the server stored it, whenever it is read; nothing is late."""

    async def run() -> None:
        async with _log(server, ident) as adapters:
            began = datetime.now(UTC) - timedelta(minutes=5)
            live = Analytics(server.url, ident)
            async with running(live.app):
                await _append(adapters, _history("before", 3, began=began))
                created = ev.SessionCreated(settings=SessionSettings())
                await _append(adapters, [_recorded("wrong", 1, created, began, ahead=timedelta(days=3650))])
                for number in range(8):
                    await _append(adapters, _history(f"after{number}", 3, began=began))
                last = (await adapters.store.last_position()).sequence
                kept = await _read_all(live, last)
            replayed = Analytics(server.url, ident, version=2)
            async with running(replayed.app):
                assert await _read_all(replayed, last) == kept
            found = await read(adapters, size_s=10, last=720)
            assert (found.late, found.ahead, found.events) == (0, 1, last)
            assert sum(row.ready_bytes for row in found.windows) == 27 * SIZE

    asyncio.run(run())


def test_an_event_that_can_not_be_set_aside_ends_the_app_and_is_not_lost(
    server: NatsServer, ident: str
) -> None:
    """Refused its letter, a broken event ends the app before it counts as done; a restart sets it aside."""

    async def run() -> None:
        async with _log(server, ident) as adapters:
            # One session is one partition: what comes before is committed, what comes behind waits.
            await _append(adapters, _history("s", 1))
            headers = {**_started("s"), codec.TYPE: "session.started.v9"}
            await adapters.connection.publish_acked(
                adapters.subjects.event("s", "session.started.v1"), b"{}", headers=headers
            )
            last = (await adapters.store.last_position()).sequence
            made = Analytics(server.url, ident)
            link = cast(Any, made.app.transport).link
            publish, letters = link.publish, adapters.subjects.dead_letter("analytics")

            async def refusing(subject: str, data: bytes, headers: dict[str, str]) -> Any:
                if subject == letters:
                    raise Refused("no room for letters")
                return await publish(subject, data, headers)

            link.publish = refusing
            with pytest.raises(Refused, match="no room for letters"):
                async with asyncio.timeout(WAIT_S), running(made.app):
                    await crashed(made.app)
            again = Analytics(server.url, ident)
            async with running(again.app):
                _, totals, _ = await _read_all(again, last)
            assert sum(one.undecodable for one in totals.values()) == 1
            assert sum(one.events for one in totals.values()) == last - 1
            stored = await adapters.connection.leader_get(adapters.subjects.dlq_stream, last_by_subj=letters)
            assert stored is not None
            assert codec.decode(stored.data, Pointer).sequence == last

    asyncio.run(run())


def test_a_worker_of_its_own_counts_and_ends_in_order(server: NatsServer, ident: str) -> None:
    """`faust -A lucid_events.projections.analytics worker` counts, and SIGTERM ends it with 0."""

    async def run() -> None:
        async with _log(server, ident) as adapters:
            await _append(adapters, _history("s", 5))
            with pytest.raises(NotFound, match="no analytics have run"):
                await read(adapters, size_s=60, last=5)
            assert await look(adapters) is None
            worker = await asyncio.create_subprocess_exec(
                Path(sys.executable).with_name("faust"),
                *("-A", "lucid_events.projections.analytics", "worker"),
                env={**os.environ, "NATS_URL": server.url, "LUCID_PREFIX": ident},
                cwd=ROOT,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
            said = asyncio.create_task(worker.communicate())
            try:

                async def counted() -> bool:
                    return (await _known(adapters)) == 14 or worker.returncode is not None

                await until(counted, "the events in the tables")
                found = await read(adapters, size_s=3600, last=5)
                assert (found.sessions, found.windows[0].ready_bytes) == ({"error": 1}, 5 * SIZE)
                seen = await look(adapters)
                assert seen is not None
                assert (seen.events, seen.events_behind) == (14, 0)
                worker.terminate()
                async with asyncio.timeout(WAIT_S):
                    await said
                assert worker.returncode == 0, (await said)[0].decode()
            finally:
                if worker.returncode is None:
                    worker.kill()
                await said

    asyncio.run(run())


async def _known(adapters: Adapters) -> int:
    try:
        return (await read(adapters, size_s=60, last=1)).events
    except NotFound:
        return 0


def test_what_can_not_be_read_is_set_aside_and_stops_nothing(server: NatsServer, ident: str) -> None:
    """An unknown version and a broken body become pointers, a stray is counted, the next event counts."""

    async def run() -> None:
        async with _log(server, ident) as adapters:
            await _append(adapters, _history("good", 1))
            headers = _started("bad")
            subject = adapters.subjects.event("bad", "session.started.v1")
            publish = adapters.connection.publish_acked
            odd = {**headers, codec.TYPE: "session.started.v9", codec.MSG_ID: "odd"}
            unknown = await publish(subject, b"{}", headers=odd)
            broken = await publish(subject, b"{", headers={**headers, codec.MSG_ID: "broken"})
            await publish(subject, b"stray")
            await _append(adapters, _history("after", 1))
            last = (await adapters.store.last_position()).sequence
            made = Analytics(server.url, ident)
            async with running(made.app):
                _, totals, _ = await _read_all(made, last)
            assert sum(one.undecodable for one in totals.values()) == 2
            assert sum(one.strays for one in totals.values()) == 1
            stream = adapters.subjects.dlq_stream
            letters = []
            for number in (1, 2):
                stored = await adapters.connection.leader_get(stream, seq=number)
                assert stored is not None
                letters.append(codec.decode(stored.data, Pointer))
            assert {letter.sequence for letter in letters} == {unknown.sequence, broken.sequence}
            assert {letter.consumer for letter in letters} == {"analytics"}
            found = report((msgspec.json.encode(one) for one in totals.values()), (), 60, 1)
            assert (found.undecodable, found.strays) == (2, 1)

    asyncio.run(run())


def test_names_are_those_of_the_driver() -> None:
    """Readers, which don't load the driver, look where it keeps the tables; `lucid dlq` names that stream."""
    for prefix in ("lucid", "my-log", "my_log"):
        names = Names(PREFIX, app_id(prefix))
        assert state_stream(prefix) == names.state_stream
        assert table_filter(prefix, "totals") == names.table(changelog(prefix, "totals"))
        for key in (b"totals/3", b"60/1767225600/0", b"?>\xff"):
            subject = names.entry(changelog(prefix, "windows"), 2, key)
            assert entry_subject(prefix, "windows", 2, key) == subject
            assert entry_key(subject) == key
    assert GONE == NULL
    assert tuple(LENGTHS.values()) == SIZES_S
    assert get_args(Length) == tuple(LENGTHS)


def test_nothing_of_faust_is_loaded_unless_it_is_asked_for() -> None:
    """Importing the package, its commands and services imports no Faust; nor does reading the tables."""
    program = (
        "import sys, lucid_events, lucid_events.cli, lucid_events.service\n"
        "import lucid_events.projections.analytics, lucid_events.cli.analytics\n"
        "import lucid_events.gateway, lucid_events.service.analytics\n"
        "found = [name for name in sys.modules if name.split('.')[0] in ('faust', 'mode', 'ddsketch')]\n"
        "import lucid_events.projections.analytics.reading\n"
        "found += [name for name in sys.modules if name.split('.')[0] in ('faust', 'mode')]\n"
        "found += [name for name in sys.modules if 'faust_nats' in name]\n"
        "sys.exit(', '.join(sorted(found)) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
