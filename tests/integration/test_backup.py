"""Backups of a pipeline that works on meanwhile: erasures, purges, consumers and restores that break off."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import pytest
from msgspec.structs import replace

from lucid_events.compression.measuring import Measurer
from lucid_events.config import Settings
from lucid_events.domain import commands as cmd
from lucid_events.domain import events as ev
from lucid_events.domain.envelope import Recorded
from lucid_events.domain.ids import SessionId
from lucid_events.domain.transitions import State
from lucid_events.errors import (
    CommandRejected,
    ConfigError,
    ContractError,
    IntegrityError,
    NotFound,
    StoreUnavailable,
)
from lucid_events.evidence.differences import Difference, What
from lucid_events.jetstream.connection import Connection, NatsOptions
from lucid_events.jetstream.connection import connect as connect_nats
from lucid_events.jetstream.definitions import TopologySettings
from lucid_events.jetstream.restore_mark import refuse_half_restored
from lucid_events.jetstream.snapshots import take_snapshot
from lucid_events.jetstream.topology import stream_names
from lucid_events.ports import Position
from lucid_events.projections.checkpoints import Checkpoints
from lucid_events.service import connect, restoring, up
from lucid_events.service.adapters import Adapters
from lucid_events.service.auditing import excused, open_auditor
from lucid_events.service.backing_up import create_backup
from lucid_events.service.client import Client
from lucid_events.service.rebuilding import fill_first
from lucid_events.service.restoring import Restored, restore_backup, restore_target
from lucid_events.service.verifying import SessionReport
from tests.end_to_end.pipeline import QUICK, Pipeline
from tests.nats_server import NatsServer

PATIENCE_S = 60.0
CHUNK = 100_000
NAMED = SessionId("one")


@asynccontextmanager
async def recorded(
    folder: Path, rng: Random, **options: object
) -> AsyncIterator[tuple[Pipeline, Client, bytes]]:
    """A pipeline with one recording of two and a half chunks."""
    data = rng.randbytes(2 * CHUNK + CHUNK // 2)
    source = folder / "source"
    source.write_bytes(data)
    with Pipeline(folder / "pipeline", **options) as pipeline:  # type: ignore[arg-type] # its own options
        await asyncio.to_thread(pipeline.cli, "record", NAMED, str(source), "--chunk-bytes", str(CHUNK))
        async with connect(Settings(nats_url=pipeline.url)) as client, asyncio.timeout(PATIENCE_S):
            await client.status_in(NAMED, {State.STOPPED}, timeout_s=PATIENCE_S)
            yield pipeline, client, data


async def verified(adapters: Adapters) -> dict[str, SessionReport]:
    """What verification says of every session."""
    async with Measurer(workers=1) as measurer:
        auditor = await open_auditor(adapters, measurer)
        assert await auditor.log() == []
        return {str(one): await auditor.verify(SessionId(str(one))) async for one in auditor.sessions()}


@asynccontextmanager
async def restored(backup: Path, data: Path) -> AsyncIterator[tuple[Adapters, Restored]]:
    """A server of its own with the backup on it."""
    async with restore_target(Settings(), data) as adapters:
        yield adapters, await restore_backup(adapters, backup, data=data)


def test_a_session_erased_meanwhile_is_named_and_not_called_damaged(tmp_path: Path, rng: Random) -> None:
    """Objects that an erasure took behind the log's turn are told as that, and it can be finished."""

    async def main() -> None:
        async with recorded(tmp_path, rng) as (_, client, _data):

            async def erase(step: str) -> None:
                if step == "backup.LUCID_EVENTS":
                    await client.commands.send(NAMED, cmd.Cleanup())
                    await client.status_in(NAMED, {State.DESTROYED}, timeout_s=PATIENCE_S)

            made = await create_backup(client.adapters, tmp_path / "backup", checkpoint=erase)
            assert made.manifest.erased == (NAMED,)
        async with restored(tmp_path / "backup", tmp_path / "data") as (adapters, done):
            assert done.manifest == made.manifest
            report = (await verified(adapters))[NAMED]
            assert not report.holds
            told = excused(report)
            assert (told.holds, "lucid cleanup" in told.remarks[-1].reason) == (True, True)
            forged = Difference(what=What.CHAIN, session=NAMED, reason="forged")
            worse = replace(report, found=report.found + 1, differences=(*report.differences, forged))
            assert not excused(worse).holds
        settings = Settings(data=str(tmp_path / "data"))
        async with up(settings, port=0) as service, connect(Settings(nats_url=service.url)) as client:
            await client.commands.send(NAMED, cmd.Cleanup())
            await client.status_in(NAMED, {State.DESTROYED}, timeout_s=PATIENCE_S)
            assert (await verified(client.adapters))[NAMED].holds

    asyncio.run(main())


