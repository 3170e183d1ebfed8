"""The table store: loaded in bulk, emptied of what went elsewhere, windows that expire."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import faust
import pytest
from faust.types import TP

from lucid_events.faust_nats import EventLog, Unsupported, create_app, running
from tests.faust.counting import Counting
from tests.faust.waiting import until
from tests.faust.workers import Truth, connect
from tests.nats_server import NatsServer, running_server

KEYS = 3000


def test_a_table_is_loaded_without_replaying_its_changelog(
    server: NatsServer, url: str, ident: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a restart the table is there before Faust's recovery starts, which reads nothing."""

    async def run() -> None:
        client = await connect(server.url)
        truth = Truth(client, ident, 4, prefix=ident)
        await truth.create_input()
        await truth.send([(f"k{number}", number) for number in range(KEYS)])
        made = Counting(url, ident)
        async with running(made.app):
            await until(lambda: len(made.counts) == KEYS, "all keys")
        made = Counting(url, ident)
        applied: list[Any] = []
        store: Any = made.counts.data
        tables: Any = made.app.tables
        monkeypatch.setattr(store, "apply_changelog_batch", lambda batch, *_, **__: applied.extend(batch))
        async with running(made.app):
            await until(tables.recovery.completed.is_set, "recovery")
            assert len(made.counts) == KEYS
            assert not applied
            assert store.loads == 4
        await client.close()

    asyncio.run(run())


def test_a_worker_keeps_only_the_keys_of_its_partitions(server: NatsServer, url: str, ident: str) -> None:
    """After it gave partitions away, none of their keys is left in its table, and nothing is in both."""

    async def run() -> None:
        client = await connect(server.url)
        truth = Truth(client, ident, 4, prefix=ident)
        await truth.create_input()
        one, two = Counting(url, ident), Counting(url, ident)
        async with running(one.app):
            await truth.send([(f"k{number}", number) for number in range(200)])
            await until(lambda: len(one.counts) == 200, "all keys at the first")
            async with running(two.app):
                await until(lambda: 0 < len(two.counts) < 200, "some keys at the second")
                await until(lambda: len(one.counts) + len(two.counts) == 200, "the others at the first")
                assert not set(one.counts) & set(two.counts)
        await client.close()

    asyncio.run(run())


def test_a_key_that_is_deleted_is_not_remembered(url: str, ident: str) -> None:
    """Keys that come and go take no memory, however they go; a partition they left does not drop them."""

    async def run() -> None:
        app = create_app(ident, url, topic_partitions=2)
        topic = app.topic("words", key_type=str, value_type=str, partitions=2)
        table = app.Table("seen", default=int, partitions=2)
        store: Any = table.data
        handled: list[str] = []

        async def handle(stream: faust.StreamT[Any]) -> None:
            async for word in stream:
                match word:
                    case "clear":
                        table.clear()
                    case "pop":
                        table.pop("shared")
                    case _:
                        table[word] += 1
                        if word != "shared":
                            del table[word]
                handled.append(word)

        app.agent(topic)(handle)
        sent = [("a", 0), ("b", 0), ("shared", 0), ("pop", 0), ("shared", 1)]
        async with running(app):
            for number, (word, partition) in enumerate(sent):
                await topic.send(key=word, value=word, partition=partition)
                await until(lambda wanted=number + 1: len(handled) == wanted, word)  # type: ignore[misc]
            assert {number: keys for number, keys in store._keys.items() if keys} == {1: {"shared"}}
            store._forget(TP(f"{ident}-seen-changelog", 0))
            assert dict(table) == {"shared": 1}
            await topic.send(key="a", value="clear", partition=1)
            await until(lambda: len(handled) == len(sent) + 1, "clear")
            assert not any(store._keys.values())

    asyncio.run(run())


def test_a_standby_takes_over_with_its_own_copy(server: NatsServer, url: str, ident: str) -> None:
    """A standby follows the changelog of the other worker and holds the same keys."""

    async def run() -> None:
        client = await connect(server.url)
        truth = Truth(client, ident, 4, prefix=ident)
        await truth.create_input()
        one, two = (Counting(url, ident, table_standby_replicas=1) for _ in range(2))
        for made in (one, two):
            made.counts.standby_buffer_size = 1  # Faust applies as many entries at once
        async with running(one.app), running(two.app):
            await until(lambda: bool(two.app.assignor.assigned_standbys()), "standbys")
            await truth.send([(f"k{number}", number) for number in range(200)])
            await until(lambda: len(one.counts) == len(two.counts) == 200, "everything at both")
        await client.close()

    asyncio.run(run())


