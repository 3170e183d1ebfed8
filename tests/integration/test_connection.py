"""`jetstream.connection` on a real server: what it promises when things go wrong."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable

import pytest

from lucid_events.errors import (
    AppendUncertain,
    ConfigError,
    ContractError,
    StoreFull,
    StoreUnavailable,
    VersionConflict,
)
from lucid_events.jetstream import link
from lucid_events.jetstream.batch import BatchMessage, publish_batch
from lucid_events.jetstream.connection import Connection, Message, NatsOptions, connect
from tests.nats_server import NatsServer, running_server

PATIENCE_S = 60.0


def options(server: NatsServer, **more: object) -> NatsOptions:
    """Return options for `server`."""
    return NatsOptions(servers=(server.url,), **more)  # type: ignore[arg-type]  # checked by the struct


@contextlib.asynccontextmanager
async def a_stream(server: NatsServer, name: str, **config: object) -> AsyncIterator[Connection]:
    """Connect, with a stream on `<name>.>`."""
    async with connect(options(server)) as connection:
        body = {"name": name, "subjects": [f"{name}.>"], "allow_direct": True, **config}
        await connection.api(f"STREAM.CREATE.{name}", body)
        yield connection


async def until(condition: Callable[[], bool]) -> None:
    """Return once `condition` holds."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 # what another process does sets no event
            await asyncio.sleep(0.01)


def test_pipelined_calls_keep_their_order(shared_server: NatsServer) -> None:
    """Calls reach the stream in the order they were made, and each future gets its own reply."""

    async def main() -> None:
        async with a_stream(shared_server, "order", storage="memory") as connection:
            calls = [connection.call("order.x", b"%d" % n) for n in range(2000)]
            await asyncio.gather(*calls)
            page = await connection.direct_get("order", {"seq": 1, "batch": 2000})
            assert [int(m.data) for m in page] == list(range(2000))

    asyncio.run(main())


def test_pages_follow_on_each_other(shared_server: NatsServer) -> None:
    """Direct gets page through a subject by `last_sequence`, and an empty page is empty."""

    async def main() -> None:
        async with a_stream(shared_server, "pages", storage="memory") as connection:
            for n in range(10):
                await connection.publish_acked(f"pages.{n % 2}", b"%d" % n, headers={"N": str(n)})
            first = await connection.direct_get("pages", {"seq": 1, "batch": 3, "next_by_subj": "pages.1"})
            assert [m.headers["N"] for m in first] == ["1", "3", "5"]
            assert (first.pending, first.last_sequence) == (2, 6)
            rest = await connection.direct_get("pages", {"seq": 7, "next_by_subj": "pages.1"})
            assert [m.sequence for m in rest] == [8, 10]
            assert rest.pending == 0
            assert len(await connection.direct_get("pages", {"seq": 11})) == 0
            assert len(await connection.direct_get("pages", {"seq": 1, "next_by_subj": "pages.9"})) == 0

    asyncio.run(main())


def test_leader_and_replica_tell_the_same(shared_server: NatsServer) -> None:
    """A stored message reads the same by direct get and from the leader: headers, body, time."""

    async def main() -> None:
        async with a_stream(shared_server, "same") as connection:
            headers = {"Lucid-Actor": "Ünal", "Status": "204", "X": "a: b"}
            await connection.publish_acked("same.a", b"\x00\xff", headers=headers)
            direct = await connection.direct_last("same", "same.a")
            assert direct == await connection.leader_get("same", last_by_subj="same.>")
            assert direct == await connection.leader_get("same", seq=1)
            assert direct == await connection.leader_get("same", seq=1, next_by_subj="same.*")
            assert [direct] == list(await connection.direct_get("same", {"seq": 1}))
            assert direct is not None
            assert direct.headers == headers
            assert direct.data == b"\x00\xff"
            assert await connection.direct_last("same", "same.b") is None
            assert await connection.leader_get("same", seq=2) is None

    asyncio.run(main())


def test_faults_are_sorted_by_what_to_do_next(shared_server: NatsServer) -> None:
    """Error codes become the errors a caller can act on."""

    async def main() -> None:
        async with a_stream(shared_server, "faults", max_bytes=2000, discard="new") as connection:
            guard = {"Nats-Expected-Last-Subject-Sequence": "7"}
            with pytest.raises(VersionConflict) as conflict:
                await connection.publish_acked("faults.a", b"", headers=guard)
            assert conflict.value.fields["actual"] == 0
            with pytest.raises(StoreFull):
                await connection.publish_acked("faults.a", bytes(3000))
            with pytest.raises(StoreUnavailable, match="nobody serves"):
                await connection.publish_acked("nobody.there", b"", timeout_s=0.3)
            with pytest.raises(StoreUnavailable, match="nobody serves"):
                await connection.request("nobody.there")
            with pytest.raises(ConfigError, match="lucid deploy"):
                await connection.api("STREAM.INFO.none")
            with pytest.raises(ContractError, match="408"):
                await connection.direct_get("faults", {"batch": 1, "seq": 0})
            fits = connection.max_payload
            with pytest.raises(ContractError, match="bytes with headers"):
                connection.call("faults.a", bytes(fits), headers={"A": "B"})
            assert connection.connected

    asyncio.run(main())


