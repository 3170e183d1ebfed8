"""`jetstream.inbox` when the server goes away: what the contract tests, with one server, can't show."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from lucid_events.errors import ConfigError, StoreUnavailable
from lucid_events.jetstream.connection import Connection, NatsOptions, connect
from lucid_events.jetstream.inbox import JetStreamDelivery, JetStreamInbox
from tests.nats_server import NatsServer

PATIENCE_S = 60.0


@asynccontextmanager
async def an_inbox(
    server: NatsServer, name: str, *, ack_wait_s: float = 30.0, stored: int = 0, max_ack_pending: int = 1000
) -> AsyncIterator[tuple[Connection, JetStreamInbox]]:
    """Bind to a consumer of a new stream that holds `stored` messages."""
    async with connect(NatsOptions(servers=(server.url,))) as connection:
        await connection.api(f"STREAM.CREATE.{name}", {"name": name, "subjects": [f"{name}.>"]})
        config = {
            "durable_name": "c",
            "ack_policy": "explicit",
            "ack_wait": int(ack_wait_s * 1e9),
            "max_deliver": -1,
            "max_ack_pending": max_ack_pending,
        }
        await connection.api(f"CONSUMER.CREATE.{name}.c", {"stream_name": name, "config": config})
        for number in range(stored):
            await connection.publish_acked(f"{name}.x", b"%d" % number)
        inbox = await JetStreamInbox.bind(connection, name, "c")
        yield connection, inbox
        await inbox.close()


async def take(inbox: JetStreamInbox, count: int) -> list[JetStreamDelivery]:
    """Fetch until `count` messages have come."""
    found: list[JetStreamDelivery] = []
    async with asyncio.timeout(PATIENCE_S):
        while len(found) < count:
            found += await inbox.fetch(count - len(found), wait_s=5.0)
    return found


def test_a_restart_during_a_fetch(server: NatsServer) -> None:
    """A fetch that waits through kill -9 and restart gets the next message long before its wait ends."""

    async def main() -> None:
        async with an_inbox(server, "restart") as (connection, inbox):
            fetching = asyncio.create_task(inbox.fetch(10, wait_s=100 * PATIENCE_S))
            await connection.barrier()
            await asyncio.to_thread(server.restart)
            await connection.publish_acked("restart.x", b"after", timeout_s=PATIENCE_S)
            (one,) = await asyncio.wait_for(fetching, PATIENCE_S)
            assert one.data == b"after"
            await one.ack()
            assert (await inbox.lag()).in_flight == 0

    asyncio.run(main())


def test_an_answer_given_after_a_restart_counts(server: NatsServer) -> None:
    """A message fetched before an orderly restart can be answered after it; what was acked stays acked."""

    async def main() -> None:
        async with an_inbox(server, "answer", stored=3) as (_, inbox):
            first, second, third = await take(inbox, 3)
            await first.ack()
            # A kill would not do: consumers write their state behind, so an ack may be forgotten.
            await asyncio.to_thread(server.stop)
            acking = asyncio.create_task(second.ack())
            await asyncio.to_thread(server.start)
            await asyncio.wait_for(acking, PATIENCE_S)
            await third.terminate("cannot\r\nbe decoded")
            lag = await inbox.lag()
            assert (lag.pending, lag.in_flight, lag.ack_floor) == (0, 0, 3)

    asyncio.run(main())


def test_an_answer_to_a_server_that_has_forgotten(server: NatsServer) -> None:
    """A server that lost what it delivered confirms no answer; that is said at once, and it comes again."""

    async def main() -> None:
        async with an_inbox(server, "forgotten", stored=3) as (_, inbox):
            held = await take(inbox, 3)
            await asyncio.to_thread(server.kill)
            # What a consumer has delivered is written behind; a kill loses the last moments of it.
            for state in server.folder.rglob("obs/c/o.dat"):
                state.unlink()
            await asyncio.to_thread(server.start)
            answers = (one.ack() for one in held)
            async with asyncio.timeout(inbox.ack_wait_s / 2):
                said = await asyncio.gather(*answers, return_exceptions=True)
                again = await take(inbox, 3)
            assert ["does not know" in str(one) for one in said] == [True] * 3, said
            assert [one.sequence for one in again] == [1, 2, 3]
            for one in again:
                await one.ack()
            assert (await inbox.lag()).ack_floor == 3

    asyncio.run(main())


def test_an_answer_that_can_not_be_given_is_said(server: NatsServer) -> None:
    """An ack that is not confirmed in time fails; the message comes again, or the ack was heard after all."""

    async def main() -> None:
        async with an_inbox(server, "unsaid", ack_wait_s=1.0, stored=1) as (_, inbox):
            (first,) = await take(inbox, 1)
            await asyncio.to_thread(server.kill)
            with pytest.raises(StoreUnavailable, match="comes again"):
                await first.ack()
            assert list(await inbox.fetch(1, wait_s=0.05)) == []
            await asyncio.to_thread(server.start)
            async with asyncio.timeout(PATIENCE_S):
                # The client sends what it had buffered when it is back: then the ack counts after all.
                while not (found := await inbox.fetch(1, wait_s=1.0)) and not (await inbox.lag()).ack_floor:
                    pass
            for again in found:
                assert again.sequence == first.sequence
                await again.ack()
            assert (await inbox.lag()).ack_floor == 1

    asyncio.run(main())


def test_many_messages_in_few_fetches(shared_server: NatsServer) -> None:
    """A backlog comes in full batches, in order, none twice."""

    async def main() -> None:
        async with an_inbox(shared_server, "many") as (connection, inbox):
            await asyncio.gather(*(connection.call("many.x", b"%d" % n) for n in range(1000)))
            seen = []
            for _ in range(4):
                batch = await inbox.fetch(250, wait_s=PATIENCE_S)
                assert len(batch) == 250
                seen += [int(one.data) for one in batch]
                await asyncio.gather(*(one.ack() for one in batch))
            assert seen == list(range(1000))

    asyncio.run(main())


def test_a_cancelled_fetch_loses_nothing(shared_server: NatsServer) -> None:
    """What arrives for a fetch that was cancelled is handed to the next one."""

    async def main() -> None:
        async with an_inbox(shared_server, "cancelled") as (connection, inbox):
            fetching = asyncio.create_task(inbox.fetch(1, wait_s=PATIENCE_S))
            await connection.barrier()
            fetching.cancel()
            await asyncio.gather(fetching, return_exceptions=True)
            await connection.publish_acked("cancelled.x", b"1")
            (one,) = await take(inbox, 1)
            assert (one.data, one.attempt) == (b"1", 1)
            await one.ack()

    asyncio.run(main())


def test_a_deleted_consumer_is_said(shared_server: NatsServer) -> None:
    """A consumer that is deleted while a fetch waits ends it with what to do about it."""

    async def main() -> None:
        async with an_inbox(shared_server, "deleted") as (connection, inbox):
            fetching = asyncio.create_task(inbox.fetch(1, wait_s=PATIENCE_S))
            async with asyncio.timeout(PATIENCE_S):
                while (await connection.api("CONSUMER.INFO.deleted.c"))["num_waiting"] == 0:
                    pass
            await connection.api("CONSUMER.DELETE.deleted.c")
            with pytest.raises(ConfigError, match="lucid deploy"):
                await fetching
            with pytest.raises(ConfigError, match="lucid deploy"):
                await inbox.fetch(1, wait_s=PATIENCE_S)

    asyncio.run(main())


def test_no_request_is_left_at_the_server(shared_server: NatsServer) -> None:
    """With as many in flight as allowed a fetch ends, and nothing is delivered behind its back later."""

    async def main() -> None:
        async with an_inbox(shared_server, "full", stored=5, max_ack_pending=2) as (connection, inbox):
            held = await inbox.fetch(5, wait_s=PATIENCE_S)
            assert len(held) == 2
            assert await inbox.fetch(5, wait_s=0.05) == []
            info = await connection.api("CONSUMER.INFO.full.c")
            assert info["num_waiting"] == 0
            await held[0].ack()
            await connection.barrier()
            assert (await inbox.lag()).in_flight == 1
            assert [one.sequence for one in await inbox.fetch(5, wait_s=PATIENCE_S)] == [3]

    asyncio.run(main())
