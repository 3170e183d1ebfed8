"""Apps on a real server: what Faust promises its users holds over JetStream."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, cast

import faust
import pytest
from faust import stores, transport
from faust.types import TP

from lucid_events.faust_nats import Fenced, crashed, create_app, running
from lucid_events.faust_nats.ledger import Ledger
from lucid_events.faust_nats.producer import Buffer
from lucid_events.faust_nats.store import Store
from lucid_events.faust_nats.transport import Transport
from tests.faust.counting import Counting
from tests.faust.waiting import WAIT_S, until
from tests.faust.workers import Truth, connect
from tests.nats_server import NatsServer

ROOT = Path(__file__).parents[2]
EVENTS = 400
KEYS = 20
GIVEN_UP_S = 30.0


def _length(word: str) -> int:
    return len(word)


def _works(made: Counting) -> bool:
    return bool(made.app.consumer.assignment())


def _counted(made: Counting, total: int) -> bool:
    return bool(sum(made.counts.values()) >= total)


def _events(first: int = 0) -> list[tuple[str, int]]:
    return [(f"k{number % KEYS}", number) for number in range(first, first + EVENTS)]


def test_faust_finds_the_driver_by_itself() -> None:
    """A plain faust.App gets the driver for nats:// and the store for jetstream://: no import of ours."""
    assert transport.by_url("nats://localhost") is Transport
    assert transport.by_url("tls://localhost") is Transport
    assert stores.by_url("jetstream://") is Store


def test_an_agent_receives_what_was_sent(url: str, ident: str, folder: Path) -> None:
    """Key, value, headers and timestamp of a message arrive; the offset is the stream's sequence."""

    async def run() -> None:
        app = faust.App(
            ident, broker=url, store="jetstream://", web_enabled=False, topic_partitions=2, datadir=folder
        )
        topic = app.topic("things", key_type=str, value_serializer="raw")
        got: list[Any] = []

        async def keep(stream: faust.StreamT[Any]) -> None:
            async for event in stream.events():
                got.append(event)

        app.agent(topic)(keep)
        async with running(app):
            sent = await (
                await topic.send(key="a", value=b"\x00v", timestamp=5.5, headers={"h": b"\xff", "g": b" x "})
            )
            await topic.send(key=None, value=b"")
            await until(lambda: len(got) == 2, "two messages")
        (first,) = [event for event in got if event.key == "a"]
        assert first.value == b"\x00v"
        assert first.message.timestamp == 5.5
        assert first.headers == {"h": b"\xff", "g": b" x "}
        assert first.message.offset == sent.offset
        assert sent.offset >= 1

    asyncio.run(run())


