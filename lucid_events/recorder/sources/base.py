"""What the recorder asks of a source of bytes, whatever produces them."""

from typing import Protocol, runtime_checkable

from lucid_events.domain.values import Frames


class Source(Protocol):
    """Produces one stream of bytes, read by one task at a time."""

    name: str
    """What is recorded, for people: a path, a command line."""
    content_type: str
    resumable: bool
    """Whether `seek` can go to any offset, so that a restarted recorder reads on where capture ends."""

    @property
    def exit_code(self) -> int | None:
        """What the producing program ended with, once it has; None when there is none."""
        ...

    async def start(self) -> None:
        """Begin to produce. Called once, after `seek`."""
        ...

    async def read(self) -> bytes:
        """Return the next bytes, `b""` at the end.

        May be cancelled while it waits, and then loses nothing: the next call returns the bytes
        this one would have returned.
        """
        ...

    async def seek(self, offset: int) -> None:
        """Make `offset` of the session the first byte that `read` returns.

        Raises:
            ConfigError: the source can't begin there.
        """
        ...

    async def pause(self) -> None:
        """Take nothing in until `resume`; nobody reads meanwhile."""
        ...

    async def resume(self) -> None:
        """Take in again."""
        ...

    async def stop(self) -> None:
        """Ask the producer to end. `read` still returns what it produces on the way, then `b""`."""
        ...

    async def close(self) -> None:
        """Give everything back, at once and whatever the state. Repeating is harmless."""
        ...


@runtime_checkable
class CountsFrames(Protocol):
    """A source of video that knows how many frames it delivered and dropped so far."""

    frames: Frames


class NoSource:
    """No bytes at all: what drains a spool after its recorder is gone."""

    name = "spool"
    content_type = ""
    resumable = True
    exit_code: int | None = None

    async def start(self) -> None:
        """Nothing begins."""

    async def read(self) -> bytes:
        """Return the end."""
        return b""

    async def seek(self, offset: int) -> None:
        """Any offset will do."""

    async def pause(self) -> None:
        """Nothing to hold back."""

    async def resume(self) -> None:
        """Nothing to let go."""

    async def stop(self) -> None:
        """Nothing to end."""

    async def close(self) -> None:
        """Nothing to give back."""
