"""The analytics over a log on a server: kept live, replayed, and fed with what can't be read."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast, get_args

import msgspec
import pytest

from lucid_events import codec
from lucid_events.config import Settings
from lucid_events.domain import events as ev
from lucid_events.domain.envelope import NewEvent, Recorded
from lucid_events.domain.ids import NO_DIGEST, SessionId, event_id
from lucid_events.domain.values import SessionSettings
from lucid_events.errors import NotFound
from lucid_events.faust_nats import crashed, running
from lucid_events.faust_nats.errors import Refused
from lucid_events.faust_nats.protocol import NULL
from lucid_events.faust_nats.topology import Names
from lucid_events.handlers.dead_letters import Pointer
from lucid_events.jetstream import topology
from lucid_events.projections.analytics.app import Analytics
from lucid_events.projections.analytics.folding import Session, Totals
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
from lucid_events.projections.analytics.reading import report
from lucid_events.projections.analytics.windows import SIZES_S, Window
from lucid_events.service.adapters import Adapters, open_adapters, topology_settings
from lucid_events.service.analytics import glance as look
from lucid_events.service.analytics import read
from tests.faust.histories import BEGAN, SIZE, history, recorded
from tests.faust.waiting import WAIT_S, until
from tests.nats_server import NatsServer

ROOT = Path(__file__).resolve().parent.parent.parent


@asynccontextmanager
async def _log(server: NatsServer, prefix: str) -> AsyncIterator[Adapters]:
    """The product's streams under a prefix of their own."""
    settings = Settings(nats_url=server.url, prefix=prefix)
    async with open_adapters(settings, name="test") as adapters:
        wanted = topology_settings(settings, capture_max_bytes=64 * 1024 * 1024)
        await topology.apply(adapters.connection, adapters.subjects, wanted)
        yield adapters


async def _append(adapters: Adapters, events: list[Recorded]) -> None:
    session = events[0].session
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
        for one in events
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
                await _append(adapters, history(f"a{number}", 5, owner=f"o{number % 3}"))
            middle = (await adapters.store.last_position()).sequence
            live = Analytics(server.url, ident)
            async with running(live.app):
                await _read_all(live, middle)
            for number in range(8):
                await _append(adapters, history(f"b{number}", 3, owner=f"o{number % 3}"))
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
                await _append(adapters, history("before", 3, began=began))
                created = ev.SessionCreated(settings=SessionSettings())
                await _append(adapters, [recorded("wrong", 1, created, began, ahead=timedelta(days=3650))])
                for number in range(8):
                    await _append(adapters, history(f"after{number}", 3, began=began))
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
            await _append(adapters, history("s", 1))
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
            await _append(adapters, history("s", 5))
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
            await _append(adapters, history("good", 1))
            headers = _started("bad")
            subject = adapters.subjects.event("bad", "session.started.v1")
            publish = adapters.connection.publish_acked
            odd = {**headers, codec.TYPE: "session.started.v9", codec.MSG_ID: "odd"}
            unknown = await publish(subject, b"{}", headers=odd)
            broken = await publish(subject, b"{", headers={**headers, codec.MSG_ID: "broken"})
            await publish(subject, b"stray")
            await _append(adapters, history("after", 1))
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
