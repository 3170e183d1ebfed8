"""Apps on a real server: what Faust promises its users holds over JetStream."""

from __future__ import annotations

import asyncio
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import faust
import pytest
from faust import stores, transport

from lucid_events.faust_nats import create_app, running
from lucid_events.faust_nats.store import Store
from lucid_events.faust_nats.transport import Transport
from tests.faust.counting import EVENTS, KEYS, Counting, events
from tests.faust.waiting import until
from tests.faust.workers import Truth, connect
from tests.nats_server import NatsServer


def _length(word: str) -> int:
    return len(word)


def test_faust_finds_the_driver_by_itself() -> None:
    """A plain faust.App gets the driver for nats:// and the store for jetstream://: no import of ours."""
    assert transport.by_url("nats://localhost") is Transport
    assert transport.by_url("tls://localhost") is Transport
    assert stores.by_url("jetstream://") is Store


def test_a_worker_serves_nobody_outside(ident: str) -> None:
    """Faust's worker starts a web server that asks nobody who they are, whatever the app says of it."""
    app = create_app(ident, "nats://localhost")
    assert (app.conf.web_enabled, app.conf.web_bind) == (False, "127.0.0.1")
    assert create_app(ident, "nats://localhost", web_bind="::1").conf.web_bind == "::1"


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
            await truth.send(events(number * EVENTS))
            made = Counting(url, ident, processing_guarantee=guarantee)
            async with running(made.app):
                total = (number + 1) * EVENTS
                await until(partial(made.counted, total), f"{total} events counted")
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
                await truth.send(events(2 * number * EVENTS))
                two = Counting(url, ident, broker_commit_interval=0.1)
                async with running(two.app):
                    await until(two.works, "a share for the second")
                    shares = [made.app.consumer.assignment() for made in (one, two)]
                    assert not shares[0] & shares[1]
                    await truth.send(events((2 * number + 1) * EVENTS))
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
