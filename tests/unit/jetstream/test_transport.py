"""`jetstream.transport`: bytes come and go in order, and what waits is bounded."""

import asyncio

import pytest

from lucid_events.jetstream.incoming import BulkParser
from lucid_events.jetstream.transport import BLOCK_BYTES, READ_AHEAD_BYTES, BlockReader, BlockTransport


class Tap(asyncio.Transport):
    """The transport below a reader."""

    def __init__(self) -> None:
        super().__init__()
        self.paused = False

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def is_closing(self) -> bool:
        return False


def a_reader() -> tuple[BlockReader, Tap]:
    """A reader with nothing large on its way, and what is below it."""
    reader, tap = BlockReader(BulkParser(None)), Tap()
    reader.connection_made(tap)
    return reader, tap


def give(reader: BlockReader, data: bytes) -> None:
    """Let the socket give `data`, as the event loop does."""
    while data:
        place = reader.get_buffer(-1)
        count = min(len(place), len(data))
        place[:count] = data[:count]
        del place
        reader.buffer_updated(count)
        data = data[count:]


def test_a_reader_gives_blocks_as_they_came_and_stops_the_socket() -> None:
    """Order and bytes are kept; what waits unread is bounded, and reading goes on once it is gone."""

    async def main() -> None:
        reader, tap = a_reader()
        give(reader, b"INFO {}\r\nrest")
        assert await reader.readline() == b"INFO {}\r\n"
        blocks = [bytes([n]) * BLOCK_BYTES for n in range(READ_AHEAD_BYTES // BLOCK_BYTES)]
        for block in blocks:
            give(reader, block)
        stopped = tap.paused
        reader.eof_received()
        got = [await reader.read() for _ in range(len(blocks) + 1)]
        assert got == [b"rest", *blocks]
        assert (stopped, tap.paused) == (True, False)
        assert reader.at_eof()
        assert await reader.read() == b""

    asyncio.run(main())


def test_a_reader_that_waits_is_woken() -> None:
    """A read that came first gets the block that comes next, the end, or what broke the connection."""

    async def main() -> None:
        reader, _ = a_reader()
        waiting = asyncio.create_task(reader.read())
        await asyncio.sleep(0)
        give(reader, b"x")
        assert await waiting == b"x"
        waiting = asyncio.create_task(reader.read())
        await asyncio.sleep(0)
        reader.eof_received()
        assert await waiting == b""
        reader, _ = a_reader()
        waiting = asyncio.create_task(reader.read())
        await asyncio.sleep(0)
        reader.connection_lost(ConnectionResetError("reset"))
        with pytest.raises(ConnectionResetError, match="reset"):
            await waiting

    asyncio.run(main())


def test_drain_waits_for_the_socket_and_notices_its_loss() -> None:
    """Who writes too fast waits until the socket takes more, and is told when it never will."""

    async def main() -> None:
        reader, _ = a_reader()
        await reader.drain()
        reader.pause_writing()
        waiting = asyncio.create_task(reader.drain())
        await asyncio.sleep(0)
        assert not waiting.done()
        reader.resume_writing()
        await waiting
        reader.pause_writing()
        waiting = asyncio.create_task(reader.drain())
        await asyncio.sleep(0)
        reader.connection_lost(None)
        with pytest.raises(ConnectionResetError):
            await waiting
        await reader.wait_closed()

    asyncio.run(main())


def test_a_transport_without_a_connection_says_so() -> None:
    """Before it is connected nothing can be sent, nothing is there, and closing it is harmless."""

    async def main() -> None:
        transport = BlockTransport(BulkParser(None))
        assert transport, "nats-py puts its own in the place of one that is not true"
        assert transport.at_eof()
        transport.close()
        transport.abort()
        await transport.wait_closed()
        with pytest.raises(ConnectionResetError):
            transport.write(b"x")
        with pytest.raises(ConnectionResetError):
            await transport.drain()

    asyncio.run(main())
