"""What is captured, sealed, stored and verified adds up, and what is missing is named, over a real server."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import msgspec
import pytest

from lucid_events.cli.audit_reconciling import not_kept
from lucid_events.config import Settings
from lucid_events.domain import commands as cmd
from lucid_events.domain import events as ev
from lucid_events.domain.envelope import NewEvent, Recorded
from lucid_events.domain.ids import EventId, SessionId
from lucid_events.domain.transitions import State
from lucid_events.errors import (
    AppendUncertain,
    ConfigError,
    IntegrityError,
    LucidError,
    StoreUnavailable,
)
from lucid_events.gateway.metrics import exposition
from lucid_events.service import connect, up
from lucid_events.service.adapters import Adapters
from lucid_events.service.client import Client
from lucid_events.service.exporting import export
from lucid_events.service.listing import some
from lucid_events.service.monitoring import Monitor
from lucid_events.service.reconciling import Reconciled, Totals, note, reconcile
from lucid_events.subjects import object_name
from tests.end_to_end.pipeline import Pipeline

PATIENCE_S = 60.0
CHUNK = 100_000


@asynccontextmanager
async def recorded(folder: Path, *sessions: str) -> AsyncIterator[Client]:
    """A client of a pipeline with recordings of two and a half chunks each."""
    source = folder / "source"
    source.write_bytes(bytes(range(250)) * 1000)
    with Pipeline(folder) as pipeline:
        for sid in sessions:
            await asyncio.to_thread(pipeline.cli, "record", sid, str(source), "--chunk-bytes", str(CHUNK))
        async with connect(Settings(nats_url=pipeline.url)) as client, asyncio.timeout(PATIENCE_S):
            for sid in sessions:
                await client.status_in(SessionId(sid), {State.STOPPED}, timeout_s=PATIENCE_S)
            yield client


async def found(client: Client, session: str | None = None) -> dict[str, Reconciled]:
    """What a reconciliation says, by session."""
    asked = SessionId(session) if session else None
    return {one.session_id: one async for one in reconcile(client.adapters, asked)}


def test_a_whole_recording_adds_up(tmp_path: Path) -> None:
    """Captured, sealed and ready bytes are equal once a recording has ended, and nothing is missing."""

    async def _() -> None:
        async with recorded(tmp_path, "one", "two") as client:
            told = await found(client)
            assert sorted(told) == ["one", "two"]
            for one in told.values():
                assert (one.captured_bytes, one.sealed_bytes, one.ready_bytes) == (250_000,) * 3
                assert (one.complete, one.unstored_s, one.verified_bytes) == (True, 0.0, 0)

    asyncio.run(_())


def test_what_is_missing_is_named_on_both_sides(tmp_path: Path) -> None:
    """A deleted object, an object nobody wrote of, and one of an unknown session are told by name."""

    async def _() -> None:
        async with recorded(tmp_path, "one", "two") as client:
            names = [about.name async for about in client.chunks.names("one/")]
            assert await client.chunks.delete(names[1])
            await client.chunks.put("one/00000077-0123456789abcdef", b"x", metadata={})
            await client.chunks.put("ghost/00000000-0123456789abcdef", b"x", metadata={})
            told = await found(client)
            assert told["two"].complete
            one, ghost = told["one"], told["ghost"]
            assert (one.events_without_objects, one.objects_without_events) == (1, 1)
            assert one.named == (f"no object: {names[1]}", "no event: one/00000077-0123456789abcdef")
            assert (ghost.state, ghost.objects_without_events) == (None, 1)
            assert list(await found(client, "two")) == ["two"]

    asyncio.run(_())


def test_every_bucket_that_events_name_is_looked_at(tmp_path: Path) -> None:
    """A chunk in another bucket is found there; gone from it, or in a bucket that is gone, it is missing."""

    async def _() -> None:
        async with recorded(tmp_path, "one") as client:
            a = client.adapters
            info = await a.connection.api("STREAM.INFO.OBJ_lucid-chunks")
            config = {key: value for key, value in info["config"].items() if key != "metadata"}
            subjects = ["$O.cold.C.>", "$O.cold.M.>"]
            await a.connection.api(
                "STREAM.CREATE.OBJ_cold", {**config, "name": "OBJ_cold", "subjects": subjects}
            )
            await ready_in(client, "one", "cold", "one/00000003-x")
            lost = (await found(client))["one"]
            assert (lost.events_without_objects, lost.named) == (1, ("no object: cold/one/00000003-x",))
            await a.bucket("cold").put("one/00000003-x", b"x", metadata={})
            await a.bucket("cold").put("ghost/00000000-x", b"x", metadata={})
            told = await found(client)
            assert told["one"].complete
            assert told["ghost"].named == ("no event: cold/ghost/00000000-x",)
            assert (await found(client, "one"))["one"].complete
            await a.connection.api("STREAM.DELETE.OBJ_cold")
            with pytest.raises(IntegrityError, match="there is no bucket cold"):
                await export(a, SessionId("one"), tmp_path / "one.tar")
            assert (await found(client))["one"].events_without_objects == 1

    asyncio.run(_())


async def ready_in(client: Client, session: str, bucket: str, name: str) -> None:
    """Append that one more chunk is ready, in an object that nobody put there."""
    history = [one async for one in client.store.read(SessionId(session)) if isinstance(one, Recorded)]
    ready = next(one for one in history if isinstance(one.event, ev.ChunkReady))
    assert isinstance(ready.event, ev.ChunkReady)
    moved = msgspec.structs.replace(ready.event, index=3, bucket=bucket, object=name)
    event = NewEvent(
        id=EventId("moved"),
        session=ready.session,
        event=moved,
        time=ready.time,
        cause="test",
        correlation="test",
        actor="test",
    )
    last = history[-1]
    version = await client.store.version(last.session)
    await client.store.append(last.session, [event], expected=version, head=last.digest)


def test_an_event_that_names_no_bucket_has_no_object(tmp_path: Path) -> None:
    """What could be no bucket's name is not asked for: its chunk is missing, and the others are looked at."""

    async def _() -> None:
        async with recorded(tmp_path, "one", "two") as client:
            await ready_in(client, "one", "x.y", "one/00000003-x")
            told = await found(client)
            assert told["one"].named == ("no object: x.y/one/00000003-x",)
            with pytest.raises(IntegrityError, match="what its event names is no bucket"):
                await export(client.adapters, SessionId("one"), tmp_path / "one.tar")
            assert told["two"].complete

    asyncio.run(_())


