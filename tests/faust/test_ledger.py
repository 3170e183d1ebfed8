"""Commits: fenced, atomic, and settled when their answer is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import nats.errors
import pytest
from faust.types import TP
from nats.aio.msg import Msg

from lucid_events.faust_nats.errors import CommitInDoubt, Fenced, Unavailable, Unsupported
from lucid_events.faust_nats.ledger import Ledger
from lucid_events.faust_nats.link import Link, Outgoing
from lucid_events.faust_nats.options import Options
from lucid_events.faust_nats.publishing import Ack
from lucid_events.faust_nats.topology import Names
from tests.nats_server import NatsServer

HERE = TP("in", 0)
THERE = TP("in", 1)


class Lossy(Link):
    """A link whose next batches are stored, and their answers lost; or lost before they are stored."""

    def __init__(self, options: Options, name: str) -> None:
        super().__init__(options, name)
        self.answers_lost = self.batches_lost = 0

    async def batch(self, messages: list[Outgoing], timeout_s: float = 10.0) -> Ack:  # type: ignore[override]  # a list is all it gets here
        if self.batches_lost:
            self.batches_lost -= 1
            raise CommitInDoubt("lost on the way")
        ack = await super().batch(messages, timeout_s)
        if self.answers_lost:
            self.answers_lost -= 1
            raise CommitInDoubt("the answer was lost")
        return ack


class Stage:
    """Two workers' ledgers on one app's state."""

    def __init__(self, link: Lossy, names: Names) -> None:
        self.link, self.names = link, names
        self.first, self.second = Ledger(link, names, "first"), Ledger(link, names, "second")

    def entry(self, key: bytes, value: bytes) -> Outgoing:
        return Outgoing(self.names.entry("log", 0, key), value, {})

    async def value(self, key: bytes) -> bytes | None:
        found = await self.link.last(self.names.state_stream, self.names.entry("log", 0, key))
        return found.data if found is not None else None


@asynccontextmanager
async def _staged(server: NatsServer, ident: str) -> AsyncIterator[Stage]:
    link = Lossy(Options(servers=(server.url,)), "test")
    await link.open()
    try:
        stage = Stage(link, Names("faust", ident))
        await stage.first.create(1)
        yield stage
    finally:
        await link.close()


def test_an_earlier_owner_is_refused_and_leaves_no_trace(server: NatsServer, ident: str) -> None:
    """After a later generation claimed a partition, the old owner's batch is refused as a whole."""

    async def run() -> None:
        async with _staged(server, ident) as stage:
            await stage.first.claim([HERE, THERE], 1)
            await stage.first.commit({HERE: 5, THERE: 7}, [stage.entry(b"k", b"1")])
            await stage.second.claim([THERE], 2)
            assert stage.second.offsets == {THERE: 7}
            with pytest.raises(Fenced, match="belongs to second of generation 2"):
                await stage.first.commit({THERE: 9, HERE: 9}, [stage.entry(b"k", b"2")])
            assert await stage.value(b"k") == b"1"
            await stage.first.commit({HERE: 6}, [stage.entry(b"k", b"3")])
            assert await stage.value(b"k") == b"3"

    asyncio.run(run())


def test_the_partition_that_was_lost_is_named(server: NatsServer, ident: str) -> None:
    """Not the first of the commit, but the one somebody else has now, or whose record is gone."""

    async def run() -> None:
        async with _staged(server, ident) as stage:
            await stage.first.claim([HERE, THERE], 1)
            await stage.second.claim([THERE], 2)
            with pytest.raises(Fenced, match=r"partition=1\) belongs to second of generation 2"):
                await stage.first.commit({HERE: 5, THERE: 9})
            subject = stage.names.offset(*THERE)
            await stage.link.api(f"STREAM.PURGE.{stage.names.state_stream}", {"filter": subject})
            with pytest.raises(Fenced, match=r"record of .*partition=1\) is gone"):
                await stage.first.commit({HERE: 5, THERE: 9})

    asyncio.run(run())


def test_an_earlier_generation_can_not_claim(server: NatsServer, ident: str) -> None:
    """A worker that comes back with an old generation does not take anything away."""

    async def run() -> None:
        async with _staged(server, ident) as stage:
            await stage.first.claim([HERE], 5)
            with pytest.raises(Fenced, match="generation 5 owns it"):
                await stage.second.claim([HERE], 4)

    asyncio.run(run())


def test_a_commit_whose_answer_is_lost_is_not_repeated(server: NatsServer, ident: str) -> None:
    """The commit is found stored by reading, and the next one goes on from it."""

    async def run() -> None:
        async with _staged(server, ident) as stage:
            await stage.first.claim([HERE], 1)
            stage.link.answers_lost = 1
            at = await stage.first.commit({HERE: 5}, [stage.entry(b"k", b"1")])
            found = await stage.link.last(stage.names.state_stream, stage.names.entry("log", 0, b"k"))
            assert found is not None
            assert found.sequence == at
            await stage.first.commit({HERE: 6})

    asyncio.run(run())


