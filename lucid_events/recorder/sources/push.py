"""Bytes that somebody hands over, block by block, as a source."""

from lucid_events.errors import ConfigError
from lucid_events.recorder.waiting import Signal


class Refused(Exception):
    """The block was not taken, nor any part of it: the recorder reads nothing more for now."""


class PushSource:
    """Hands what `write` is given to the recorder, one block at a time; one task writes.

    It holds no queue: a writer waits while the recorder has no room, so the pressure of a slow
    server reaches whoever produces the bytes.

    Args:
        content_type: empty when nobody says; then the session keeps the one it has.

    Attributes:
        taking: whether a block would be taken, sooner or later; None before the recorder has begun.
    """

    resumable = True
    """Whoever pushes is asked to begin at the offset the session has."""
    exit_code: int | None = None

    def __init__(self, name: str, *, content_type: str = "") -> None:
        self.name, self.content_type = name, content_type
        self.taking: bool | None = None
        self._block: bytes | None = None
        self._taken = self._stopped = False
        self._moved = Signal()

    async def write(self, block: bytes) -> None:
        """Return when the recorder has taken `block` in, in the order of the calls.

        Cancelled, the block is either taken whole or not at all; the recorder's offset tells, `settled`.

        Raises:
            Refused: the session is paused, or has ended.
        """
        if self.taking is False:
            raise Refused
        self._block = block
        self._moved.notify()
        try:
            await self._moved.until(lambda: self.taking is False or self._held)
            if self._block is not None:
                raise Refused
        finally:
            self._block = None

    async def settled(self) -> None:
        """Return once no block is between us and the recorder, as one is whose writer was cancelled."""
        await self._moved.until(lambda: self.taking is False or self._held)

    async def start(self) -> None:
        """Nothing to start: the first block is asked for once the session is active."""

    async def read(self) -> bytes:
        """Return the next block; asking for it says that the one before is held by the recorder."""
        self._taken = False
        self._moved.notify()
        await self._moved.until(lambda: self._block is not None or self._stopped)
        if self._block is None:
            return b""
        block, self._block, self._taken = self._block, None, True
        return block

    async def seek(self, offset: int) -> None:
        """Begin at any offset: whoever pushes is told it.

        Raises:
            ConfigError: never; the offset is the pusher's to obey.
        """
        if offset < 0:
            raise ConfigError(f"offset {offset} is no place in a session", offset=offset)

    async def pause(self) -> None:
        """Take nothing; a writer that waits is refused."""
        self._halt()

    async def resume(self) -> None:
        """Take blocks again."""
        self.taking = not self._stopped

    async def stop(self) -> None:
        """Take no more; `read` gives the end."""
        self._stopped = True
        self._halt()

    async def close(self) -> None:
        """Take no more."""
        await self.stop()

    @property
    def _held(self) -> bool:
        """Whether the last block is held by the recorder."""
        return self._block is None and not self._taken

    def _halt(self) -> None:
        self.taking = self._taken = False
        self._moved.notify()