def test_a_batch_is_stored_whole_or_not_at_all(shared_server: NatsServer) -> None:
    """A batch has consecutive sequences; one whose guard fails leaves nothing behind."""

    async def main() -> None:
        async with a_stream(shared_server, "batch", allow_atomic=True) as connection:
            messages = [BatchMessage("batch.a", b"1"), BatchMessage("batch.b", b"2", {"X": "y"})]
            assert await publish_batch(connection, messages) == (1, 2)
            guard = {
                "Nats-Expected-Last-Subject-Sequence": "1",
                "Nats-Expected-Last-Subject-Sequence-Subject": "batch.>",
            }
            with pytest.raises(VersionConflict):
                await publish_batch(connection, [BatchMessage("batch.a", b"3", guard), *messages])
            assert len(await connection.direct_get("batch", {"seq": 1})) == 2
            same = [BatchMessage("batch.a", b"4", {"Nats-Msg-Id": "m"}), *messages]
            assert await publish_batch(connection, same) == (3, 5)
            with pytest.raises(AppendUncertain):
                await publish_batch(connection, same)
            with pytest.raises(StoreUnavailable):
                await publish_batch(connection, [BatchMessage("elsewhere", b"5"), *messages], timeout_s=5)

    asyncio.run(main())


def test_no_server_is_said_at_once(shared_server: NatsServer) -> None:
    """Connecting to nothing fails in time and names the server, and so does a refused login."""

    async def main() -> None:
        began = time.monotonic()
        with pytest.raises(StoreUnavailable, match=r"127\.0\.0\.1:1 "):
            async with connect(NatsOptions(servers=("nats://u:secret@127.0.0.1:1",), connect_timeout_s=0.5)):
                pass
        assert time.monotonic() - began < 10

    asyncio.run(main())


