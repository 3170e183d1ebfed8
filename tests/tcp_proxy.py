"""A port in front of a server, with a network between them that does what it is told.

It knows where one message to the client ends and the next begins, so it can lose whole messages
and leave the connection standing, which no packet filter can.
"""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

BLOCK = 64 * 1024
LOOPBACK = "127.0.0.1"

_CARRIES_BODY = (b"MSG ", b"HMSG ")
_BROKEN = (OSError, asyncio.IncompleteReadError)


class TcpProxy:
    """Forwards every connection to `upstream` on loopback.

    Attributes:
        loss: share of the messages to the client that vanish; what keeps the connection alive passes.
        muted: nothing at all reaches the client; what it sends still arrives.
        delay_s: each block of bytes is so much late, in both directions.
        refusing: new connections are closed at once.
        lost: messages that have vanished so far.
        accepted: connections made so far.
    """

    def __init__(self, upstream: int, rng: random.Random) -> None:
        self._upstream, self._rng = upstream, rng
        self.port = 0
        self.loss = 0.0
        self.muted = False
        self.delay_s = 0.0
        self.refusing = False
        self.lost = 0
        self.accepted = 0
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._served: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"nats://{LOOPBACK}:{self.port}"

    @property
    def standing(self) -> int:
        """Connections that the client has not closed."""
        return len(self._served)

    def freeze(self) -> None:
        """Let nothing through, and let neither side know: connections stand half open."""
        self._flowing.clear()

    def thaw(self) -> None:
        """Let what was held back go on."""
        self._flowing.set()

    def cut(self) -> None:
        """Break every connection; what is on the way is gone."""
        for writer in list(self._writers):
            writer.transport.abort()

    def heal(self) -> None:
        """Be a sound network again. Connections that lost a part of a message are broken first."""
        self.loss, self.delay_s, self.refusing = 0.0, 0.0, False
        if self.muted:
            self.muted = False
            self.cut()
        self.thaw()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward one connection until either side ends it."""
        task = asyncio.current_task()
        assert task is not None
        self._served.add(task)
        self._writers.add(writer)
        self.accepted += 1
        up: asyncio.StreamWriter | None = None
        try:
            if self.refusing:
                return
            upstream, up = await asyncio.open_connection(LOOPBACK, self._upstream, limit=4 * 1024 * 1024)
            self._writers.add(up)
            both = [
                asyncio.create_task(self._requests(reader, up)),
                asyncio.create_task(self._replies(upstream, writer)),
            ]
            try:
                await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in both:
                    pump.cancel()
                await asyncio.gather(*both, return_exceptions=True)
        except OSError:
            pass  # the server is away: the client finds the connection closed
        finally:
            for end in (writer, up):
                if end is not None:
                    self._writers.discard(end)
                    end.transport.abort()
            self._served.discard(task)

    async def _requests(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(*_BROKEN):
            while block := await reader.read(BLOCK):
                await self._forward(block, writer)

    async def _replies(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(*_BROKEN):
            while True:
                frame = await reader.readuntil(b"\r\n")
                carries = frame.startswith(_CARRIES_BODY)
                if carries:
                    frame += await reader.readexactly(int(frame.split()[-1]) + 2)
                if self.muted or (carries and self._rng.random() < self.loss):
                    self.lost += 1
                    continue
                await self._forward(frame, writer)

    async def _forward(self, block: bytes, writer: asyncio.StreamWriter) -> None:
        await self._flowing.wait()
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        writer.write(block)
        await writer.drain()

    async def close(self) -> None:
        """End every connection."""
        self.refusing = True
        self.cut()
        self.thaw()
        await asyncio.gather(*self._served, return_exceptions=True)


@asynccontextmanager
async def tcp_proxy(upstream: int, rng: random.Random) -> AsyncIterator[TcpProxy]:
    """Run a proxy in front of port `upstream` for the time of the context."""
    proxy = TcpProxy(upstream, rng)
    server = await asyncio.start_server(proxy.serve, LOOPBACK, 0, limit=4 * 1024 * 1024)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        await proxy.close()