@pytest.mark.parametrize("guarantee", ["exactly_once", "at_least_once"])
def test_a_restart_goes_on_where_it_stopped(server: NatsServer, url: str, ident: str, guarantee: str) -> None:
    """After a stop in order and a start, every event is counted once, in the changelog and in the table."""

    async def run() -> None:
        client = await connect(server.url)
        truth = Truth(client, ident, 4, prefix=ident)
        await truth.create_input()
        for number in range(3):
            await truth.send(_events(number * EVENTS))
            made = Counting(url, ident, processing_guarantee=guarantee)
            async with running(made.app):
                total = (number + 1) * EVENTS
                await until(partial(_counted, made, total), f"{total} events counted")
            assert sum(made.counts.values()) == total
            assert await truth.counts() == Counter({f"k{key}": total // KEYS for key in range(KEYS)})
        assert sum((await truth.echoes()).values()) == 3 * EVENTS
        await client.close()

    asyncio.run(run())


def test_partitions_move_without_loss_while_events_flow(server: NatsServer, url: str, ident: str) -> None:
    """A second worker comes and goes three times in the middle of it: counts are exact, outputs single."""

    async def run() -> None:
        client = await connect(server.url)
        truth = Truth(client, ident, 4, prefix=ident)
        await truth.create_input()
        rounds = 3
        one = Counting(url, ident, broker_commit_interval=0.1)
        async with running(one.app):
            for number in range(rounds):
                await truth.send(_events(2 * number * EVENTS))
                two = Counting(url, ident, broker_commit_interval=0.1)
                async with running(two.app):
                    await until(partial(_works, two), "a share for the second")
                    shares = [made.app.consumer.assignment() for made in (one, two)]
                    assert not shares[0] & shares[1]
                    await truth.send(_events((2 * number + 1) * EVENTS))
                await until(lambda: len(one.app.consumer.assignment()) > 4, "everything back at the first")
            total = 2 * rounds * EVENTS

            async def all_counted() -> bool:
                return sum((await truth.counts()).values()) >= total

            await until(all_counted, "all events counted")
        assert await truth.counts() == Counter({f"k{key}": total // KEYS for key in range(KEYS)})
        echoes = await truth.echoes()
        assert len(echoes) == total
        assert set(echoes.values()) == {1}
        await client.close()

    asyncio.run(run())


def test_a_worker_left_behind_is_fenced_and_says_so(server: NatsServer, url: str, ident: str) -> None:
    """A worker whose partitions were claimed by a later generation crashes at its next commit, loudly."""

    async def run() -> None:
        client = await connect(server.url)
        truth = Truth(client, ident, 4, prefix=ident)
        await truth.create_input()
        made = Counting(url, ident, broker_commit_interval=0.2)

        async def lose_the_partitions() -> None:
            async with running(made.app):
                await until(lambda: len(made.app.consumer.assignment()) > 4, "an assignment")
                own: Any = made.app.transport
                usurper = Ledger(own.link, own.names, "usurper")
                later = made.app.consumer_generation_id + 1
                await usurper.claim([TP("numbers", number) for number in range(4)], later)
                await truth.send(_events())
                await asyncio.wait_for(crashed(made.app), 30)

        with pytest.raises(Fenced, match="restart this worker"):
            await lose_the_partitions()
        assert not await truth.counts(), "a fenced worker wrote to the tables"
        await client.close()

    asyncio.run(run())


def test_a_server_that_restarts_costs_nothing(server: NatsServer, url: str, ident: str) -> None:
    """The server is killed twice in the middle of it: the app goes on by itself, counts are exact."""

    async def run() -> None:
        client = await connect(server.url)
        truth = Truth(client, ident, 4, prefix=ident)
        await truth.create_input()
        made = Counting(url, ident, broker_commit_interval=0.1, broker_session_timeout=30.0)
        async with running(made.app):
            for number in range(3):
                await truth.send(_events(number * EVENTS))
                if number < 2:
                    await asyncio.to_thread(server.restart)
            total = 3 * EVENTS

            async def all_counted() -> bool:
                return sum((await truth.counts()).values()) >= total

            await until(all_counted, "all events counted")
        assert await truth.counts() == Counter({f"k{key}": total // KEYS for key in range(KEYS)})
        assert set((await truth.echoes()).values()) == {1}
        await client.close()

    asyncio.run(run())


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


def test_what_is_in_hand_has_one_deadline_in_a_rebalance(url: str, ident: str) -> None:
    """A worker with an event that does not end lets go before the leader gives up on it."""

    async def run() -> None:
        allowed_s = 2.0
        app = create_app(ident, url, topic_partitions=1, broker_rebalance_timeout=allowed_s)
        topic = app.topic("words", key_type=str, value_type=str, partitions=1)
        begun, may_end = asyncio.Event(), asyncio.Event()

        async def wait(stream: faust.StreamT[Any]) -> None:
            async for _ in stream:
                begun.set()
                await may_end.wait()

        app.agent(topic)(wait)
        async with running(app):
            await topic.send(key="a", value="b")
            await asyncio.wait_for(begun.wait(), WAIT_S)
            loop = asyncio.get_running_loop()
            began = loop.time()
            await cast(Any, app.consumer).let_go()
            assert loop.time() - began < allowed_s
            may_end.set()

    asyncio.run(run())


def test_a_stream_is_keyed_anew(url: str, ident: str) -> None:
    """Messages between agents pass through topics that the driver makes: a stream re-keyed by group_by."""

    async def run() -> None:
        app = create_app(ident, url, topic_partitions=2)
        topic = app.topic("words", key_type=str, value_type=str, partitions=2)
        lengths = app.Table("lengths", default=int, partitions=2)

        async def count(stream: faust.StreamT[Any]) -> None:
            async for word in stream.group_by(_length, name="length"):
                lengths[len(word)] += 1

        app.agent(topic)(count)
        async with running(app):
            for word in ("a", "bb", "cc", "dd", "e"):
                await topic.send(key=word, value=word)
            await until(lambda: dict(lengths) == {1: 2, 2: 3}, "words counted by length")

    asyncio.run(run())


def _ended(case: str, url: str, ident: str) -> str:
    """What `unstoppable` prints; a process that does not end fails here, and holds up nothing else."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.faust.unstoppable", case, url, ident],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=GIVEN_UP_S + WAIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_loop_that_is_given_up_ends(url: str, ident: str) -> None:
    """An app in a loop that ends under it, so that asyncio.run cancels every task, does not hold it up."""
    assert "stopped before" in _ended("lost", url, ident)


def test_a_stop_that_does_not_end_is_given_up(url: str, ident: str) -> None:
    """A part of the app that never stops costs its time and is told, instead of waiting for ever."""
    assert "did not stop in time" in _ended("held", url, ident)
