"""nats-py's transport without its reader: the socket is read into blocks, or straight to where bytes belong.

asyncio's stream reader appends what it reads to a buffer, hands it out 32 KiB at a time and stops the
socket for every 64 KiB of it. Here a block stays what it is. And while a large message is on its way, the
parser says where the rest of it goes, and the socket is read into that place: no copy, and nobody woken
before all of it is there.

Plain TCP and TLS only; a WebSocket brings whole frames anyway.
"""

import asyncio
import ssl
from collections import deque
from typing import Any, Final, Protocol
from urllib.parse import ParseResult

from nats.aio.transport import Transport

BLOCK_BYTES: Final = 256 * 1024
"""Most that one read brings; half shows where many small messages come, twice only holds memory."""
HEAD_BYTES: Final = 4 * 1024
"""Read behind a large message: enough for the head of the next, whose bytes then need no second copy."""
READ_AHEAD_BYTES: Final = 2 * 1024 * 1024
"""What may wait unread, half of it at least before reading goes on: a piece, while the last is parsed."""


class Place(Protocol):
    """Where the rest of a large message belongs."""

    def room(self) -> memoryview:
        """Return where the next bytes go, as long as they are all of it."""
        ...

    def fill(self, count: int) -> bool:
        """Say that `count` bytes of `room` are there; True when they were the last."""
        ...


class Places(Protocol):
    """Who knows whether a large message is on its way: the parser."""

    @property
    def place(self) -> Place | None:
        """What is being collected, None between messages."""
        ...


