"""An app that stops: in order while it can, and in bounded time when it can't."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import faust
import pytest
from faust.types import TP

from lucid_events.faust_nats import create_app, running
from tests.faust.waiting import WAIT_S, until

ROOT = Path(__file__).parents[2]
GIVEN_UP_S = 30.0


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


@pytest.mark.parametrize("guarantee", ["exactly_once", "at_least_once"])
def test_an_event_that_a_stop_cuts_off_is_repeated(url: str, ident: str, guarantee: str) -> None:
    """It costs a stop the time of a rebalance, however often Faust asks; the next start has it again."""
    allowed_s = 2.0
    seen: list[str] = []

    async def once(*, ends: bool) -> None:
        app = create_app(
            ident, url, topic_partitions=1, broker_rebalance_timeout=allowed_s, processing_guarantee=guarantee
        )
        topic = app.topic("words", key_type=str, value_type=str, partitions=1)
        begun = asyncio.Event()

        async def see(stream: faust.StreamT[Any]) -> None:
            async for word in stream:
                seen.append(word)
                begun.set()
                if not ends:
                    await asyncio.Event().wait()

        app.agent(topic)(see)
        loop = asyncio.get_running_loop()
        async with running(app):
            if not ends:
                await topic.send(key="a", value="b")
            await asyncio.wait_for(begun.wait(), WAIT_S)
            began = loop.time()
        if not ends:
            assert allowed_s <= loop.time() - began < 1.75 * allowed_s

    asyncio.run(once(ends=False))
    asyncio.run(once(ends=True))
    assert seen == ["b", "b"]


def test_an_event_that_ends_after_a_rebalance_is_repeated(url: str, ident: str) -> None:
    """Its first handling ends when it is here again: only the second one counts, and is committed."""

    async def run() -> None:
        app = create_app(
            ident, url, topic_partitions=1, broker_rebalance_timeout=1.0, broker_commit_interval=0.1
        )
        topic = app.topic("words", key_type=str, value_type=str, partitions=1)
        seen: list[str] = []
        may_end = [asyncio.Event(), asyncio.Event()]

        async def see(stream: faust.StreamT[Any]) -> None:
            async for word in stream:
                seen.append(word)
                await may_end[len(seen) - 1].wait()

        app.agent(topic)(see)
        async with running(app):
            own, taken = cast(Any, app.transport), cast(Any, app.consumer)
            place = TP("words", 0)
            sent = await (await topic.send(key="a", value="b"))
            await until(lambda: len(seen) == 1, "the event in hand")
            parts = [(tp.topic, [tp.partition]) for tp in taken.assignment()]
            await taken.let_go()
            may_end[0].set()
            await taken.take_over(app.consumer_generation_id + 1, parts)
            await until(lambda: len(seen) == 2, "the event again")
            await taken.commit()
            assert own.ledger.offsets[place] <= sent.offset
            may_end[1].set()
            await until(lambda: own.ledger.offsets[place] > sent.offset, "a commit")

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