def test_a_commit_that_was_lost_is_sent_again(server: NatsServer, ident: str) -> None:
    """Nothing was stored, so the same batch goes out again, once."""

    async def run() -> None:
        async with _staged(server, ident) as stage:
            await stage.first.claim([HERE], 1)
            stage.link.batches_lost = 2
            await stage.first.commit({HERE: 5}, [stage.entry(b"k", b"1")])
            assert await stage.value(b"k") == b"1"

    asyncio.run(run())


def test_a_commit_survives_the_death_of_the_server(server: NatsServer, ident: str) -> None:
    """A commit that meets a dying server is stored once it is back, and only once."""

    async def run() -> None:
        async with _staged(server, ident) as stage:
            await stage.first.claim([HERE], 1)
            server.kill()
            commit = asyncio.create_task(stage.first.commit({HERE: 5}, [stage.entry(b"k", b"1")]))
            await asyncio.to_thread(server.start)
            await asyncio.wait_for(commit, 30)
            await stage.first.commit({HERE: 6}, [stage.entry(b"k", b"2")])
            assert await stage.value(b"k") == b"2"

    asyncio.run(run())


def test_what_was_never_claimed_is_not_committed(server: NatsServer, ident: str) -> None:
    """A commit for a partition of somebody else's is refused before anything is sent."""

    async def run() -> None:
        async with _staged(server, ident) as stage:
            await stage.first.claim([HERE], 1)
            with pytest.raises(Fenced, match="not this worker's"):
                await stage.first.commit({THERE: 5})

    asyncio.run(run())


def test_partitions_are_held_to(server: NatsServer, ident: str) -> None:
    """The number of partitions is written once; another one is refused with both numbers."""

    async def run() -> None:
        async with _staged(server, ident) as stage:
            await stage.first.hold_partitions("in", 4)
            await stage.second.hold_partitions("in", 4)
            with pytest.raises(Unsupported, match=r"has 8 partitions, .* was written with 4"):
                await stage.second.hold_partitions("in", 8)

    asyncio.run(run())


@pytest.mark.parametrize("code", [10008, 10158, 10167])
def test_a_publish_that_is_refused_for_now_is_sent_again(server: NatsServer, ident: str, code: int) -> None:
    """No leader, an attempt still being stored, too much waiting at the stream: it is stored later."""

    async def run() -> None:
        async with _staged(server, ident) as stage:
            publisher = stage.link._publisher
            answered = publisher._on_ack
            refused = Msg(
                stage.link.client,
                subject=f"{publisher._inbox}.1",
                data=b'{"error": {"code": 503, "err_code": %d, "description": "not now"}}' % code,
            )
            publisher._numbers = 0
            publisher._pending.clear()
            future = await stage.link.publish(stage.names.entry("log", 0, b"k"), b"v", {})
            await answered(refused)
            assert not future.done()
            assert (await asyncio.wait_for(future, 30)).seq > 0
            assert await stage.value(b"k") == b"v"

    asyncio.run(run())


def test_a_publish_that_can_not_be_sent_holds_up_no_other(
    server: NatsServer, ident: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever sending it again raises is told by its own future; what else is unanswered is still sent."""

    async def run() -> None:
        async with _staged(server, ident) as stage:
            client = stage.link.client
            send = client.publish
            attempts: list[bytes] = []

            async def failing(subject: str, data: bytes, **more: Any) -> None:
                attempts.append(data)
                if attempts.count(data) == 1:
                    raise nats.errors.OutboundBufferLimitError
                if data == b"bad":
                    raise RuntimeError("out of order")
                await send(subject, data, **more)

            monkeypatch.setattr(client, "publish", failing)
            subject = stage.names.entry("log", 0, b"k")
            bad = await stage.link.publish(subject, b"bad", {})
            good = await stage.link.publish(subject, b"good", {})
            with pytest.raises(Unavailable, match="out of order"):
                await asyncio.wait_for(bad, 30)
            assert (await asyncio.wait_for(good, 30)).seq > 0
            assert stage.link.outstanding == 0
            assert not stage.link.cut_off

    asyncio.run(run())


def test_an_answer_that_can_not_be_read_is_told(server: NatsServer, ident: str) -> None:
    """Who else replies on a stream's subject does not make a publish wait; a batch is in doubt."""

    async def run() -> None:
        async with _staged(server, ident) as stage:
            client, subject = stage.link.client, f"{ident}.strange"

            async def answer(message: Msg) -> None:
                await message.respond(b"thanks")

            await client.subscribe(subject, cb=answer)
            future = await stage.link.publish(subject, b"v", {})
            with pytest.raises(Unavailable, match="no word of a stream"):
                await asyncio.wait_for(future, 30)
            assert stage.link.outstanding == 0
            with pytest.raises(CommitInDoubt, match="can't be read"):
                await stage.link.batch([Outgoing(subject, b"v", {})])

    asyncio.run(run())