def test_windows_that_were_loaded_expire(url: str, ident: str) -> None:
    """A window read back from the changelog is removed when its time is over, as one made here is."""

    def make() -> tuple[faust.App, Any, Any]:
        app = create_app(ident, url, topic_partitions=1, table_cleanup_interval=0.2)
        topic = app.topic("ticks", key_type=str, value_serializer="json", partitions=1)
        table = app.Table("ticks", default=int, partitions=1)
        windows = table.tumbling(1.0, expires=3.0)

        async def count(stream: faust.StreamT[Any]) -> None:
            async for key, _ in stream.items():
                windows[key] += 1

        app.agent(topic)(count)
        return app, topic, table

    async def run() -> None:
        app, topic, table = make()
        async with running(app):
            await topic.send(key="a", value=1)
            await until(lambda: len(table) == 1, "a window")
        app, _, table = make()
        async with running(app):
            assert len(table) == 1
            await until(lambda: len(table) == 0, "the window gone")

    asyncio.run(run())


def test_a_set_table_is_refused(url: str, ident: str) -> None:
    """Its changelog would lose all but the last change of a key."""

    async def run() -> None:
        app = create_app(ident, url)
        app.SetTable("names", partitions=4)
        topic = app.topic("x", partitions=4)

        async def idle(stream: faust.StreamT[Any]) -> None:
            async for _ in stream:
                pass

        app.agent(topic)(idle)
        async with running(app):
            pass

    with pytest.raises(Unsupported, match="SetTable"):
        asyncio.run(run())


def test_an_event_log_is_read_in_partitions_by_two_workers(server: NatsServer, url: str, ident: str) -> None:
    """Offsets are the log's sequences; each event goes to one worker; the log itself is not touched."""
    log = EventLog(topic="log", stream=f"{ident}_LOG", subject=f"{ident}.evt.>", key_token=2, partitions=4)

    def make(seen: list[tuple[bytes, int]]) -> faust.App:
        app = create_app(f"{ident}-log", url, logs=[log])
        topic = app.topic("log", key_serializer="raw", value_serializer="raw", partitions=4)

        async def keep(stream: faust.StreamT[Any]) -> AsyncIterator[None]:
            async for event in stream.events():
                seen.append((event.key, event.message.offset))
                yield

        app.agent(topic)(keep)
        return app

    async def run() -> None:
        client = await connect(server.url)
        js = client.jetstream()
        await js.add_stream(name=log.stream, subjects=[log.subject])
        before = (await js.stream_info(log.stream)).config
        first: list[tuple[bytes, int]] = []
        second: list[tuple[bytes, int]] = []
        one, two = make(first), make(second)
        async with running(one), running(two):
            await until(lambda: bool(one.consumer.assignment() and two.consumer.assignment()), "shares")
            for number in range(200):
                await js.publish(f"{ident}.evt.s{number % 20}.a.b", b"x")
            await until(lambda: len(first) + len(second) >= 200, "all events")
        assert sorted(offset for _, offset in first + second) == list(range(1, 201))
        assert not {key for key, _ in first} & {key for key, _ in second}
        assert (await js.stream_info(log.stream)).config == before
        await client.close()

    asyncio.run(run())


def test_a_server_with_users_lets_the_right_one_in(
    tmp_path_factory: pytest.TempPathFactory, ident: str
) -> None:
    """User and password of the broker URL are used; without them the start fails and says so."""
    users = 'authorization { users: [ { user: "u", password: "p/w" } ] }'
    with running_server(tmp_path_factory.mktemp("users"), extra=users) as guarded:

        async def run(url: str) -> None:
            app = create_app(ident, url)
            topic = app.topic("x", partitions=1, value_serializer="raw")
            async with running(app):
                await (await topic.send(value=b"x"))

        asyncio.run(run(guarded.url.replace("//", "//u:p%2Fw@")))
        with pytest.raises(faust.exceptions.FaustError, match="no NATS server answers"):
            asyncio.run(run(guarded.url))
