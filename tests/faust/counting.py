"""An app that counts: every event adds one to its key's row of a table and sends one message on.

Run in process by `app_on`, or as a worker: `python -m faust -A tests.faust.counting worker`.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import faust

from lucid_events.faust_nats import create_app

IN, OUT, TABLE = "numbers", "echoes", "counts"
EVENTS, KEYS = 400, 20


def events(first: int = 0) -> list[tuple[str, int]]:
    """`EVENTS` keys and values, as many of each of `KEYS` keys."""
    return [(f"k{number % KEYS}", number) for number in range(first, first + EVENTS)]


class Counting:
    """The app and its parts."""

    def __init__(self, url: str, ident: str = "counting", *, partitions: int = 4, **settings: Any) -> None:
        self.app = create_app(ident, url, topic_partitions=partitions, **settings)
        number: Any = int  # Faust takes it, its annotations do not say so
        self.numbers = self.app.topic(IN, key_type=str, value_type=number, partitions=partitions)
        self.echoes = self.app.topic(OUT, key_type=str, value_type=number, partitions=partitions)
        self.counts = self.app.Table(TABLE, default=int, key_type=str, value_type=int, partitions=partitions)
        self.agent = self.app.agent(self.numbers)(self._count)

    def works(self) -> bool:
        """Whether it has a part."""
        return bool(self.app.consumer.assignment())

    def counted(self, total: int) -> bool:
        """Whether its table has `total` events, or more."""
        return bool(sum(self.counts.values()) >= total)

    async def _count(self, stream: faust.StreamT[Any]) -> None:
        async for key, value in stream.items():
            self.counts[key] += 1
            await self.echoes.send(key=key, value=value)


def _from_environment() -> faust.App:
    """The worker's app; its settings come from the test that starts it."""
    made = Counting(
        os.environ["COUNTING_URL"],
        partitions=int(os.environ["COUNTING_PARTITIONS"]),
        processing_guarantee=os.environ.get("COUNTING_GUARANTEE", "exactly_once"),
        broker_session_timeout=float(os.environ["COUNTING_SESSION_S"]),
        broker_heartbeat_interval=float(os.environ["COUNTING_SESSION_S"]) / 4,
        broker_commit_interval=0.3,
        stream_buffer_maxsize=512,
    )
    note = os.environ.get("COUNTING_MEMBER")
    if note is not None:
        made.app.on_worker_init.connect(partial(_note_member, Path(note)))
    return made.app


def _note_member(note: Path, app: faust.App, **_: Any) -> None:
    """Leave word of the name under which this process is a member of the group."""
    transport: Any = app.transport
    note.write_text(transport.member)


if "COUNTING_URL" in os.environ:
    app = _from_environment()
