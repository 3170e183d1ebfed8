"""How long, and with how many bytes, a connection may ask for nothing; uvicorn bounds neither.

uvicorn closes a connection that is silent between two requests. One that sends a byte now and then, at the
head of its first request or of any other, it would keep for ever, and one that sends a head without end
it would hold in memory. Knows nothing of what is asked.
"""

import asyncio
from typing import Final

HEAD_S: Final = 30.0
"""How long a connection may take over the head of a request, the first included, from when it is made or from
the first byte behind the answer before. Half cuts off clients on a bad line, twice keeps twice as many
connections of somebody who only wants to hold them."""
MAX_HEAD_BYTES: Final = 64 * 1024
"""Bytes that may come without a head or a body getting on: all headers of a request, or all behind its body.
Half is what proxies allow at most, twice is memory for every connection. h11 has this bound itself."""

TOO_LARGE: Final = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
)
TOO_SLOW: Final = b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


def bounded(base: type[asyncio.Protocol]) -> type[asyncio.Protocol]:
    """Return uvicorn's protocol `base` with both bounds."""

    class Bounded(base):  # type: ignore[misc, valid-type]  # which one it is depends on what is installed
        _asking: asyncio.TimerHandle | None = None
        _got_on = False
        _idle_bytes = 0

        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            self._hurry()

        def connection_lost(self, exc: Exception | None) -> None:
            self._asked()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            before, self._got_on = self.cycle, False
            super().data_received(data)
            if self.transport.is_closing():
                return
            if self.cycle is not before:
                self._asked()
            elif self._asking is None and self.cycle.response_complete:
                # A head that begins, or what is left of a body that was answered early.
                self._hurry()
            self._idle_bytes = 0 if self._got_on else self._idle_bytes + len(data)
            if self._idle_bytes > MAX_HEAD_BYTES and tells_progress:
                self._refuse(TOO_LARGE)

        def on_headers_complete(self) -> None:
            self._got_on = True
            super().on_headers_complete()

        def on_body(self, body: bytes) -> None:
            self._got_on = True
            super().on_body(body)

        def on_message_complete(self) -> None:
            self._got_on = True
            super().on_message_complete()

        def _hurry(self) -> None:
            self._asking = asyncio.get_running_loop().call_later(HEAD_S, self._too_slow)

        def _asked(self) -> None:
            if self._asking is not None:
                self._asking.cancel()
                self._asking = None

        def _too_slow(self) -> None:
            self._asking = None
            # A connection that was made and never used is closed without a word, as everybody does it.
            self._refuse(TOO_SLOW if self._idle_bytes else b"")

        def _refuse(self, answer: bytes) -> None:
            """Hang up; say why, unless an answer is under way that this would become a part of."""
            if self.cycle is None or self.cycle.response_complete:
                self.transport.write(answer)
            self.transport.close()

    tells_progress = hasattr(base, "on_headers_complete")
    made: type[asyncio.Protocol] = Bounded
    return made
