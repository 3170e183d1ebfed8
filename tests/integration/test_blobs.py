"""`jetstream.blobs` on a real server: lost replies, races, sweeps, replicas and crashes."""

import asyncio
import hashlib
import json
from typing import Any

import pytest

from lucid_events.errors import (
    AppendUncertain,
    IntegrityError,
    NotFound,
    StoreUnavailable,
    VersionConflict,
)
from lucid_events.jetstream.blobs import JetStreamBlobStore
from lucid_events.jetstream.connection import Connection
from lucid_events.subjects import object_meta, object_pieces, object_stream
from tests.integration.faulty import REPLY, REQUEST, FaultyConnection, deployed
from tests.nats_server import NatsServer

NAME = "s1/00000000-0123456789abcdef"
DATA = b"".join(hashlib.sha256(b"%d" % number).digest() for number in range(80_000))
"""2.5 MB that do not repeat: five pieces of ours, twenty of nats-py's."""


async def left(connection: Connection, store: JetStreamBlobStore) -> dict[str, int]:
    """Return how many piece messages stand under each nuid."""
    stream = object_stream(store.bucket)
    info = await connection.api(
        f"STREAM.INFO.{stream}", {"subjects_filter": object_pieces(store.bucket, ">")}
    )
    return {s.rsplit(".", 1)[1]: count for s, count in (info["state"].get("subjects") or {}).items()}


def test_the_metadata_is_as_the_standard_has_it(shared_server: NatsServer) -> None:
    """Stored metadata carries no modification time, not even after a deletion, and rolls up."""

    async def main() -> None:
        async with deployed(shared_server) as (connection, subjects):
            store = JetStreamBlobStore(connection, subjects.chunks_bucket)
            subject = object_meta(store.bucket, NAME)
            for deleted in (False, True):
                if deleted:
                    await store.delete(NAME)
                else:
                    await store.put(NAME, DATA, metadata={"a": "b"})
                message = await connection.leader_get(object_stream(store.bucket), last_by_subj=subject)
                assert message is not None
                body = json.loads(message.data)
                assert "mtime" not in body
                assert body.get("deleted", False) is deleted
                assert message.headers["Nats-Rollup"] == "sub"
                assert {"name", "bucket", "nuid", "size", "chunks"} <= set(body)
            info = await connection.api(f"STREAM.INFO.{object_stream(store.bucket)}")
            assert info["state"]["messages"] == 1

    asyncio.run(main())


@pytest.mark.parametrize("what", [REQUEST, REPLY])
@pytest.mark.parametrize("where", ["C", "M"], ids=["piece", "metadata"])
def test_a_lost_message_is_settled(shared_server: NatsServer, what: str, where: str) -> None:
    """A put whose piece or metadata loses its request or reply makes one whole object and no orphan."""

    async def main() -> None:
        async with deployed(shared_server) as (connection, subjects):
            store = JetStreamBlobStore(connection, subjects.chunks_bucket)
            connection.lose(what, f"$O.{store.bucket}.{where}.", 2)
            made, first = await store.put(NAME, DATA, metadata={})
            assert first
            assert connection.lost == 2 or (what, where) == (REPLY, "M")
            assert await store.get(NAME) == DATA
            assert await left(connection, store) == {made.nuid: made.pieces}

    asyncio.run(main())


def test_the_loser_of_a_race_leaves_nothing(shared_server: NatsServer) -> None:
    """Of concurrent puts of one name one makes the object; the others get it and leave no pieces."""

    async def main() -> None:
        async with deployed(shared_server) as (connection, subjects):
            store = JetStreamBlobStore(connection, subjects.chunks_bucket)
            outcomes = await asyncio.gather(
                *(store.put(NAME, DATA[number:], metadata={"writer": str(number)}) for number in range(4))
            )
            (winner,) = [info for info, made in outcomes if made]
            assert all(info == winner for info, _ in outcomes)
            assert await store.get(NAME) == DATA[int(winner.metadata["writer"]) :]
            assert await left(connection, store) == {winner.nuid: winner.pieces}

    asyncio.run(main())


