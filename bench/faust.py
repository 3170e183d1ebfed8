"""The Faust driver: an agent against a plain pull loop, exactly-once tables, loading of tables.

    python -m bench.faust [--runs 3] [--quick]

Targets: an agent reads at least 0.8 times as fast as nats-py's own pull loop; tables written exactly
once are at least 3 times as fast as at least once, with few keys (most changes of a commit overwrite one
another) and with as many as fill a commit in turn (none does: every change is stored); 100,000 keys load
at 15,000 a second, or 4 times as fast as by Faust's own recovery over the same driver. Also part of
`python -m bench`, as `--only faust`.
"""

import argparse
import asyncio
import logging
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import nats
import uvloop
from nats.js.api import AckPolicy, ConsumerConfig

from bench.bounds import Either
from bench.measure import Outcome, Target, in_turns, table
from lucid_events.faust_nats import create_app, running
from lucid_events.faust_nats.link import Link, Outgoing
from lucid_events.faust_nats.options import Options
from lucid_events.faust_nats.topology import Names, partition
from lucid_events.jetstream.embedded import embedded_server

PARTITIONS, FETCH, BATCH = 4, 256, 900
FEW, MANY = 100, 1000
"""Keys of the measured topics, in turn: `MANY` is where a commit's batch is full before a key comes again."""
DONE_S, LOOK_S = 300.0, 0.005


class Ground:
    """A server and a topic full of messages of `keys` keys; every run is a new app on it."""

    def __init__(self, url: str, events: int, keys: int) -> None:
        self.url, self.events, self.keys, self._runs = url, events, keys, 0
        self.topic = f"measured-{keys}"

    def app(self, **settings: Any) -> Any:
        self._runs += 1
        return create_app(f"{self.topic}-{self._runs}", self.url, topic_partitions=PARTITIONS, **settings)

    async def fill(self) -> None:
        """Put the messages into the topic."""
        link = Link(Options(servers=(self.url,)), "fill")
        await link.open()
        names = Names("faust", "fill")
        app = self.app()
        async with running(app):
            await app.topic(self.topic, partitions=PARTITIONS).declare()
        keys = [f"k{number}".encode() for number in range(self.keys)]
        futures = []
        for number in range(self.events):
            key = keys[number % self.keys]
            subject = names.message(self.topic, partition(key, PARTITIONS), key)
            futures.append(await link.publish(subject, b"%d" % number, {}))
        await asyncio.gather(*futures)
        await link.close()


async def _until(done: Callable[[], bool]) -> None:
    async with asyncio.timeout(DONE_S):
        while not done():  # noqa: ASYNC110 - looked at from outside, as a user would
            await asyncio.sleep(LOOK_S)


async def agent(ground: Ground) -> float:
    """Seconds from the first event an agent receives to the last."""
    app = ground.app()
    topic = app.topic(ground.topic, key_serializer="raw", value_serializer="raw", partitions=PARTITIONS)
    seen, times = [0], [0.0, 0.0]

    async def count(stream: Any) -> None:
        async for _ in stream:
            if not seen[0]:
                times[0] = time.perf_counter()
            seen[0] += 1
            if seen[0] == ground.events:
                times[1] = time.perf_counter()

    app.agent(topic)(count)
    async with running(app):
        await _until(lambda: seen[0] >= ground.events)
    assert seen[0] == ground.events
    return times[1] - times[0]


async def pull_loop(ground: Ground) -> float:
    """Seconds for the same by nats-py: fetch, and acknowledge each."""
    client = await nats.connect(ground.url)
    js = client.jetstream()
    name = f"pull{time.monotonic_ns()}"
    config = ConsumerConfig(ack_policy=AckPolicy.EXPLICIT, max_ack_pending=4 * FETCH)
    stream = f"faust_{ground.topic}"
    subscription = await js.pull_subscribe("faust.topic.>", durable=name, stream=stream, config=config)
    seen, began = 0, 0.0
    while seen < ground.events:
        messages = await subscription.fetch(FETCH, timeout=5)
        began = began or time.perf_counter()
        for message in messages:
            await message.ack()
        seen += len(messages)
    seconds = time.perf_counter() - began
    await js.delete_consumer(stream, name)
    await client.close()
    return seconds