class BlockReader(asyncio.BufferedProtocol):
    """The socket's end of a connection: what it gave and nobody has read yet, and what it still takes."""

    def __init__(self, places: Places, *, tls: bool = False) -> None:
        self._places, self._tls = places, tls
        self._scratch = memoryview(bytearray(BLOCK_BYTES))
        self._head_follows = False
        self._filling: Place | None = None
        self._blocks: deque[bytes] = deque()
        self._held = 0
        self._transport: Any = None
        self._paused = self._ended = False
        self._lost: Exception | None = None
        self._arrived = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._closed = asyncio.Event()

    # called by the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = transport

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where the next bytes go: into a large message, when nothing else is before them."""
        self._filling = None if self._blocks else self._places.place
        if self._filling is not None:
            return self._filling.room()
        return self._scratch[: HEAD_BYTES if self._head_follows else BLOCK_BYTES]

    def buffer_updated(self, nbytes: int) -> None:
        """Take what was read, and pause the socket when too much waits."""
        filling, self._filling = self._filling, None
        if filling is None:
            self.feed(bytes(self._scratch[:nbytes]))
            if self._head_follows:
                self._pause()  # or the bytes behind the head would be read before their place is known
            self._head_follows = False
        elif filling.fill(nbytes):
            self._head_follows = True
            self.feed(b"")  # nothing more to read, but the parser has something to hand on
            self._pause()

    def feed(self, block: bytes) -> None:
        """Let `block` be read."""
        self._blocks.append(block)
        self._held += len(block)
        self._arrived.set()
        if self._held > READ_AHEAD_BYTES:
            self._pause()

    def _pause(self) -> None:
        """Leave the socket alone until what waits is read."""
        if not self._paused and self._transport is not None:
            self._transport.pause_reading()
            self._paused = True

    def eof_received(self) -> bool:
        """Note the end; what is to be written still goes out, except over TLS, which can't."""
        self._ended = True
        self._arrived.set()
        return not self._tls

    def connection_lost(self, exc: Exception | None) -> None:
        """Wake whoever waits for the socket."""
        self._ended, self._lost = True, exc
        for waited in (self._arrived, self._writable, self._closed):
            waited.set()

    def pause_writing(self) -> None:
        """Let `drain` wait."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """Let `drain` return."""
        self._writable.set()

    # called by the transport

    @property
    def waiting(self) -> bool:
        """Whether a read returns at once because something is there."""
        return bool(self._blocks)

    async def read(self) -> bytes:
        """Return the next block, nothing at the end of the stream, or when a large message is complete.

        Raises:
            OSError: the connection broke.
        """
        if self._lost is not None:
            raise self._lost
        while not self._blocks:
            if self._ended:
                return b""
            self._arrived.clear()
            await self._arrived.wait()
            if self._lost is not None:
                raise self._lost
        block = self._blocks.popleft()
        self._held -= len(block)
        if self._paused and self._held <= READ_AHEAD_BYTES // 2:
            self._paused = False
            self._transport.resume_reading()
        return block

    async def readline(self) -> bytes:
        """Return what comes up to the end of a line; what is behind it stays."""
        line = bytearray()
        while block := await self.read():
            end = block.find(b"\n") + 1
            line += block[:end] if end else block
            if end:
                if rest := block[end:]:
                    self._blocks.appendleft(rest)
                    self._held += len(rest)
                break
        return bytes(line)

    def at_eof(self) -> bool:
        """Return whether nothing is there and nothing will come."""
        return self._ended and not self._blocks

    async def drain(self) -> None:
        """Return when little enough waits to be written.

        Raises:
            OSError: the connection is lost.
        """
        if self._transport.is_closing():
            await asyncio.sleep(0)  # a lost connection is told in the next round of the loop
        await self._writable.wait()
        if self._closed.is_set():
            raise self._lost or ConnectionResetError("connection lost")

    async def wait_closed(self) -> None:
        """Return when the connection is gone."""
        await self._closed.wait()


class BlockTransport(Transport):
    """nats-py's TCP and TLS, read by a `BlockReader`."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._reader: BlockReader | None = None
        self._socket: Any = None
        self._bare: Any = None

    async def connect(self, uri: ParseResult, buffer_size: int, connect_timeout: int) -> None:
        """Connect to `uri`."""
        loop = asyncio.get_running_loop()
        reader = BlockReader(self._places)
        async with asyncio.timeout(connect_timeout):
            transport, _ = await loop.create_connection(lambda: reader, uri.hostname or "", uri.port or 0)
        self._reader, self._socket, self._bare = reader, transport, transport

    async def connect_tls(
        self,
        uri: str | ParseResult,
        ssl_context: ssl.SSLContext,
        buffer_size: int,
        connect_timeout: int,
    ) -> None:
        """Go on in TLS on the connection there is."""
        loop = asyncio.get_running_loop()
        reader = BlockReader(self._places, tls=True)
        async with asyncio.timeout(connect_timeout):
            transport: Any = await loop.start_tls(
                self._socket,
                reader,
                ssl_context,
                server_hostname=uri if isinstance(uri, str) else uri.hostname,
            )
        reader.connection_made(transport)
        # The bare transport is kept: without a reference the collector would close the socket.
        self._reader, self._socket = reader, transport

    def write(self, payload: bytes) -> None:
        """Send `payload` as soon as the socket takes it."""
        self._connected.write(payload)

    def writelines(self, payload: Any) -> None:
        """Send the parts of `payload` one after another, none of them copied."""
        self._connected.writelines(payload)

    async def read(self, buffer_size: int) -> bytes:
        """Return the next block, whatever size is asked for."""
        return await self._end.read()

    async def readline(self) -> bytes:
        """Return the next line."""
        return await self._end.readline()

    async def drain(self) -> None:
        """Return when little enough waits to be written."""
        await self._end.drain()

    async def wait_closed(self) -> None:
        """Return when the connection is gone."""
        if self._reader is not None:
            await self._reader.wait_closed()

    def close(self) -> None:
        """Close the connection when all is written."""
        if self._socket is not None:
            self._socket.close()

    def abort(self) -> None:
        """Close the connection at once; what is unsent is dropped."""
        if self._bare is not None:
            self._bare.abort()

    def at_eof(self) -> bool:
        """Return whether nothing is there and nothing will come."""
        return self._reader is None or self._reader.at_eof()

    def __bool__(self) -> bool:
        """Return True, before there is a connection, too: nats-py replaces a transport that is not true."""
        return True

    @property
    def _end(self) -> BlockReader:
        if self._reader is None:
            raise ConnectionResetError("not connected yet")
        return self._reader

    @property
    def _connected(self) -> Any:
        if self._socket is None:
            raise ConnectionResetError("not connected yet")
        return self._socket
