"""What the driver refuses at the start, and that it says why."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import faust
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