@pytest.mark.parametrize("when", ["before the metadata", "before the confirmation"])
def test_a_slow_writer_notices_a_sweep(shared_server: NatsServer, when: str) -> None:
    """A writer whose pieces were swept while it was slow puts again: the object is whole in the end."""

    async def main() -> None:
        async with deployed(shared_server) as (connection, subjects):
            store = JetStreamBlobStore(connection, subjects.chunks_bucket)
            sweeper = JetStreamBlobStore(Connection(connection._link), subjects.chunks_bucket)

            async def sweep() -> None:
                swept = await sweeper.sweep(older_than_s=0, dry_run=False)
                # Once the metadata stands, the pieces are nobody's to sweep.
                assert len(swept) == (1 if when == "before the metadata" else 0)

            meta = object_meta(store.bucket, NAME)
            info = f"$JS.API.STREAM.INFO.{object_stream(store.bucket)}"
            connection.before[meta if when == "before the metadata" else info] = sweep
            made, first = await store.put(NAME, DATA, metadata={})
            assert first
            assert await store.get(NAME) == DATA
            assert await left(connection, store) == {made.nuid: made.pieces}

    asyncio.run(main())


def test_metadata_that_comes_during_a_sweep_spares_the_pieces(shared_server: NatsServer) -> None:
    """An object that becomes visible between the sweeper's looks is spared, or put again by its writer."""

    async def main() -> None:
        async with deployed(shared_server) as (connection, subjects):
            writer = JetStreamBlobStore(Connection(connection._link), subjects.chunks_bucket)
            held = FaultyConnection(connection)
            slow = JetStreamBlobStore(held, subjects.chunks_bucket)
            arrived, go = asyncio.Event(), asyncio.Event()

            async def wait() -> None:
                arrived.set()
                await go.wait()

            held.before[object_meta(writer.bucket, NAME)] = wait
            putting = asyncio.create_task(slow.put(NAME, DATA, metadata={}))
            async with asyncio.timeout(30):
                await arrived.wait()

                async def let_go() -> None:
                    # Right before the fence: the sweeper has seen pieces without metadata.
                    go.set()
                    await putting

                connection.before[f"$O.{writer.bucket}.C."] = let_go
                sweeper = JetStreamBlobStore(connection, subjects.chunks_bucket)
                assert await sweeper.sweep(older_than_s=0, dry_run=False) == []
            made, _ = putting.result()
            assert await writer.get(NAME) == DATA
            assert await left(connection, writer) == {made.nuid: made.pieces}

    asyncio.run(main())


def test_a_sweep_takes_what_a_deletion_left(shared_server: NatsServer) -> None:
    """Pieces of an object whose deletion was cut short are swept."""

    async def main() -> None:
        async with deployed(shared_server) as (connection, subjects):
            store = JetStreamBlobStore(connection, subjects.chunks_bucket)
            made, _ = await store.put(NAME, DATA, metadata={})
            connection.lose(REQUEST, "$JS.API.STREAM.PURGE", 3)
            with pytest.raises(StoreUnavailable):
                await store.delete(NAME)
            assert await store.info(NAME) is None
            assert [o.nuid for o in await store.sweep(older_than_s=0, dry_run=False)] == [made.nuid]
            assert await left(connection, store) == {}

    asyncio.run(main())


def test_a_deletion_that_was_cut_off_is_finished_by_the_next(shared_server: NatsServer) -> None:
    """Marked as deleted, its pieces there still: whoever erases again takes them, and then finds nothing."""

    async def main() -> None:
        async with deployed(shared_server) as (connection, subjects):
            store = JetStreamBlobStore(connection, subjects.chunks_bucket)
            await store.put(NAME, DATA, metadata={})
            connection.lose(REQUEST, "$JS.API.STREAM.PURGE", 3)
            with pytest.raises(StoreUnavailable):
                await store.delete(NAME)
            assert await left(connection, store) != {}
            assert await store.delete(NAME) is True
            assert await left(connection, store) == {}
            assert await store.delete(NAME) is False

    asyncio.run(main())


