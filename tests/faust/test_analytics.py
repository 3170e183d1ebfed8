"""Stream analytics: what the windows hold, and that they hold it again after a replay."""

from __future__ import annotations

import asyncio
import io
import random
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

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
from lucid_events.faust_nats import running
from lucid_events.faust_nats.topology import Names
from lucid_events.handlers.dead_letters import Pointer
from lucid_events.jetstream import topology
from lucid_events.projections.analytics.app import Analytics
from lucid_events.projections.analytics.folding import Session, Totals, fold, totals_key, window_key
from lucid_events.projections.analytics.layout import PREFIX, app_id, state_stream
from lucid_events.projections.analytics.reading import report
from lucid_events.projections.analytics.windows import KEPT, Window, delay_bin, merged
from lucid_events.service.adapters import Adapters, open_adapters, topology_settings
from lucid_events.service.analytics import read
from tests.faust.waiting import until
from tests.nats_server import NatsServer

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
SIZE = 1_000_000
SHA = "ab" * 32


def _recorded(session: str, number: int, event: ev.SessionEvent, at: datetime) -> Recorded:
    return Recorded(
        id=event_id(SessionId(session), "test", number),
        session=SessionId(session),
        event=event,
        type=event.type,
        time=at,
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


def _history(session: str, chunks: int, *, owner: str = "ann", step_s: float = 3.0) -> list[Recorded]:
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
        _recorded(session, number, fact, BEGAN + timedelta(seconds=at))
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


def test_what_can_not_be_read_is_set_aside_and_stops_nothing(server: NatsServer, ident: str) -> None:
    """An unknown version and a broken body become pointers, a stray is counted, the next event counts."""

    async def run() -> None:
        async with _log(server, ident) as adapters:
            await _append(adapters, _history("good", 1))
            headers, _ = codec.encode_event(
                NewEvent(
                    id=event_id(SessionId("bad"), "test", 1),
                    session=SessionId("bad"),
                    event=ev.SessionStarted(),
                    time=BEGAN,
                    cause="test",
                    correlation="test",
                    actor="test",
                ),
                NO_DIGEST,
            )
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


def test_the_stream_to_delete_is_named_right() -> None:
    """What a refused redrive tells to delete is the stream in which the driver keeps the analytics."""
    for prefix in ("lucid", "my-log"):
        assert state_stream(prefix) == Names(PREFIX, app_id(prefix)).state_stream


def test_nothing_of_faust_is_loaded_unless_it_is_asked_for() -> None:
    """Importing the package and its command line does not import Faust or the driver."""
    program = (
        "import sys, lucid_events, lucid_events.cli, lucid_events.service\n"
        "import lucid_events.projections.analytics, lucid_events.cli.analytics\n"
        "found = [name for name in sys.modules if name.split('.')[0] in ('faust', 'mode', 'ddsketch')]\n"
        "found += [name for name in sys.modules if 'faust_nats' in name]\n"
        "sys.exit(', '.join(sorted(found)) or 0)"
    )
    root = Path(__file__).resolve().parent.parent.parent
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=root, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