def test_names_are_held_for_some_sessions_at_a_time() -> None:
    """Sessions to be compared by name are cut so that no pass holds more names than the bound."""
    there = {1: (60_000, 0), 2: (50_000, 0), 3: (40_000, 0), 4: (250_000, 0), 5: (1, 0)}
    assert list(some(there, {1, 2, 3, 4, 6})) == [{1}, {2, 3}, {4}]


def test_an_erased_recording_is_complete(tmp_path: Path) -> None:
    """After a cleanup nothing is stored, nothing is expected, and the sums say so."""

    async def _() -> None:
        async with recorded(tmp_path, "one") as client:
            await client.commands.send(SessionId("one"), cmd.Cleanup())
            await client.status_in(SessionId("one"), {State.DESTROYED}, timeout_s=PATIENCE_S)
            one = (await found(client))["one"]
            assert (one.complete, one.ready_bytes, one.stored_bytes) == (True, 0, 0)

    asyncio.run(_())


def test_bytes_on_their_way_have_an_age(tmp_path: Path) -> None:
    """While nobody stores, sealed bytes exceed ready ones and grow old; gone from capture they are lost."""

    async def _() -> None:
        source = tmp_path / "source"
        source.write_bytes(bytes(250_000))
        with Pipeline(tmp_path / "p", without=("chunks",)) as pipeline:
            recording = pipeline.spawn("record", "slow", str(source), "--chunk-bytes", str(CHUNK))
            async with connect(Settings(nats_url=pipeline.url)) as client, asyncio.timeout(PATIENCE_S):
                session = SessionId("slow")
                while True:  # sealed to its end, as the history says
                    told = (await found(client)).get("slow")
                    if told is not None and told.sealed_bytes == 250_000:
                        break
                    await asyncio.sleep(0.05)
                assert (told.captured_bytes, told.ready_bytes, told.complete) == (250_000, 0, True)
                assert told.unstored_s > 0
                await client.adapters.capture.erase(session)
                lost = (await found(client))["slow"]
                assert (lost.capture_lost, lost.complete) == (3, False)
                assert "not in capture: sealed chunk 0" in lost.named
            recording.kill9()

    asyncio.run(_())