def test_a_range_reads_only_what_it_needs(shared_server: NatsServer) -> None:
    """A range at an object's end does not read the bytes before it."""

    async def main() -> None:
        async with deployed(shared_server) as (connection, subjects):
            store = JetStreamBlobStore(connection, subjects.chunks_bucket)
            await store.put(NAME, DATA, metadata={})
            read: list[Any] = []
            direct_get = connection.direct_get

            async def counted(*args: Any, **more: Any) -> Any:
                page = await direct_get(*args, **more)
                read.extend(page.messages)
                return page

            connection.direct_get = counted  # type: ignore[method-assign]  # watches what is read
            assert await store.get(NAME, start=len(DATA) - 10) == DATA[-10:]
            assert len(read) == 1

    asyncio.run(main())


def test_unreadable_metadata_is_an_error_and_can_be_replaced(shared_server: NatsServer) -> None:
    """Damaged metadata is never taken for an absent object; it is replaced under its own sequence."""

    async def main() -> None:
        async with deployed(shared_server) as (connection, subjects):
            store = JetStreamBlobStore(connection, subjects.chunks_bucket)
            headers = {"Nats-Rollup": "sub"}
            await connection.publish_acked(object_meta(store.bucket, NAME), b"{not json", headers=headers)
            for attempt in (store.info(NAME), store.get(NAME), store.put(NAME, DATA, metadata={})):
                with pytest.raises(IntegrityError):
                    await attempt
            assert [info async for info in store.names()] == []
            await store.replace(NAME, DATA, metadata={}, damaged=None)
            assert await store.get(NAME) == DATA

    asyncio.run(main())


def test_a_replacement_that_was_overtaken_leaves_nothing(shared_server: NatsServer) -> None:
    """A replacement whose guard fails at the last moment is a conflict, and its pieces are gone."""

    async def main() -> None:
        async with deployed(shared_server) as (connection, subjects):
            store = JetStreamBlobStore(connection, subjects.chunks_bucket)
            other = JetStreamBlobStore(Connection(connection._link), subjects.chunks_bucket)
            old, _ = await store.put(NAME, b"old", metadata={})

            async def overtake() -> None:
                await other.replace(NAME, b"theirs", metadata={}, damaged=old)

            connection.before[object_meta(store.bucket, NAME)] = overtake
            with pytest.raises(VersionConflict):
                await store.replace(NAME, b"ours", metadata={}, damaged=old)
            assert await store.get(NAME) == b"theirs"
            assert len(await left(connection, store)) == 1

    asyncio.run(main())


def test_objects_outlive_a_killed_server(server: NatsServer) -> None:
    """Puts through kill -9 of the server end in whole objects; what a crash left behind is swept."""

    async def main() -> None:
        async with deployed(server) as (connection, subjects):
            store = JetStreamBlobStore(connection, subjects.chunks_bucket)
            names = [f"s1/{number:08d}" for number in range(30)]
            done = 0

            async def put(name: str, room: asyncio.Semaphore) -> None:
                nonlocal done
                async with room:
                    while True:
                        try:
                            await store.put(name, DATA, metadata={})
                            done += 1
                            return
                        except (AppendUncertain, StoreUnavailable):
                            await asyncio.sleep(0.01)

            async def crash() -> None:
                while done < 8:  # noqa: ASYNC110 # counted by the writers
                    await asyncio.sleep(0.001)
                await asyncio.to_thread(server.restart)

            async with asyncio.timeout(100), asyncio.TaskGroup() as tasks:
                room = asyncio.Semaphore(4)
                tasks.create_task(crash())
                for name in names:
                    tasks.create_task(put(name, room))
            for name in names:
                assert await store.get(name) == DATA
            await store.sweep(older_than_s=0, dry_run=False)
            assert len(await left(connection, store)) == len(names)

    asyncio.run(main())


def test_an_absent_object_is_not_found(shared_server: NatsServer) -> None:
    """Names of any shape are looked up, and what is absent says so with bucket and name."""

    async def main() -> None:
        async with deployed(shared_server) as (connection, subjects):
            store = JetStreamBlobStore(connection, subjects.chunks_bucket)
            for name in ("x", "with space", "ünï/cödé", "a.b.>.*"):
                with pytest.raises(NotFound) as absent:
                    await store.get(name)
                assert absent.value.fields == {"bucket": store.bucket, "name": name}
                await store.put(name, name.encode(), metadata={})
                assert await store.get(name) == name.encode()

    asyncio.run(main())