def test_chunks_stored_behind_the_logs_turn_are_ready_after_a_restore(tmp_path: Path, rng: Random) -> None:
    """A chunk the log only knows as sealed, gone from capture meanwhile, is taken from its bucket."""

    async def main() -> None:
        data = rng.randbytes(2 * CHUNK + CHUNK // 2)
        source = tmp_path / "source"
        source.write_bytes(data)
        with Pipeline(tmp_path / "pipeline", without=("chunks",)) as pipeline:
            recording = pipeline.spawn("record", NAMED, str(source), "--chunk-bytes", str(CHUNK))
            async with connect(Settings(nats_url=pipeline.url)) as client, asyncio.timeout(PATIENCE_S):

                async def sealed() -> bool:
                    return await pending(client) == 3

                await until(sealed)

                async def store(step: str) -> None:
                    if step == "backup.LUCID_EVENTS":
                        await asyncio.to_thread(pipeline.worker, "chunks")
                        await client.status_in(NAMED, {State.STOPPED}, timeout_s=PATIENCE_S)
                        await until(purged)

                async def purged() -> bool:
                    return not await client.adapters.capture.count(NAMED, epoch=1, n=2)

                made = await create_backup(client.adapters, tmp_path / "backup", checkpoint=store)
                assert (made.manifest.chunks, made.manifest.erased) == (0, ())
            assert await asyncio.to_thread(recording.wait) == 0
        async with restored(tmp_path / "backup", tmp_path / "data"):
            pass
        settings = Settings(data=str(tmp_path / "data"), lease_s=float(QUICK["LUCID_LEASE"]))
        async with up(settings, port=0) as service, connect(Settings(nats_url=service.url)) as client:

            async def ready() -> bool:
                return not await pending(client)

            async with asyncio.timeout(PATIENCE_S):
                await until(ready)
            report = (await verified(client.adapters))[NAMED]
            assert (report.holds, report.chunks, report.raw_bytes) == (True, 3, len(data))

    asyncio.run(main())


async def pending(client: Client) -> int:
    """How many chunks are sealed and not ready."""
    kinds = Counter([type(m.event) async for m in client.store.read(NAMED) if isinstance(m, Recorded)])
    return kinds[ev.ChunkSealed] - kinds[ev.ChunkReady]


async def until(look: Callable[[], Awaitable[bool]]) -> None:
    """Return when `look` is true; the caller bounds the wait."""
    while not await look():  # noqa: ASYNC110 - a server's state: nothing here sets an event
        await asyncio.sleep(0.05)


def test_consumers_go_on_behind_what_was_done(tmp_path: Path, rng: Random) -> None:
    """A consumer of somebody's own comes back with its settings, behind the last message it has handled."""

    async def main() -> None:
        async with recorded(tmp_path, rng) as (_, client, _data):
            connection = client.adapters.connection
            config = {"durable_name": "integrator", "ack_policy": "explicit", "ack_wait": 45_000_000_000}
            body = {"stream_name": "LUCID_EVENTS", "config": config}
            await connection.api("CONSUMER.CREATE.LUCID_EVENTS.integrator", body)
            await acked(connection, 5)
            alike = {"stream_name": "LUCID_EVENTS", "config": {**config, "durable_name": "status-viewer"}}
            await connection.api("CONSUMER.CREATE.LUCID_EVENTS.status-viewer", alike)
            made = await create_backup(client.adapters, tmp_path / "backup")
            followers = {one.name: one.done for one in made.manifest.consumers}
            assert followers["integrator"] == 5
            assert "status" not in followers
            assert followers["status-viewer"] == 0
        async with restored(tmp_path / "backup", tmp_path / "data") as (adapters, _):
            info = await adapters.connection.api("CONSUMER.INFO.LUCID_EVENTS.integrator")
            assert info["config"]["ack_wait"] == 45_000_000_000
            assert await acked(adapters.connection, 1) == 6
            views = await adapters.connection.api("CONSUMER.INFO.LUCID_EVENTS.status")
            assert views["num_pending"] == 0

    asyncio.run(main())


def test_a_restored_log_that_is_cut_back_is_noticed(tmp_path: Path, rng: Random) -> None:
    """How far the log reached is on record when the restore ends, before any worker has seen it."""

    async def main() -> None:
        async with recorded(tmp_path, rng) as (_, client, _data):
            await create_backup(client.adapters, tmp_path / "backup")
        async with restored(tmp_path / "backup", tmp_path / "data") as (adapters, done):
            seen = Checkpoints(adapters.meta, done.manifest.log.stream, done.incarnation)
            await seen.check(adapters.store.last_position)

            async def shorter() -> Position:
                return Position(done.manifest.log.stream, done.incarnation, done.sequence - 1)

            with pytest.raises(IntegrityError, match="cut back"):
                await seen.check(shorter)

    asyncio.run(main())


async def acked(connection: Connection, count: int) -> int:
    """Handle so many messages as `integrator`; returns the sequence of the last one."""
    got: asyncio.Queue[str] = asyncio.Queue()
    inbox = "_INBOX.integrator"
    subscription = await connection.subscribe(inbox, lambda m: got.put_nowait(m.reply), confirm=True)
    pull = json.dumps({"batch": count, "expires": int(PATIENCE_S * 1e9)}).encode()
    connection.publish("$JS.API.CONSUMER.MSG.NEXT.LUCID_EVENTS.integrator", pull, reply=inbox)
    reply = ""
    async with asyncio.timeout(PATIENCE_S):
        for _ in range(count):
            reply = await got.get()
            await connection.request(reply, b"+ACK")
    await subscription.unsubscribe()
    return int(reply.split(".")[-4])


def test_every_bucket_that_chunks_name_is_in_a_backup(tmp_path: Path, rng: Random) -> None:
    """Chunks of another bucket are found by their events, wherever that bucket is not configured."""

    async def main() -> None:
        async with recorded(tmp_path, rng) as (_, client, _data):
            connection = client.adapters.connection
            info = await connection.api("STREAM.INFO.OBJ_lucid-chunks")
            other = {
                **{k: v for k, v in info["config"].items() if k != "metadata"},
                "name": "OBJ_kept-for-good",
                "subjects": ["$O.kept-for-good.C.>", "$O.kept-for-good.M.>"],
            }
            await connection.api("STREAM.CREATE.OBJ_kept-for-good", other)
            body = json.dumps({"bucket": "kept-for-good"}).encode()
            await connection.publish_acked("lucid.evt.two.chunk.ready", body)
            body = json.dumps({"bucket": "gone"}).encode()
            await connection.publish_acked("lucid.evt.two.chunk.ready", body)
            made = await create_backup(client.adapters, tmp_path / "backup")
            assert "OBJ_kept-for-good" in {part.stream for part in made.manifest.parts}
            assert made.manifest.missing_buckets == ("gone",)
            assert made.manifest.missing_buckets_count == 1

    asyncio.run(main())


def test_a_restore_that_breaks_off_is_run_again(tmp_path: Path, rng: Random) -> None:
    """Broken off in the middle of a stream, the server refuses to work; the next run finds room and ends."""

    async def main() -> None:
        async with recorded(tmp_path, rng) as (_, client, _data):
            made = await create_backup(client.adapters, tmp_path / "backup")
        size, seen = made.manifest.size, 0

        def break_off(done: int) -> None:
            nonlocal seen
            seen += done
            if seen > 2 * size - 1000:  # the check first, then the pieces sent
                raise StoreUnavailable("broken off by the test")

        async with restore_target(Settings(), tmp_path / "data") as adapters:
            with pytest.raises(StoreUnavailable):
                await restore_backup(adapters, tmp_path / "backup", progress=break_off)
            with pytest.raises(ConfigError, match="is being restored"):
                await create_backup(adapters, tmp_path / "other")
            done = await restore_backup(adapters, tmp_path / "backup")
            assert "LUCID_EVENTS" in done.removed
            assert (await verified(adapters))[NAMED].holds
            with pytest.raises(CommandRejected, match="not empty"):
                await restore_backup(adapters, tmp_path / "backup")

    asyncio.run(main())


def test_a_restore_holds_the_server_while_it_checks(tmp_path: Path, rng: Random) -> None:
    """Broken off while it reads the files, nothing starts there; a damaged backup leaves the server empty."""

    async def main() -> None:
        async with recorded(tmp_path, rng) as (_, client, _data):
            await create_backup(client.adapters, tmp_path / "backup")

        def break_off(_: int) -> None:
            raise StoreUnavailable("broken off by the test")

        archive = tmp_path / "backup" / "LUCID_EVENTS" / "stream.tar.s2"
        whole = archive.read_bytes()
        async with restore_target(Settings(), tmp_path / "data") as adapters:
            with pytest.raises(StoreUnavailable):
                await restore_backup(adapters, tmp_path / "backup", progress=break_off)
            with pytest.raises(ConfigError, match="is being restored"):
                await refuse_half_restored(adapters.connection, adapters.subjects)
            archive.write_bytes(whole[:-1])
            with pytest.raises(IntegrityError, match="the manifest says"):
                await restore_backup(adapters, tmp_path / "backup")
            assert list(await stream_names(adapters.connection)) == []
            archive.write_bytes(whole)
            await restore_backup(adapters, tmp_path / "backup")
            assert (await verified(adapters))[NAMED].holds

    asyncio.run(main())


def test_a_damaged_backup_takes_no_mark_away_from_what_is_half_restored(tmp_path: Path, rng: Random) -> None:
    """The check fails on a server that an interrupted restore left streams on: nothing starts there still."""

    async def main() -> None:
        async with recorded(tmp_path, rng) as (_, client, _data):
            await create_backup(client.adapters, tmp_path / "backup")

        async def break_off(step: str) -> None:
            if step == "restore.LUCID_EVENTS":
                raise StoreUnavailable("broken off by the test")

        async with restore_target(Settings(), tmp_path / "data") as adapters:
            with pytest.raises(StoreUnavailable):
                await restore_backup(adapters, tmp_path / "backup", checkpoint=break_off)
            (tmp_path / "backup" / "LUCID_EVENTS" / "backup.json").write_bytes(b"{}")
            with pytest.raises(IntegrityError, match="is damaged"):
                await restore_backup(adapters, tmp_path / "backup")
            assert "LUCID_EVENTS" in await stream_names(adapters.connection)
            with pytest.raises(ConfigError, match="is being restored"):
                await refuse_half_restored(adapters.connection, adapters.subjects)

    asyncio.run(main())


def test_views_that_can_not_be_built_cost_no_restore(
    tmp_path: Path, rng: Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an event lets them fail with is told, half-built views go, and workers fill new ones."""

    async def failing(adapters: Adapters, settings: TopologySettings) -> None:
        await fill_first(adapters, settings)
        raise ContractError("the body is not JSON")

    monkeypatch.setattr(restoring, "fill_first", failing)

    async def main() -> None:
        async with recorded(tmp_path, rng) as (_, client, _data):
            await create_backup(client.adapters, tmp_path / "backup")
        async with restored(tmp_path / "backup", tmp_path / "data") as (adapters, done):
            assert done.views == "the body is not JSON"
            assert (await verified(adapters))[NAMED].holds
        settings = Settings(data=str(tmp_path / "data"))
        async with up(settings, port=0) as service, connect(Settings(nats_url=service.url)) as client:

            async def filled() -> bool:
                try:
                    return (await client.status(NAMED)).state is State.STOPPED
                except NotFound:
                    return False

            async with asyncio.timeout(PATIENCE_S):
                await until(filled)

    asyncio.run(main())


def test_a_snapshot_is_whole_or_an_error(server: NatsServer) -> None:
    """A connection lost between two pieces ends a snapshot with an error that says to begin again."""

    async def main() -> None:
        async with connect_nats(NatsOptions(servers=(server.url,))) as connection:
            await connection.api("STREAM.CREATE.S", {"name": "S", "subjects": ["s.>"], "storage": "file"})
            noise = Random(1)
            for number in range(40):
                await connection.publish_acked(f"s.{number}", noise.randbytes(1_000_000))
            taken = 0

            async def sink(piece: bytes) -> None:
                nonlocal taken
                taken += 1
                if taken == 2:
                    await asyncio.to_thread(server.restart)

            with pytest.raises(StoreUnavailable, match="the connection was lost: begin again"):
                await take_snapshot(connection, "S", sink)
            taken = 10
            snapshot = await take_snapshot(connection, "S", sink)
            assert snapshot.state["messages"] == 40
            with pytest.raises(ConfigError, match="not found"):
                await take_snapshot(connection, "NONE", sink)

    asyncio.run(main())
