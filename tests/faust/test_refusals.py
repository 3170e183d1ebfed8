"""What the driver refuses at the start, and that it says why."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import faust
import msgspec
import pytest

from lucid_events.faust_nats import EventLog, Unsupported, create_app, running
from lucid_events.faust_nats import link as link_module
from tests.faust.counting import Counting
from tests.faust.waiting import until
from tests.nats_server import running_server


async def _start(app: faust.App) -> None:
    async with running(app):
        pass


def test_an_old_server_is_refused(url: str, ident: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server without atomic batches can't keep exactly_once: the message names the version needed."""
    monkeypatch.setattr(link_module, "OLDEST", (99, 0, 0))
    with pytest.raises(Unsupported, match=r"needs 2\.12 or later"):
        asyncio.run(_start(create_app(ident, url)))


@pytest.mark.parametrize("version", ["2.11.9", "2.9.25", "1.4.1"])
def test_the_version_that_a_server_says_is_compared(ident: str, version: str) -> None:
    """Release by release: 2.9 and 2.11 come before 2.12, whatever their patches."""

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        about = {"server_id": "x", "version": version, "max_payload": 1 << 20, "headers": True, "proto": 1}
        writer.write(b"INFO " + msgspec.json.encode(about) + b"\r\n")
        while line := await reader.readline():
            if line.startswith(b"PING"):
                writer.write(b"PONG\r\n")
        writer.close()

    async def run() -> None:
        async with await asyncio.start_server(greet, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            await _start(create_app(ident, f"nats://127.0.0.1:{port}"))

    with pytest.raises(Unsupported, match=rf"is {version}: the driver needs 2\.12 or later"):
        asyncio.run(run())


def test_a_server_without_jetstream_is_refused(tmp_path: Path, ident: str) -> None:
    """An account that JetStream is not on for is told at the start, not by a publish that nobody stores."""
    users = 'accounts { A { users: [ { user: "u", password: "p" } ] } }'
    with running_server(tmp_path / "nats", extra=users) as server:
        url = server.url.replace("//", "//u:p@")
        with pytest.raises(Unsupported, match="JetStream is not available"):
            asyncio.run(_start(create_app(ident, url)))


def test_a_threaded_producer_is_refused(url: str, ident: str) -> None:
    """A producer in a thread of its own has no loop to share the connection with."""

    async def run() -> None:
        app = create_app(ident, url, producer_threaded=True)
        app.topic("x")
        await _start(app)

    with pytest.raises(Unsupported, match="producer_threaded"):
        asyncio.run(run())


def test_another_number_of_partitions_is_refused(url: str, ident: str) -> None:
    """State written with 4 partitions is not read with 2: keys would be looked for in the wrong place."""

    def log(partitions: int) -> EventLog:
        return EventLog(
            topic="log",
            stream=f"{ident}_old",
            subject=f"{ident}.topic.old.>",
            key_token=4,
            partitions=partitions,
        )

    async def once(partitions: int) -> None:
        app = create_app(f"{ident}-app", url, logs=[log(partitions)] if partitions else ())
        old = app.topic("old", partitions=4)
        topic = app.topic("log" if partitions else "old", value_serializer="raw")

        async def idle(stream: faust.StreamT[Any]) -> None:
            async for _ in stream:
                pass

        app.agent(topic)(idle)
        async with running(app):
            await old.declare()
            await until(lambda: bool(app.consumer.assignment()) or bool(app.crashed), "an assignment")

    asyncio.run(once(0))
    asyncio.run(once(4))
    with pytest.raises(Unsupported, match=r"has 2 partitions, the state in .* was written with 4"):
        asyncio.run(once(2))


def test_a_table_is_not_changed_outside_an_agent(url: str, ident: str) -> None:
    """A change that belongs to no event has no offset to be committed with."""

    async def run() -> None:
        made = Counting(url, ident)
        async with running(made.app):
            await until(lambda: bool(made.app.consumer.assignment()), "an assignment")
            with pytest.raises(TypeError, match="outside of stream iteration"):
                made.counts["a"] = 1

    asyncio.run(run())


def test_a_change_outside_an_agent_is_refused_by_the_driver_too(url: str, ident: str) -> None:
    """Faust does not ask for the event in hand when a table's keys are placed by the partitioner."""

    async def run() -> None:
        app = create_app(ident, url)
        table = app.Table("free", partitions=4, use_partitioner=True)
        topic = app.topic("x", partitions=4)

        async def idle(stream: faust.StreamT[Any]) -> None:
            async for _ in stream:
                pass

        app.agent(topic)(idle)
        async with running(app):
            await until(lambda: bool(app.consumer.assignment()), "an assignment")
            with pytest.raises(Unsupported, match="changed outside an agent"):
                table["a"] = 1

    asyncio.run(run())


async def _read(url: str, ident: str, **topic: Any) -> None:
    """Run an app that reads the topic "shared"."""
    app = create_app(ident, url)
    shared = app.topic("shared", value_serializer="raw", **topic)

    async def idle(stream: faust.StreamT[Any]) -> None:
        async for _ in stream:
            pass

    app.agent(shared)(idle)
    async with running(app):
        await until(lambda: bool(app.consumer.assignment()) or bool(app.crashed), "an assignment")


def test_a_topic_with_another_number_of_partitions_is_refused(url: str, ident: str) -> None:
    """An app that says 8 of a topic that has 4 would place keys where nobody looks for them."""
    asyncio.run(_read(url, f"{ident}-first", partitions=4))
    asyncio.run(_read(url, f"{ident}-same", partitions=4))
    asyncio.run(_read(url, f"{ident}-any"))
    with pytest.raises(Unsupported, match=r"'shared' has 4 partitions, the app gives it 8"):
        asyncio.run(_read(url, f"{ident}-other", partitions=8))


def test_a_topic_is_not_declared_with_another_number_of_partitions(url: str, ident: str) -> None:
    """Declaring what is there with 8 is refused; the app's default number is for topics that are made."""

    async def run() -> None:
        app = create_app(ident, url, topic_partitions=2)
        async with running(app):
            await app.topic("out", partitions=4).declare()
            await app.topic("out").declare()
            with pytest.raises(Unsupported, match=r"'out' has 4 partitions, the app gives it 8"):
                await app.topic("out", partitions=8).declare()

    asyncio.run(run())


def test_publishing_at_the_commit_is_refused(url: str, ident: str) -> None:
    """With exactly_once such a message has no event, so no id by which a repeated one is known."""

    async def run(**settings: Any) -> None:
        app = create_app(ident, url, stream_publish_on_commit=True, **settings)
        app.topic("x")
        await _start(app)

    asyncio.run(run(processing_guarantee="at_least_once"))
    with pytest.raises(Unsupported, match="stream_publish_on_commit"):
        asyncio.run(run())


def test_a_stream_that_is_missing_is_named(url: str, ident: str) -> None:
    """An event log that is not there is found at the start, not when nothing arrives."""
    log = EventLog(topic="log", stream="NOWHERE", subject="x.>", key_token=1, partitions=2)
    with pytest.raises(Unsupported, match="no stream NOWHERE"):
        asyncio.run(_start(create_app(ident, url, logs=[log])))


def test_exactly_once_needs_a_rebalance_to_wait(url: str, ident: str) -> None:
    """With stream_wait_empty off an event could be worked on by two workers at once."""

    async def run() -> None:
        app = create_app(ident, url, stream_wait_empty=False)
        app.topic("x")
        await _start(app)

    with pytest.raises(Unsupported, match="stream_wait_empty"):
        asyncio.run(run())


def test_a_guarantee_that_was_given_away_is_told(url: str, ident: str) -> None:
    """Who looks at the consumer before the app runs has it made without transactions: it is told."""

    async def run() -> None:
        app = create_app(ident, url)
        app.topic("x")
        assert app.consumer is not None
        await _start(app)

    with pytest.raises(Unsupported, match="would not be exactly_once"):
        asyncio.run(run())


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("colour=red", "unknown parameters colour"),
        ("context=nowhere", "no NATS context 'nowhere'"),
        ("dedupe_s=x", "not valid"),
    ],
)
def test_a_broker_url_that_means_nothing_is_refused(url: str, ident: str, query: str, said: str) -> None:
    """A typing error in the URL is an error, not a default."""

    async def run() -> None:
        app = create_app(ident, f"{url}&{query}")
        app.topic("x")
        await _start(app)

    with pytest.raises(Unsupported, match=said):
        asyncio.run(run())
