"""Reading and writing file descriptors from the event loop, without threads and without O_NONBLOCK.

O_NONBLOCK belongs to the open file, which standard input shares with the shell that started us, and
in a terminal with our own standard output: setting it there breaks both. So the loop says when a
descriptor is ready, and one plain read of what is there follows, which can't block.
"""

import asyncio
import contextlib
import errno
import fcntl
import os
import select
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager

PIPE_BYTES = 1024 * 1024
"""Size asked of pipes we read and most of one read. At half a fast producer waits for us more often;
twice is over what an unprivileged process may ask for."""

_F_SETPIPE_SZ = getattr(fcntl, "F_SETPIPE_SZ", None)


def widen(fd: int) -> None:
    """Ask for a pipe of `PIPE_BYTES`, where the system has such a thing and grants it."""
    if _F_SETPIPE_SZ is not None:
        with contextlib.suppress(OSError):
            fcntl.fcntl(fd, _F_SETPIPE_SZ, PIPE_BYTES)


def can_wait(fd: int) -> bool:
    """Return whether the loop can wait for `fd`; regular files are always ready, so it can't."""
    return not stat.S_ISREG(os.fstat(fd).st_mode)


async def read_ready(fd: int, limit: int = PIPE_BYTES, *, terminal: bool = False) -> bytes:
    """Return what is there, waiting for the first byte; `b""` at the end.

    Cancelled while it waits, it has read nothing.

    Args:
        terminal: `fd` is one, or the program's side of one: gone with whoever was at its other end.

    Raises:
        OSError: it can't be read.
    """
    if not _ready(fd, select.POLLIN):
        await _wait(fd, reading=True)
    else:
        await asyncio.sleep(0)  # a producer that is always ahead must not starve the other tasks
    try:
        return os.read(fd, limit)
    except OSError as exc:
        # What Linux says of a terminal whose other end has gone; of a disk it is what it says.
        if terminal and exc.errno == errno.EIO:
            return b""
        raise


async def write_all(fd: int, data: bytes) -> None:
    """Write all of `data`, waiting whenever `fd` takes no more; `fd` must be non-blocking."""
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(fd, rest) :]
        except BlockingIOError:
            await _wait(fd, reading=False)


def _ready(fd: int, events: int) -> bool:
    poll = select.poll()
    poll.register(fd, events)
    return bool(poll.poll(0))


async def _wait(fd: int, *, reading: bool) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not ready.done():
            ready.set_result(None)

    if not reading:
        loop.add_writer(fd, wake)
        try:
            await ready
        finally:
            loop.remove_writer(fd)
        return
    with _stand_in(fd) as watched:
        loop.add_reader(watched, wake)
        try:
            await ready
        finally:
            loop.remove_reader(watched)


@contextmanager
def _stand_in(fd: int) -> Iterator[int]:
    """Give a descriptor that is readable when `fd` is: uvloop sets O_NONBLOCK on whatever it watches."""
    if sys.platform != "linux":
        yield fd
        return
    with select.epoll() as poll:
        poll.register(fd, select.EPOLLIN)
        yield poll.fileno()
