"""`jetstream.capture` on a real server: late writers, full streams, crashes, lagging replicas."""

import asyncio
import hashlib

import pytest

from lucid_events.domain.ids import SessionId
from lucid_events.errors import AppendUncertain, Fenced, StoreFull, StoreUnavailable
from lucid_events.jetstream.capture import JetStreamCaptureStore
from lucid_events.jetstream.definitions import TopologySettings
from lucid_events.ports import CapturePiece
from lucid_events.subjects import FENCES
from tests.contract.bundle import OTHER, SID, sha256
from tests.integration.faulty import REPLY, REQUEST, deployed
from tests.nats_server import NatsServer


async def publish(
    store: JetStreamCaptureStore,
    offset: int,
    data: bytes,
    *,
    session: SessionId = SID,
    epoch: int = 1,
    n: int = 0,
) -> int:
    """Publish a piece; returns its sequence."""
    ack = await store.publish(session, epoch=epoch, n=n, offset=offset, data=data, sha256=sha256(data))
    return ack.sequence


async def read(
    store: JetStreamCaptureStore, *, epoch: int = 1, last: int | None = None
) -> list[CapturePiece]:
    """Read an epoch of `SID`."""
    return [piece async for piece in store.read(SID, epoch=epoch, last_seq=last)]


@pytest.mark.parametrize("what", [REQUEST, REPLY])
def test_a_lost_message_is_the_callers_to_send_again(shared_server: NatsServer, what: str) -> None:
    """A piece without an acknowledgement is uncertain; sent again, the reader sees it once or twice."""

    async def main() -> None:
        async with deployed(shared_server) as (connection, subjects):
            store = JetStreamCaptureStore(connection, subjects)
            connection.lose(what, subjects.capture(SID, 1, 0))
            with pytest.raises(AppendUncertain):
                await publish(store, 0, b"piece")
            await publish(store, 0, b"piece")
            assert [p.data for p in await read(store)] == [b"piece"] * (2 if what == REPLY else 1)

    asyncio.run(main())


def test_a_writer_that_slept_is_refused(shared_server: NatsServer) -> None:
    """A piece that reaches the server after the fence is refused, however early it was sent off."""

    async def main() -> None:
        async with deployed(shared_server) as (connection, subjects):
            store = JetStreamCaptureStore(connection, subjects)
            awake = asyncio.Event()
            connection.before[subjects.capture(SID, 1, 0)] = lambda: _set(awake)
            late = asyncio.create_task(publish(store, 0, b"late"))
            async with asyncio.timeout(30):
                await store.fence(SID, epoch=1)
                awake.set()
                with pytest.raises(Fenced) as fenced:
                    await late
            assert fenced.value.fields == {"session": SID, "epoch": 1}
            assert await read(store) == []

    async def _set(event: asyncio.Event) -> None:
        await event.wait()

    asyncio.run(main())


def test_fencing_again_adds_nothing(shared_server: NatsServer) -> None:
    """Fences that stand are left alone, also when their replies were lost."""

    async def main() -> None:
        async with deployed(shared_server) as (connection, subjects):
            store = JetStreamCaptureStore(connection, subjects)
            connection.lose(REPLY, subjects.fence(SID, 1, 3))
            connection.lose(REQUEST, subjects.fence(SID, 1, 4))
            await asyncio.gather(store.fence(SID, epoch=1), store.fence(SID, epoch=1))
            await store.fence(SID, epoch=1)
            info = await connection.api(f"STREAM.INFO.{subjects.capture_stream}")
            assert info["state"]["messages"] == FENCES

    asyncio.run(main())


def test_a_full_stream_pushes_back(shared_server: NatsServer) -> None:
    """A full capture stream refuses pieces, keeps what it has, and takes more once something is purged."""

    async def main() -> None:
        settings = TopologySettings(capture_max_bytes=3 * 1024 * 1024)
        async with deployed(shared_server, settings) as (connection, subjects):
            store = JetStreamCaptureStore(connection, subjects)
            data = bytes(1024 * 1024)
            stored = [await publish(store, 0, data), await publish(store, len(data), data)]
            with pytest.raises(StoreFull):
                await publish(store, 2 * len(data), data)
            # There is still room for what is smaller: an epoch can be closed on a full stream.
            await store.fence(SID, epoch=1)
            assert [p.sequence for p in await read(store)] == stored
            assert await store.purge(SID, epoch=1, n=0, upto_seq=stored[0]) == 1
            await publish(store, 0, data, epoch=2)

    asyncio.run(main())