def test_an_object_put_behind_an_erasure_is_told(tmp_path: Path) -> None:
    """A worker stood still before its put until the session was destroyed, and died behind it."""

    async def _() -> None:
        source = tmp_path / "source"
        source.write_bytes(bytes(CHUNK))
        with Pipeline(tmp_path / "p", without=("chunks",)) as pipeline:
            recording = pipeline.spawn("record", "late", str(source), "--chunk-bytes", str(CHUNK))
            async with connect(Settings(nats_url=pipeline.url)) as client, asyncio.timeout(PATIENCE_S):
                session = SessionId("late")
                while True:  # sealed, as the history says
                    told = (await found(client)).get("late")
                    if told is not None and told.sealed_bytes:
                        break
                    await asyncio.sleep(0.05)
                (sealed,) = [
                    message.event
                    async for message in client.store.read(session)
                    if isinstance(message, Recorded) and isinstance(message.event, ev.ChunkSealed)
                ]
                await client.commands.send(session, cmd.Fail(reason="given up"))
                await client.commands.send(session, cmd.Cleanup())
                await client.status_in(session, {State.DESTROYED}, timeout_s=PATIENCE_S)
                assert (await found(client))["late"].complete
                name = object_name(session, sealed.index, sealed.sha256)
                await client.chunks.put(name, b"late", metadata={})
                late = (await found(client))["late"]
                assert (late.complete, late.named) == (False, (f"no event: {name}",))
            recording.kill9()

    asyncio.run(_())


def test_the_sums_of_the_last_run_are_metrics(tmp_path: Path) -> None:
    """Every sum of a noted run is a gauge; before the first run there is none."""

    async def _() -> None:
        async with up(Settings(data=str(tmp_path)), port=0) as service:
            adapters = service.workers.adapters
            before, _ = await exposition(Monitor(adapters))
            assert b"lucid_reconciled" not in before
            totals = Totals(at=adapters.clock.now()).with_(
                Reconciled(session_id="s", captured_bytes=7, sealed_bytes=6, events_without_objects=2)
            )
            totals = totals.with_(Reconciled(session_id="d", damaged="message 7 can't be read"))
            assert await note(adapters, totals)
            body, _ = await exposition(Monitor(adapters))
            text = body.decode()
            assert "lucid_reconciled_captured_bytes 7.0" in text
            assert "lucid_reconciled_events_without_objects 2.0" in text
            for name in ("sealed", "ready", "stored", "verified"):
                assert f"lucid_reconciled_{name}_bytes" in text
            for name in (
                "oldest_unstored_seconds",
                "objects_without_events",
                "capture_lost",
                "capture_left",
                "sessions 2.0",
                "incomplete_sessions 2.0",
                "damaged_sessions 1.0",
            ):
                assert f"lucid_reconciled_{name}" in text

    asyncio.run(_())


class Meta:
    """A bucket of metadata that takes nothing."""

    def __init__(self, error: LucidError | None) -> None:
        self._error = error

    async def put(self, key: str, value: bytes) -> int:
        """Take it, or say why not."""
        if self._error is not None:
            raise self._error
        return 1


@pytest.mark.parametrize(
    ("error", "unseen", "why"),
    [
        (None, 0, ""),
        (None, 1, "no right to read capture"),
        (ConfigError("it is forbidden", forbidden="$KV.x"), 0, "no right to write to the bucket of metadata"),
        (ConfigError("there is no such stream"), 0, "there is no such stream"),
        (StoreUnavailable("the server is away"), 0, "the server is away"),
        (AppendUncertain("no reply came"), 0, "no reply came"),
    ],
)
def test_why_sums_were_not_kept_is_told(error: LucidError | None, unseen: int, why: str) -> None:
    """A login without a right to keep the sums is told so, and an outage is told as one."""
    adapters = cast(Adapters, SimpleNamespace(meta=Meta(error)))
    totals = Totals(at=datetime(2026, 1, 31, tzinfo=UTC), capture_unseen=unseen)
    assert asyncio.run(not_kept(adapters, totals)) == why
