"""nats-py's way in without its copies: what the socket gives is handed on as it came, or read in place.

nats-py appends what it reads to a buffer of its own and cuts each message out of it: a piece of 1.25 MB
is copied seven times. Here a message that is whole in a block is cut out of that, and a large one has
its place before it is there.

    socket ─ transport.BlockReader ─┬─ blocks ─ BulkParser ─┬─ messages whole in a block: cut out of it
                                    │                       ├─ the head of a large message: makes its place
                                    │                       └─ all else: nats-py's own parser
                                    └─ the rest of a large message: into its place
"""

import io
import re
from typing import Final

from nats.protocol.parser import AWAITING_CONTROL_LINE, AWAITING_MSG_PAYLOAD, CRLF_SIZE, Parser

KEEP_BYTES: Final = 64 * 1024
"""A message that lacks this much more is collected; below it, making a place costs more than a copy."""

_LINE: Final = re.compile(rb"(H)?MSG (\S+) (\d+) (?:(\S+) )?(?(1)(\d+) )(\d+)\r\n")
_BEGUN: Final = re.compile(rb"H?(?:M(?:S(?:G(?: [^\n]{0,4000})?)?)?)?")
"""What may become the line of a message. A server takes no line over 4096 bytes."""


class LargeMessage:
    """Place for the bytes of one message and the end of its line."""

    def __init__(self, size: int, header: bytes | None) -> None:
        self.header = header
        self._size, self._at = size + CRLF_SIZE, 0
        # The one way to `bytes` that were not copied: what BytesIO holds becomes what it returns.
        self._file = io.BytesIO()
        self._file.seek(self._size - 1)
        self._file.write(b"\0")
        self._view = self._file.getbuffer()

    @property
    def complete(self) -> bool:
        """Whether every byte is there."""
        return self._at == self._size

    def room(self) -> memoryview:
        """Return the place of what is missing."""
        return self._view[self._at :]

    def fill(self, count: int) -> bool:
        """Say that `count` bytes of `room` are there; True when they were the last."""
        self._at += count
        return self.complete

    def take(self, block: bytes) -> bytes:
        """Copy in what belongs to it of `block`; returns what is behind that."""
        count = min(len(block), self._size - self._at)
        self._view[self._at : self._at + count] = memoryview(block)[:count]
        self._at += count
        return block[count:]

    def payload(self) -> bytes:
        """Return the bytes, all of which must be there; asked once."""
        self._view.release()
        self._file.truncate(self._size - CRLF_SIZE)
        return self._file.getvalue()


class BulkParser(Parser):
    """nats-py's parser, which leaves it the control lines, and what comes in parts that are small.

    Attributes:
        place: the large message that is being collected, None between messages.
    """

    def reset(self) -> None:
        """Forget what has been read."""
        super().reset()
        self.place: LargeMessage | None = None
        self._begun = b""

    async def parse(self, data: bytes = b"") -> None:
        """Take what was read and hand on the messages that are complete."""
        if self.place is not None:
            data = await self._collect(self.place, data)
        elif self._begun:
            data, self._begun = self._begun + data, b""
        if self.state == AWAITING_CONTROL_LINE and not self.buf:
            data = await self._cut_out(data)
        if not data:
            return
        await super().parse(data)
        if self.state == AWAITING_MSG_PAYLOAD and self.needed - len(self.buf) >= KEEP_BYTES:
            self._begin()

    async def _cut_out(self, data: bytes) -> bytes:
        """Hand on the messages in `data`, as far as they are whole; returns what nats-py has to go on with.

        A small one that is not whole waits for the next block, and so does the beginning of its
        line. A line that is not a message's is nats-py's to judge, and no more than that line:
        what it has begun, it has to end, block after block.
        """
        at, size = 0, len(data)
        while at < size:
            line = _LINE.match(data, at)
            if line is None:
                end = data.find(b"\r\n", at) + CRLF_SIZE
                if end < CRLF_SIZE:
                    break
                await super().parse(data[at:end])
                at = end
                if self.state != AWAITING_CONTROL_LINE or self.buf:
                    break
                continue
            with_header, subject, sid, reply, header_size, total = line.groups(b"")
            begin = line.end()
            end = begin + int(total)
            if end + CRLF_SIZE > size:
                if end + CRLF_SIZE - size < KEEP_BYTES:
                    self._begun = data[at:]
                    return b""
                break
            at = end + CRLF_SIZE
            body = begin + int(header_size or 0)
            header = data[begin:body] if with_header else None
            await self.nc._process_msg(int(sid), subject, reply, data[body:end], header)
        rest = data[at:] if at else data
        if self.state == AWAITING_CONTROL_LINE and _BEGUN.fullmatch(rest):
            self._begun = rest
            return b""
        return rest

    def _begin(self) -> None:
        """Make a place for the message, once its headers are there."""
        size = self.header_needed
        if len(self.buf) < size:
            return
        self.place = LargeMessage(self.needed - size, bytes(self.buf[:size]) if size else None)
        self.place.take(bytes(self.buf[size:]))
        self.buf.clear()

    async def _collect(self, large: LargeMessage, block: bytes) -> bytes:
        """Add `block`; hand on the message when it is complete, and return what is behind it."""
        rest = large.take(block)
        if not large.complete:
            return b""
        argument = self.msg_arg
        self.place = None
        self.header_needed, self.state = 0, AWAITING_CONTROL_LINE
        await self.nc._process_msg(
            argument["sid"], argument["subject"], argument["reply"], large.payload(), large.header
        )
        return rest