def test_what_is_no_piece_is_left_out(shared_server: NatsServer) -> None:
    """Messages of a careless client are neither yielded nor the end of reading."""

    async def main() -> None:
        async with deployed(shared_server) as (connection, subjects):
            store = JetStreamCaptureStore(connection, subjects)
            subject = subjects.capture(SID, 1, 0)
            await publish(store, 0, b"good")
            junk = [
                {},
                {"Lucid-Offset": "x", "Lucid-Length": "4", "Lucid-Sha256": ""},
                {"Lucid-Offset": "0", "Lucid-Length": "9", "Lucid-Sha256": ""},
                {"Lucid-Offset": "-4", "Lucid-Length": "4", "Lucid-Sha256": ""},
            ]
            for headers in junk:
                ack = await connection.publish_acked(subject, b"junk", headers=headers)
                assert await store.tail(SID, ack.sequence) is None
            await publish(store, 4, b"more")
            assert [p.data for p in await read(store)] == [b"good", b"more"]

    asyncio.run(main())


@pytest.mark.parametrize("visible", [0, 2, 3])
def test_a_lagging_replica_hides_no_bytes(shared_server: NatsServer, visible: int) -> None:
    """Pieces a replica does not show yet are read from the leader."""

    async def main() -> None:
        async with deployed(shared_server) as (connection, subjects):
            store = JetStreamCaptureStore(connection, subjects)
            sequences = []
            for number in range(3):
                sequences.append(await publish(store, number, b"%d" % number))
                await publish(store, number, b"x", session=OTHER)
            connection.visible = visible
            assert b"".join(p.data for p in await read(store)) == b"012"
            assert b"".join(p.data for p in await read(store, last=sequences[1])) == b"01"

    asyncio.run(main())


def test_acknowledged_bytes_outlive_a_killed_server(server: NatsServer) -> None:
    """Every piece that was acknowledged is read back after kill -9, bytes and digests intact."""

    async def main() -> None:
        async with deployed(server) as (connection, subjects):
            store = JetStreamCaptureStore(connection, subjects)
            acked: dict[int, bytes] = {}
            room = asyncio.Semaphore(8)

            async def write(number: int) -> None:
                data = hashlib.sha256(b"%d" % number).digest() * 2000
                async with room:
                    while True:
                        try:
                            await publish(store, number * len(data), data)
                            acked[number * len(data)] = data
                            return
                        except (AppendUncertain, StoreUnavailable):
                            await asyncio.sleep(0.01)

            async def crash() -> None:
                while len(acked) < 100:  # noqa: ASYNC110 # counted by the writers
                    await asyncio.sleep(0.001)
                await asyncio.to_thread(server.restart)

            async with asyncio.timeout(90), asyncio.TaskGroup() as tasks:
                tasks.create_task(crash())
                for number in range(300):
                    tasks.create_task(write(number))
            found = {p.offset: p for p in await read(store)}
            assert {offset: p.data for offset, p in found.items()} == acked
            assert all(p.sha256 == sha256(p.data) for p in found.values())

    asyncio.run(main())


def test_a_purge_whose_reply_is_lost_is_done(shared_server: NatsServer) -> None:
    """A purge is repeated until it is answered, and touches neither later pieces nor other chunks."""

    async def main() -> None:
        async with deployed(shared_server) as (connection, subjects):
            store = JetStreamCaptureStore(connection, subjects)
            first = await publish(store, 0, b"a")
            await publish(store, 1, b"b", n=1)
            await publish(store, 0, b"c")
            connection.lose(REPLY, "$JS.API.STREAM.PURGE")
            await store.purge(SID, epoch=1, n=0, upto_seq=first)
            assert [p.data for p in await read(store)] == [b"b", b"c"]
            assert await store.purge(SID, epoch=1, n=0, upto_seq=0) == 0
            assert await store.count(SID, epoch=1, n=0) == 1

    asyncio.run(main())
