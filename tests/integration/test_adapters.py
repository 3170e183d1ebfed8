"""Small adapters beside other clients and through restarts: key-value, timers, letters, live feed."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta

import nats
import pytest

from lucid_events.domain.ids import SessionId
from lucid_events.errors import ContractError
from lucid_events.jetstream.connection import Connection, NatsOptions, connect
from lucid_events.jetstream.definitions import TopologySettings
from lucid_events.jetstream.inbox import JetStreamInbox
from lucid_events.jetstream.kv import JetStreamKeyValue
from lucid_events.jetstream.letters import JetStreamLetters
from lucid_events.jetstream.live import JetStreamLiveFeed
from lucid_events.jetstream.timers import JetStreamTimers
from lucid_events.jetstream.topology import apply
from lucid_events.subjects import Subjects
from tests.nats_server import NatsServer

PATIENCE_S = 60.0
SID = SessionId("s1")


@asynccontextmanager
async def deployed(server: NatsServer, prefix: str) -> AsyncIterator[tuple[Connection, Subjects]]:
    """Connect, with everything deployed under `prefix`."""
    subjects = Subjects(prefix)
    async with connect(NatsOptions(servers=(server.url,))) as connection:
        await apply(connection, subjects, TopologySettings(capture_max_bytes=1024**2))
        yield connection, subjects


def test_other_clients_read_and_write_our_buckets(shared_server: NatsServer) -> None:
    """nats-py's KV reads our values and sees our deletes, and the other way round."""

    async def main() -> None:
        async with deployed(shared_server, "kv") as (connection, subjects), AsyncExitStack() as stack:
            ours = JetStreamKeyValue(connection, subjects.meta_bucket)
            client = await stack.enter_async_context(await nats.connect(shared_server.url))
            theirs = await client.jetstream().key_value(subjects.meta_bucket)
            revision = await ours.put("a.b", b"1")
            entry = await theirs.get("a.b")
            assert (entry.value, entry.revision) == (b"1", revision)
            updated = await theirs.update("a.b", b"2", last=revision)
            assert await ours.get("a.b") == (b"2", updated)
            await ours.put_many([("a.b", None, None), ("c", b"2", 0)])
            assert await theirs.keys() == ["c"]
            await theirs.delete("c")
            assert await ours.get("c") is None
            assert await ours.put("c", b"3", revision=0) == (await theirs.get("c")).revision
            await theirs.purge("c")
            assert await ours.get("c") is None
            assert [key async for key, _, _ in ours.scan(">")] == []
            with pytest.raises(ContractError):
                await ours.put("a b", b"")

    asyncio.run(main())


def test_a_timer_survives_the_server(server: NatsServer) -> None:
    """A timer that becomes due while the server is down is delivered when it is back."""

    async def main() -> None:
        async with deployed(server, "tim") as (connection, subjects):
            inbox = await JetStreamInbox.bind(connection, subjects.timers_stream, "due")
            timers = JetStreamTimers(connection, subjects)
            at = datetime.now(UTC) + timedelta(seconds=1)
            await timers.arm(SID, "stop", at=at, payload=b"7")
            await asyncio.to_thread(server.kill)
            while datetime.now(UTC) < at:  # noqa: ASYNC110 # time passes, nothing is told
                await asyncio.sleep(0.01)
            await asyncio.to_thread(server.start)
            async with asyncio.timeout(PATIENCE_S):
                while not (found := await inbox.fetch(1, wait_s=5.0)):
                    pass
            assert found[0].data == b"7"
            assert subjects.parse_due(found[0].subject) == (SID, "stop")
            await found[0].ack()
            await inbox.close()

    asyncio.run(main())


def test_a_letter_whose_reply_is_lost_is_stored_once(server: NatsServer) -> None:
    """A letter published while the server restarts is stored exactly once, and its sequence is returned."""

    async def main() -> None:
        async with deployed(server, "let") as (connection, subjects):
            letters = JetStreamLetters(connection, subjects)
            subject = subjects.dead_letter("chunks")
            sending = [
                asyncio.create_task(letters.publish(subject, b"", headers={}, id=f"chunks-{n}"))
                for n in range(200)
            ]
            await asyncio.to_thread(server.restart)
            sequences = await asyncio.gather(*sending)
            assert len(set(sequences)) == 200
            info = await connection.api(f"STREAM.INFO.{subjects.dlq_stream}")
            assert info["state"]["messages"] == 200

    asyncio.run(main())


def test_a_forged_live_message_is_left_out(shared_server: NatsServer) -> None:
    """What is published on the live subject without the server's headers reaches no listener."""

    async def main() -> None:
        async with deployed(shared_server, "forge") as (connection, subjects):
            feed = JetStreamLiveFeed(connection, subjects.events_stream)
            async with feed.listen(subjects.live_history(SID)) as messages:
                connection.publish(subjects.live(subjects.event(SID, "session.started.v1")), b"forged")
                subject = subjects.event(SID, "session.created.v1")
                stored = await connection.publish_acked(subject, b"real", headers={"ce-id": "1"})
                async with asyncio.timeout(PATIENCE_S):
                    first = await anext(messages)
            assert (first.data, first.sequence, first.headers) == (b"real", stored.sequence, {"ce-id": "1"})

    asyncio.run(main())


def test_a_listener_that_sleeps_costs_bounded_memory(
    shared_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A listener that does not read keeps the newest messages only."""
    monkeypatch.setattr("lucid_events.jetstream.live.BUFFER", 3)

    async def main() -> None:
        async with deployed(shared_server, "sleep") as (connection, subjects):
            feed = JetStreamLiveFeed(connection, subjects.events_stream)
            async with feed.listen(subjects.live_history(SID)) as messages:
                subject = subjects.event(SID, "session.created.v1")
                for _ in range(10):
                    await connection.publish_acked(subject, b"")
                await connection.barrier()
                async with asyncio.timeout(PATIENCE_S):
                    heard = [(await anext(messages)).sequence for _ in range(3)]
            assert heard[0] > 1
            assert heard == sorted(heard)

    asyncio.run(main())


def test_what_the_server_gives_up_is_kept(shared_server: NatsServer) -> None:
    """A terminated message leaves an advisory with its reason in the advisories stream."""

    async def main() -> None:
        async with deployed(shared_server, "adv") as (connection, subjects):
            await connection.publish_acked(subjects.event(SID, "chunk.sealed.v1"), b"")
            inbox = await JetStreamInbox.bind(connection, subjects.events_stream, "chunks")
            (one,) = await inbox.fetch(1, wait_s=PATIENCE_S)
            await one.terminate("poison")
            await inbox.close()
            found = None
            async with asyncio.timeout(PATIENCE_S):
                while found is None:
                    found = await connection.leader_get(subjects.advisories_stream, seq=1)
            assert b'"reason":"poison"' in found.data
            assert found.subject.endswith(f"{subjects.events_stream}.chunks")

    asyncio.run(main())