def test_a_refused_login_is_a_setting_to_fix(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Wrong credentials fail at once as ConfigError, without the secret in the message."""

    async def main(server: NatsServer) -> None:
        with pytest.raises(ConfigError, match="refuses our credentials") as refused:
            async with connect(options(server, user="a", password="wrong-secret")):
                pass
        assert "wrong-secret" not in str(refused.value)
        async with connect(options(server, user="a", password="right")) as connection:
            assert connection.connected
        assert "right" not in repr(options(server, user="a", password="right"))

    with running_server(
        tmp_path_factory.mktemp("nats"), extra='authorization { user: "a", password: "right" }'
    ) as server:
        asyncio.run(main(server))


def test_waiting_for_a_server_that_comes_later(server: NatsServer) -> None:
    """With `wait`, connecting lasts until the server is there."""

    async def main() -> None:
        server.kill()

        async def connected() -> bool:
            async with connect(options(server, connect_timeout_s=0.2), wait=True) as connection:
                return connection.connected

        waiting = asyncio.create_task(connected())
        await asyncio.sleep(0)
        await asyncio.to_thread(server.start)
        assert await asyncio.wait_for(waiting, PATIENCE_S)

    asyncio.run(main())


def test_a_restart_is_survived(server: NatsServer) -> None:
    """After kill -9: what was out fails promptly as uncertain, later calls wait, subscriptions stand."""

    async def main() -> None:
        async with a_stream(server, "again") as connection:
            heard: list[Message] = []
            returned: list[bool] = []
            connection.on_reconnect(lambda: returned.append(True))
            await connection.subscribe("news.>", heard.append, confirm=True)
            silent = await connection.subscribe("silent", lambda message: None, confirm=True)
            out = connection.call("silent", b"never answered", timeout_s=PATIENCE_S)
            await connection.barrier()
            await asyncio.to_thread(server.kill)
            with pytest.raises(AppendUncertain, match="connection was lost"):
                await asyncio.wait_for(out, PATIENCE_S / 2)
            await until(lambda: not connection.connected)
            with pytest.raises(StoreUnavailable, match="was not sent"):
                await connection.publish_acked("again.x", b"too early", timeout_s=0.2)
            waiting = asyncio.create_task(connection.publish_acked("again.x", b"1", timeout_s=PATIENCE_S))
            await asyncio.to_thread(server.start)
            assert (await waiting).sequence == 1
            assert returned
            connection.publish("news.today", b"!")
            await until(lambda: len(heard) == 1)
            assert connection.replacements == 0
            await silent.unsubscribe()

    asyncio.run(main())


def test_a_dead_client_is_replaced(server: NatsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client whose read loop died while it says it is connected is replaced, with its subscriptions."""
    monkeypatch.setattr(link, "WATCH_S", 0.05)
    monkeypatch.setattr(link, "PROBE_S", 0.5)

    async def main() -> None:
        async with a_stream(server, "zombie") as connection:
            heard: list[Message] = []
            clients: list[object] = []

            async def attach(client: object) -> None:
                clients.append(client)

            await connection.on_client(attach)
            await connection.subscribe("news", heard.append)
            zombie = connection._link.client
            assert zombie._reading_task is not None
            zombie._reading_task.cancel()
            await until(lambda: connection.replacements == 1)
            assert zombie is not connection._link.client
            assert clients == [zombie, connection._link.client]
            assert (await connection.publish_acked("zombie.x", b"1")).sequence == 1
            connection.publish("news", b"!")
            await until(lambda: len(heard) == 1)

    asyncio.run(main())


def test_a_client_the_server_sent_away_is_replaced(server: NatsServer) -> None:
    """A client that closed for good, as on expired credentials, is replaced at once."""

    async def main() -> None:
        async with a_stream(server, "closed") as connection:
            await connection._link.client.close()
            await until(lambda: connection.replacements == 1)
            assert (await connection.publish_acked("closed.x", b"1")).sequence == 1

    asyncio.run(main())


def test_a_server_that_hangs_is_uncertain(server: NatsServer) -> None:
    """A request to a server that is stopped times out as uncertain, reads as unavailable, and it recovers."""

    async def main() -> None:
        async with a_stream(server, "hang") as connection:
            server.pause()
            with pytest.raises(AppendUncertain, match=r"within 0\.3 s"):
                await connection.publish_acked("hang.x", b"1", timeout_s=0.3)
            with pytest.raises(StoreUnavailable):
                await connection.api("STREAM.INFO.hang", timeout_s=0.3)
            with pytest.raises(StoreUnavailable):
                await connection.direct_get("hang", {"seq": 1}, timeout_s=0.3)
            server.resume()
            assert (await connection.publish_acked("hang.x", b"2", timeout_s=PATIENCE_S)).sequence == 2

    try:
        asyncio.run(main())
    finally:
        server.resume()


def test_a_page_with_a_hole_is_refused(shared_server: NatsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A direct get whose messages the client partly dropped fails instead of passing for complete."""
    # The client only drops what goes through its own queues.
    monkeypatch.setattr("lucid_events.jetstream.intake.IntakeClient.hand_over", lambda *_: None)
    monkeypatch.setattr("lucid_events.jetstream.subscription.PENDING_MESSAGES", 1)

    async def main() -> None:
        async with a_stream(shared_server, "hole", storage="memory") as connection:
            for n in range(200):
                await connection.publish_acked("hole.x", b"%d" % n)
            with pytest.raises(StoreUnavailable):
                await connection.direct_get("hole", {"seq": 1, "batch": 200}, timeout_s=1)

    asyncio.run(main())


def test_a_failing_callback_hurts_nobody(shared_server: NatsServer) -> None:
    """A callback that raises is logged; the subscription and the connection go on."""

    async def main() -> None:
        async with connect(options(shared_server)) as connection:
            heard: list[bytes] = []

            def callback(message: Message) -> None:
                heard.append(message.data)
                raise ValueError

            await connection.subscribe("fails", callback, confirm=True)
            connection.publish("fails", b"1")
            connection.publish("fails", b"2")
            await until(lambda: len(heard) == 2)
            assert connection.connected

    asyncio.run(main())


def test_cancelling_a_caller_is_not_swallowed(server: NatsServer) -> None:
    """A task that waits for a reply or a barrier can be cancelled, and the connection still closes."""

    async def main() -> None:
        async with a_stream(server, "cancel") as connection:
            server.pause()
            waiting = [
                asyncio.create_task(connection.publish_acked("cancel.x", b"1")),
                asyncio.create_task(connection.barrier()),
                asyncio.create_task(connection.direct_get("cancel", {"seq": 1})),
            ]
            await asyncio.sleep(0)
            for task in waiting:
                task.cancel()
            ended = await asyncio.gather(*waiting, return_exceptions=True)
            assert all(isinstance(e, asyncio.CancelledError) for e in ended)
            server.resume()

    try:
        asyncio.run(main())
    finally:
        server.resume()


def test_a_cancellation_that_meets_the_answer_is_not_swallowed(shared_server: NatsServer) -> None:
    """A task cancelled while it subscribes ends, also when the server's answer came at that moment."""

    async def main() -> None:
        async with connect(options(shared_server)) as connection:
            for steps in range(40):
                task = asyncio.create_task(
                    connection.subscribe(f"cancelled.{steps}", lambda message: None, confirm=True)
                )
                for _ in range(steps):
                    await asyncio.sleep(0)
                if not task.done():
                    task.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        await task
                    assert task.cancelled(), f"cancelled after {steps} turns, and it went on"

            answered = asyncio.Event()

            async def meets() -> None:
                await connection._link.barrier()
                answered.set()

            meeting = asyncio.create_task(meets())
            await asyncio.sleep(0)
            passed = next(
                item for item in connection._link._outbox._items if isinstance(item, asyncio.Future)
            )
            passed.set_result(None)
            meeting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await meeting
            assert meeting.cancelled()
            assert not answered.is_set()

    asyncio.run(main())
