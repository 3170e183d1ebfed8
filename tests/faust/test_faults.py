"""Apps whose server, or agent, or place in the group goes: they go on by themselves, or say what to do."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from typing import Any

import pytest
from faust.types import TP

from lucid_events.faust_nats import Fenced, Unavailable, crashed, create_app, producer, running
from lucid_events.faust_nats.ledger import Ledger
from tests.faust.counting import EVENTS, KEYS, OUT, Counting, events
from tests.faust.waiting import WAIT_S, until
from tests.faust.workers import Truth, connect
from tests.nats_server import NatsServer


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
                await truth.send(events())
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
                await truth.send(events(number * EVENTS))
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


@pytest.mark.parametrize("way", ["values", "items"])
def test_an_agent_that_raised_goes_on_with_the_next_event(url: str, ident: str, way: str) -> None:
    """What is left of the iteration that was broken off, whenever it is collected, ends no later one."""

    async def run() -> None:
        app = create_app(ident, url, topic_partitions=1, broker_commit_interval=0.1)
        number: Any = int
        topic = app.topic("words", key_type=str, value_type=number, partitions=1)
        seen: list[int] = []
        broken: list[Any] = []

        async def see(stream: Any) -> None:
            async for given in stream if way == "values" else stream.items():
                value = given if way == "values" else given[1]
                if value == 5:
                    broken.extend(stream._active_agens)
                    raise ValueError("out of order")
                seen.append(value)
                if value == 10:
                    broken.clear()
                    gc.collect()
                    await asyncio.sleep(0.05)  # in which the collected one would end this one

        app.agent(topic)(see)
        async with running(app):
            own: Any = app.transport
            for value in range(20):
                sent = await (await topic.send(key="a", value=value))
            await until(lambda: len(seen) == 19, "all the others")
            await until(lambda: own.ledger.offsets[TP("words", 0)] > sent.offset, "a commit")
        assert seen == [value for value in range(20) if value != 5]

    asyncio.run(run())


def test_a_topic_that_can_not_be_looked_up_for_a_moment_costs_no_event(
    server: NatsServer, url: str, ident: str
) -> None:
    """The first message to a topic waits for a server that is away, as every later one does."""

    async def run() -> None:
        client = await connect(server.url)
        truth = Truth(client, ident, 4, prefix=ident)
        await truth.create_input()
        made = Counting(url, ident, broker_commit_interval=0.1)
        missed = _lose_look_ups(made, 2)
        async with running(made.app):
            await truth.send(events())
            await until(lambda: made.counted(EVENTS), "all events counted")
        assert missed == [OUT, OUT]
        assert await truth.counts() == Counter({f"k{key}": EVENTS // KEYS for key in range(KEYS)})
        assert await truth.echoes() == Counter(events())
        await client.close()

    asyncio.run(run())


def test_an_event_whose_message_can_not_be_sent_is_repeated(
    server: NatsServer, url: str, ident: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The app ends before the event counts as done, although Faust lets it pass; a restart has it again."""
    monkeypatch.setattr(producer, "GIVE_UP_S", 0.0)

    async def run() -> None:
        client = await connect(server.url)
        truth = Truth(client, ident, 4, prefix=ident)
        await truth.create_input()
        await truth.send(events())
        made = Counting(url, ident, broker_commit_interval=0.1)
        _lose_look_ups(made, 1)
        with pytest.raises(Unavailable, match="gone for a moment"):
            async with running(made.app):
                await asyncio.wait_for(crashed(made.app), WAIT_S)
        assert not await truth.counts()
        again = Counting(url, ident, broker_commit_interval=0.1)
        async with running(again.app):
            await until(lambda: again.counted(EVENTS), "all events counted")
        assert await truth.counts() == Counter({f"k{key}": EVENTS // KEYS for key in range(KEYS)})
        assert await truth.echoes() == Counter(events())
        await client.close()

    asyncio.run(run())


def _lose_look_ups(made: Counting, count: int) -> list[str]:
    """Let the first `count` look-ups of the output topic fail; returns a list of those that did."""
    catalog: Any = made.app.transport
    ask = catalog.catalog._ask
    missed: list[str] = []

    async def failing(topic: str) -> int | None:
        if topic == OUT and len(missed) < count:
            missed.append(topic)
            raise Unavailable("gone for a moment")
        return await ask(topic)  # type: ignore[no-any-return]

    catalog.catalog._ask = failing
    return missed