async def tables(ground: Ground, guarantee: str) -> float:
    """Seconds from the first event until every change of a table is stored and committed."""
    app = ground.app(processing_guarantee=guarantee, broker_commit_interval=0.2)
    topic = app.topic(ground.topic, key_serializer="raw", value_serializer="raw", partitions=PARTITIONS)
    counts = app.Table("counts", default=int, key_type=bytes, partitions=PARTITIONS)
    seen, times = [0], [0.0]
    highest: dict[int, int] = {}

    async def count(stream: Any) -> None:
        async for event in stream.events():
            times[0] = times[0] or time.perf_counter()
            counts[event.key] += 1
            highest[event.message.partition] = event.message.offset
            seen[0] += 1

    app.agent(topic)(count)
    async with running(app):
        offsets = app.transport.ledger.offsets

        def committed() -> bool:
            mine = {tp.partition: offset for tp, offset in offsets.items() if tp.topic == ground.topic}
            return all(mine.get(number, 0) > offset for number, offset in highest.items())

        await _until(lambda: seen[0] >= ground.events)
        # What is left of a commit's interval at the end is no cost of an event, on either side.
        while not committed():
            await app.consumer.commit()
            await asyncio.sleep(LOOK_S)
        seconds = time.perf_counter() - times[0]
    assert sum(counts.values()) == ground.events
    return seconds


class Changelog:
    """The state of an app whose table has many keys, written as its commits would."""

    def __init__(self, url: str, keys: int) -> None:
        self.url, self.keys = url, keys
        self._names = Names("faust", "loaded")

    def app(self, store: str) -> tuple[Any, Any]:
        app = create_app("loaded", self.url, store=store, topic_partitions=PARTITIONS)
        topic = app.topic("nothing", partitions=PARTITIONS)
        rows = app.Table("rows", key_type=str, partitions=PARTITIONS)

        async def idle(stream: Any) -> None:
            async for _ in stream:
                raise AssertionError("the topic is empty")

        app.agent(topic)(idle)
        return app, rows

    async def fill(self) -> None:
        app, _ = self.app("jetstream://")
        async with running(app):
            pass
        link = Link(Options(servers=(self.url,)), "fill")
        await link.open()
        batch: list[Outgoing] = []
        for number in range(self.keys):
            key = b'"user-%06d"' % number
            subject = self._names.entry("loaded-rows-changelog", partition(key, PARTITIONS), key)
            batch.append(Outgoing(subject, b'{"count": %d, "name": "somebody"}' % number, {}))
            if len(batch) == BATCH or number == self.keys - 1:
                await link.batch(batch, timeout_s=60)
                batch = []
        await link.close()

    async def load(self, store: str) -> float:
        """Seconds from the assignment of the partitions until the table is ready."""
        app, rows = self.app(store)
        app.in_worker = (
            True  # `running` says so too, which is too late for the consumer that is asked for here
        )
        began: list[float] = []
        taken = app.consumer.take_over

        async def take_over(*args: Any) -> None:
            began.append(time.perf_counter())
            await taken(*args)

        app.consumer.take_over = take_over
        async with running(app):
            await _until(lambda: app.tables.recovery.completed.is_set() and len(rows) == self.keys)
            seconds = time.perf_counter() - began[0]
        return seconds


@asynccontextmanager
async def _server() -> AsyncIterator[str]:
    with tempfile.TemporaryDirectory(prefix="lucid-bench-") as folder:
        async with embedded_server(Path(folder) / "nats", sync_interval="10s") as server:
            yield server.url


async def measure(*, runs: int, quick: bool) -> list[Outcome]:
    """Measure all of them, each in turn with its rival."""
    logging.getLogger().setLevel(logging.ERROR)
    events, keys = (4000, 5000) if quick else (40_000, 100_000)
    found: list[Outcome] = []
    async with _server() as url:
        few, many = Ground(url, events, FEW), Ground(url, events, MANY)

        def on(
            ground: Ground, work: Callable[..., Awaitable[float]], *args: Any
        ) -> Callable[[], Awaitable[float]]:
            return lambda: work(ground, *args)

        for ground in (few, many):
            await ground.fill()
        outcome = Outcome("faust agent", "nats-py pull loop, ack each", Target(least=0.8), events, "/s")
        found.append(await in_turns(outcome, on(few, agent), on(few, pull_loop), runs=runs))
        for ground in (few, many):
            name = f"faust table of {ground.keys:,} keys, exactly once"
            outcome = Outcome(name, "at least once", Target(least=3), events, "/s")
            ours, theirs = on(ground, tables, "exactly_once"), on(ground, tables, "at_least_once")
            found.append(await in_turns(outcome, ours, theirs, runs=runs))
    async with _server() as url:
        changelog = Changelog(url, keys)
        await changelog.fill()
        outcome = Either("faust table load", "Faust's recovery", Target(least=4), keys, "keys/s", rate=15_000)
        found.append(
            await in_turns(
                outcome,
                lambda: changelog.load("jetstream://"),
                lambda: changelog.load("memory://"),
                runs=runs,
            )
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.faust", description=__doc__)
    parser.add_argument("--runs", type=int, default=3, help="runs of each side (default 3)")
    parser.add_argument("--quick", action="store_true", help="small sizes: to see that it works")
    asked = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(table(runner.run(measure(runs=asked.runs, quick=asked.quick))))


if __name__ == "__main__":
    main()
