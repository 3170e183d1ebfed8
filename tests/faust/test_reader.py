"""The ordered reader: every message once, in order, whatever breaks on the way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from nats.aio.msg import Msg

from lucid_events.faust_nats.link import Link
from lucid_events.faust_nats.options import Options
from lucid_events.faust_nats.reader import BUFFER, Reader
from tests.faust.waiting import until
from tests.nats_server import NatsServer

COUNT = 3000


class Taken:
    """What a reader handed over; `limit` is how much it may have in hand."""

    def __init__(self) -> None:
        self.sequences: list[int] = []
        self.limit = 10**9

    def take(
        self, subject: str, headers: Mapping[str, str] | None, data: bytes, sequence: int, stored: float
    ) -> None:
        self.sequences.append(sequence)

    def room(self) -> int:
        return min(BUFFER, self.limit - len(self.sequences))


@asynccontextmanager
async def _reading(
    server: NatsServer, ident: str, first: int = 1
) -> AsyncIterator[tuple[Link, Reader, Taken]]:
    link = Link(Options(servers=(server.url,)), "test")
    await link.open()
    taken = Taken()
    reader = Reader(link, ident, f"{ident}.a", first=first, take=taken.take, room=taken.room)
    try:
        await link.api(f"STREAM.CREATE.{ident}", {"name": ident, "subjects": [f"{ident}.*"]})
        yield link, reader, taken
    finally:
        await reader.aclose()
        await link.close()


async def _send(link: Link, ident: str, count: int) -> list[int]:
    """Send `count` messages to each of two subjects, in turn; returns the first one's sequences.

    As they were stored: a publish that had to be repeated, because a busy machine took the connection
    for dead, stands behind later ones.
    """
    sent = [await link.publish(f"{ident}.{part}", b"x", {}) for _ in range(count) for part in "ab"]
    acks = await asyncio.gather(*sent)
    return sorted(ack.seq for ack in acks[::2])


def test_everything_on_the_filter_comes_in_order(server: NatsServer, ident: str) -> None:
    """Messages before the start and on other subjects are left out, all others come once, in order."""

    async def run() -> None:
        async with _reading(server, ident, first=100) as (link, reader, taken):
            expected = [sequence for sequence in await _send(link, ident, COUNT) if sequence >= 100]
            reader.start()
            await until(lambda: len(taken.sequences) >= len(expected), "all messages")
            assert taken.sequences == expected

    asyncio.run(run())


def test_a_lost_message_is_noticed_and_read_again(server: NatsServer, ident: str) -> None:
    """A gap in the consumer's own count makes the reader begin anew behind the last message."""

    async def run() -> None:
        async with _reading(server, ident) as (link, reader, taken):
            expected = await _send(link, ident, 500)
            lost = 3
            receive = reader._on_message

            async def lossy(message: Msg) -> None:
                nonlocal lost
                if lost and message.data and len(taken.sequences) >= 100:
                    lost -= 1
                    return
                await receive(message)

            reader._on_message = lossy  # type: ignore[method-assign]  # the network, losing messages
            reader.start()
            await until(lambda: len(taken.sequences) >= 500, "all messages")
            assert taken.sequences == expected
            assert reader.reopened >= 1

    asyncio.run(run())


def test_a_restart_of_the_server_loses_and_repeats_nothing(server: NatsServer, ident: str) -> None:
    """The consumer lives in memory and dies with the server; reading goes on behind the last message."""

    async def run() -> None:
        async with _reading(server, ident) as (link, reader, taken):
            reader.start()
            expected: list[int] = []
            for _ in range(2):
                expected += await _send(link, ident, 200)
                await asyncio.to_thread(server.restart)
            expected += await _send(link, ident, 200)
            await until(lambda: len(taken.sequences) >= 600, "all messages")
            assert taken.sequences == expected

    asyncio.run(run())


def test_nothing_is_read_ahead_without_room(server: NatsServer, ident: str) -> None:
    """A partition that is not consumed holds a buffer full, not the stream."""

    async def run() -> None:
        async with _reading(server, ident) as (link, reader, taken):
            await _send(link, ident, COUNT)
            taken.limit = BUFFER
            reader.start()
            await until(lambda: len(taken.sequences) >= BUFFER, "a buffer full")
            await link.api("INFO")
            assert len(taken.sequences) == BUFFER
            taken.limit = 10**9
            reader.more()
            await until(lambda: len(taken.sequences) >= COUNT, "the rest")

    asyncio.run(run())
