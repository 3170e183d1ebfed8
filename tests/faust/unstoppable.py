"""An app that can't be stopped in order, in a process of its own: what it leaves in its loop hangs no test.

`python -m tests.faust.unstoppable (held | lost) URL IDENT` prints what the user of the app is told, then
lets asyncio.run clean up, and ends.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from lucid_events.faust_nats import Unavailable, running
from lucid_events.faust_nats import app as app_module
from tests.faust.counting import Counting
from tests.faust.waiting import until

EVENTS = 400
STOP_S = 0.5


async def held(url: str, ident: str) -> None:
    """A part of the app never stops."""
    app_module.STOP_S = STOP_S  # type: ignore[misc]  # of this process alone
    made = Counting(url, ident, broker_rebalance_timeout=STOP_S)
    try:
        async with running(made.app):
            await until(lambda: bool(made.app.consumer.assignment()), "an assignment")
            producer: Any = made.app.producer
            producer.flush = asyncio.Event().wait
    except Unavailable as exc:
        sys.stdout.write(f"{exc}\n")
        sys.stdout.flush()


async def lost(url: str, ident: str) -> None:
    """The loop ends under the app, with events in hand: asyncio.run cancels every task."""
    made = Counting(url, ident)
    async with running(made.app):
        await until(lambda: bool(made.app.consumer.assignment()), "an assignment")
        for number in range(EVENTS):
            await made.numbers.send(key=f"k{number % 20}", value=number)
        await until(lambda: sum(made.counts.values()) > 0, "events in hand")
        asyncio.get_running_loop().stop()
        await asyncio.Event().wait()


if __name__ == "__main__":
    which, *rest = sys.argv[1:]
    try:
        asyncio.run({"held": held, "lost": lost}[which](*rest))
    except RuntimeError as exc:
        sys.stdout.write(f"{exc}\n")
