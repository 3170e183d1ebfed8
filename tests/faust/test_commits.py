"""What a commit stores, of apps on a real server: whole events, no more than a batch, messages first."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import faust
import pytest
from faust.types import TP

from lucid_events.faust_nats import create_app, running
from lucid_events.faust_nats.producer import Buffer
from lucid_events.faust_nats.transactions import COMMIT_AT
from tests.faust.counting import Counting
from tests.faust.waiting import until
from tests.faust.workers import Truth, connect
from tests.nats_server import NatsServer


def test_a_commit_larger_than_a_batch_is_cut(server: NatsServer, url: str, ident: str) -> None:
    """3,000 keys changed between two commits are stored in several batches, each with its offsets."""

    async def run() -> None:
        client = await connect(server.url)
        truth = Truth(client, ident, 4, prefix=ident)
        await truth.create_input()
        await truth.send([(f"k{number}", number) for number in range(3000)])
        made = Counting(url, ident, broker_commit_interval=30.0)
        async with running(made.app):
            await until(lambda: len(made.counts) == 3000, "all keys")
        assert len(await truth.counts()) == 3000
        await client.close()

    asyncio.run(run())


def test_a_batch_that_is_full_is_stored_at_once(url: str, ident: str) -> None:
    """As many changes as a batch holds do not wait for the time of a commit: more would have to be cut."""

    async def run() -> None:
        app = create_app(ident, url, topic_partitions=1, broker_commit_interval=300.0)
        topic = app.topic("words", key_type=str, value_type=str, partitions=1)
        table = app.Table("seen", default=int, key_type=int, value_type=int, partitions=1)

        async def write(stream: faust.StreamT[Any]) -> None:
            async for _ in stream:
                for key in range(COMMIT_AT):
                    table[key] = 1

        app.agent(topic)(write)
        async with running(app):
            own: Any = app.transport
            sent = await (await topic.send(key="a", value="b"))
            await until(lambda: own.ledger.offsets.get(TP("words", 0), 0) > sent.offset, "a commit")

    asyncio.run(run())


def test_who_holds_the_future_of_a_change_learns_where_it_is_stored(url: str, ident: str) -> None:
    """A change of a table may be awaited: it is done with the commit of its event, at its offset."""

    async def run() -> None:
        app = create_app(ident, url, topic_partitions=1, broker_commit_interval=0.1)
        topic = app.topic("words", key_type=str, value_type=str, partitions=1)
        table = app.Table("last", partitions=1)
        held: list[Any] = []

        async def keep(stream: faust.StreamT[Any]) -> None:
            async for key, value in stream.items():
                held.append(table.send_changelog(0, key, value))

        app.agent(topic)(keep)
        async with running(app):
            await topic.send(key="a", value="b")
            await until(lambda: bool(held) and held[0].done(), "the change stored")
            stored = held[0].result()
        assert stored.topic == f"{ident}-last-changelog"
        assert stored.offset >= 1

    asyncio.run(run())


def test_a_change_that_builds_on_an_event_in_progress_waits_for_it(url: str, ident: str) -> None:
    """Two agents add to one key: what the fast one made of the slow one's is stored when both are done."""

    async def run() -> None:
        app = create_app(ident, url, topic_partitions=1, broker_commit_interval=0.1)
        slow = app.topic("slow", key_type=str, value_type=str, partitions=1)
        fast = app.topic("fast", key_type=str, value_type=str, partitions=1)
        table = app.Table("sums", default=int, key_type=str, value_type=int, partitions=1)
        may_end = asyncio.Event()

        async def add_slowly(stream: faust.StreamT[Any]) -> None:
            async for key, _ in stream.items():
                table[key] += 1
                await may_end.wait()

        async def add(stream: faust.StreamT[Any]) -> None:
            async for key, _ in stream.items():
                table[key] += 1

        app.agent(slow)(add_slowly)
        app.agent(fast)(add)
        async with running(app):
            own: Any = app.transport
            taken: Any = app.consumer
            subject = own.names.entry(f"{ident}-sums-changelog", 0, b'"a"')

            async def stored() -> bytes | None:
                found = await own.link.last(own.names.state_stream, subject)
                return found.data if found is not None else None

            async def is_two() -> bool:
                return await stored() == b"2"

            await slow.send(key="a", value="")
            await until(lambda: table.get("a") == 1, "the slow one added")
            sent = await (await fast.send(key="a", value=""))
            place = TP("fast", 0)
            await until(
                lambda: (taken._committed_offset[place] or 0) > sent.offset, "a commit of the fast one"
            )
            assert await stored() is None
            assert own.ledger.offsets[place] <= sent.offset
            may_end.set()
            await until(is_two, "both stored")
            assert own.ledger.offsets[place] > sent.offset
            assert own.ledger.offsets[TP("slow", 0)] > 0

    asyncio.run(run())


def test_a_message_sent_soon_is_stored_before_its_event_counts_as_done(
    url: str, ident: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has the id of its event, by which a repeated one is known, and the commit waits for it."""
    offsets: list[int] = []
    committing = asyncio.Event()
    send = Buffer._send_pending

    async def run() -> None:
        app = create_app(ident, url, topic_partitions=1, broker_commit_interval=0.1)
        words = app.topic("words", key_type=str, value_type=str, partitions=1)
        out = app.topic("out", key_type=str, value_type=str, partitions=1)

        async def pass_on(stream: faust.StreamT[Any]) -> None:
            async for key, value in stream.items():
                out.send_soon(key=key, value=value)

        app.agent(words, name="passing")(pass_on)
        own: Any = app.transport

        async def slowly(self: Buffer, fut: Any) -> None:
            await committing.wait()
            with suppress(AssertionError):  # as long as a commit that does not wait would take
                await until(lambda: own.ledger.offsets[TP("words", 0)] > 0, "a commit", 1.0)
            offsets.append(own.ledger.offsets[TP("words", 0)])
            await send(self, fut)

        monkeypatch.setattr(Buffer, "_send_pending", slowly)
        async with running(app):
            transactions: Any = app.consumer.transactions
            commit = transactions.commit

            async def seen(*args: Any, **more: Any) -> bool:
                committing.set()
                return bool(await commit(*args, **more))

            monkeypatch.setattr(transactions, "commit", seen)
            sent = await (await words.send(key="a", value="b"))
            await until(lambda: own.ledger.offsets.get(TP("words", 0), 0) > sent.offset, "a commit")
            assert offsets == [0]
            body = {"seq": 1, "next_by_subj": own.names.topic_partition("out", 0)}
            (found,) = [
                message async for page in own.link.pages(own.names.stream("out"), body) for message in page
            ]
            assert found.headers["Nats-Msg-Id"] == f"{ident}|passing|words|0|{sent.offset}|out|1"

    asyncio.run(run())
