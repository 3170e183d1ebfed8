"""A program under a pseudo-terminal as a source, in asciicast v2.

The user's terminal, when there is one, is put into raw mode and passed through; the recording
begins, pauses and ends without the user's program noticing anything. When the user's terminal is
closed, the program is hung up, as it would be without us.
"""

import asyncio
import contextlib
import fcntl
import logging
import os
import pty
import shlex
import signal
import struct
import termios
import time
import tty
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from lucid_events.errors import ConfigError
from lucid_events.recorder.sources import asciicast, descriptors
from lucid_events.recorder.sources.processes import HANG_UP, Child, StopSteps

_log = logging.getLogger(__name__)

BUFFER_BYTES = 1024 * 1024
"""Lines waiting to be read. A full buffer holds the program back, as a slow terminal would, and what is
typed with it when that is recorded too. Half stalls a listing that scrolls by, twice only costs memory."""
READ_BYTES = 64 * 1024
END_OF_INPUT = b"\x04"
"""What a user types to end input (Ctrl-D)."""
LAST_WORDS_S = 2.0
"""How long a terminal whose program has been stopped may take to end."""


class TerminalSource:
    """Runs `argv` (the user's shell by default) under a pseudo-terminal; the recording is an asciicast.

    Pausing does not hold the program back: what it writes is shown and not recorded, and the
    playback clock stands still.

    Args:
        columns, rows: size of a terminal without a screen; a real one's size wins.
        user_in, user_out: descriptors to forward from and to; None for none. A terminal is put
            into raw mode, anything else is typed in as it comes, then input ends.
        record_input: also record what is typed. Off by default: people type passwords.
        wall, monotonic: clocks.

    `shown_bytes` counts what the program wrote, recorded or not; `buffered_bytes` wait to be read.
    `hung_up`: the user's terminal was closed, so the program ended because it was told to.
    """

    content_type = asciicast.CONTENT_TYPE
    resumable = False

    def __init__(
        self,
        argv: Sequence[str] = (),
        *,
        columns: int = 80,
        rows: int = 24,
        user_in: int | None = None,
        user_out: int | None = None,
        record_input: bool = False,
        title: str = "",
        env: Mapping[str, str] | None = None,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        stop_steps: StopSteps = HANG_UP,
    ) -> None:
        self._env = dict(os.environ if env is None else env)
        self.argv = tuple(argv) or (self._env.get("SHELL", "/bin/sh"),)
        self.name = shlex.join(self.argv)[:200]
        self._size = (columns, rows)
        self._user_in, self._user_out, self._record_input = user_in, user_out, record_input
        self._title, self._wall, self._monotonic, self._stop_steps = title, wall, monotonic, stop_steps
        self._cast: asciicast.Cast | None = None
        self._child: Child | None = None
        self._master: int | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._output: asyncio.Task[None] | None = None
        self._stopping: asyncio.Task[None] | None = None
        self._saved: list[Any] | None = None
        self._lines: deque[bytes] = deque()
        self.buffered_bytes = 0
        self.shown_bytes = 0
        self.hung_up = False
        self._moved = asyncio.Event()
        self._paused_size: tuple[int, int] | None = None

    @property
    def exit_code(self) -> int | None:
        """What the program ended with; 128 + the signal's number when a signal ended it."""
        return self._child.exit_code if self._child else None

    async def seek(self, offset: int) -> None:
        """Only the beginning will do: a second header in one file would not play.

        Raises:
            ConfigError: the session has bytes already.
        """
        if offset:
            raise ConfigError(
                f"the session has {offset} bytes already, a terminal can't be recorded on: use a new session",
                offset=offset,
            )

    async def start(self) -> None:
        """Start the program and take the user's terminal over.

        Raises:
            ConfigError: there is no such program, or it can't be run.
        """
        self._size = self._screen_size() or self._size
        self._master, slave = pty.openpty()
        os.set_blocking(self._master, False)  # ours alone, unlike the user's terminal
        self._apply_size()
        try:
            self._child = await Child.spawn(
                self.argv,
                stdin=slave,
                stdout=slave,
                stderr=slave,
                env=self._env,
                before_exec=partial(_take_terminal, slave),
            )
        finally:
            os.close(slave)
        self._cast = asciicast.Cast(self._monotonic)
        shown: dict[str, str] = {key: self._env[key] for key in ("SHELL", "TERM") if key in self._env}
        columns, rows = self._size
        self._put(
            asciicast.header(
                columns=columns,
                rows=rows,
                timestamp=self._wall(),
                command=self.name,
                title=self._title,
                env=shown,
            )
        )
        self._output = asyncio.create_task(
            self._pump_output(self._master, self._cast), name="terminal output"
        )
        self._tasks = [self._output]
        if self._user_in is not None:
            terminal = os.isatty(self._user_in)  # now: one that is closed is none any more
            pump = self._pump_input(self._user_in, self._master, self._cast, terminal=terminal)
            self._tasks.append(asyncio.create_task(pump, name="terminal input"))
        self._raw_mode()

    async def read(self) -> bytes:
        """Return the lines recorded since, waiting for the first; `b""` when the program has gone.

        Raises:
            OSError: what the program writes can't be read any more.
        """
        while not self._lines:
            if self._output is None or self._output.done():
                if self._output and not self._output.cancelled():
                    self._output.result()
                if self._child:
                    await self._child.wait()
                return b""
            self._moved.clear()
            await self._moved.wait()
        block = b"".join(self._lines)
        self._lines.clear()
        self.buffered_bytes = 0
        self._moved.set()
        return block

    async def pause(self) -> None:
        """Record nothing, let the program go on."""
        if self._cast:
            self._cast.pause()
            self._paused_size = self._size
            self._moved.set()

    async def resume(self) -> None:
        """Record again; a window size changed meanwhile is caught up on."""
        if self._cast:
            self._cast.resume()
            if self._paused_size not in (None, self._size):
                self._put(self._cast.resize(*self._size))
            self._paused_size = None

    async def stop(self) -> None:
        """Hang up, as closing a terminal does; more firmly when that is not heard."""
        if self._child and self._stopping is None:
            self._stopping = asyncio.create_task(self._stop(self._child), name="stop")

    async def close(self) -> None:
        """Give the user's terminal back and kill what still runs."""
        self._restore_mode()
        tasks = [*self._tasks, *([self._stopping] if self._stopping else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._child:
            self._child.kill()
            await self._child.wait(LAST_WORDS_S)
        if self._master is not None:
            os.close(self._master)
            self._master = None

    def resize(self, columns: int, rows: int) -> None:
        """Change the window's size, as a user does by dragging its corner."""
        if (columns, rows) == self._size:
            return
        self._size = (columns, rows)
        self._apply_size()
        if self._cast:
            self._put(self._cast.resize(columns, rows))

    def _put(self, line: bytes) -> None:
        if line:
            self._lines.append(line)
            self.buffered_bytes += len(line)
            self._moved.set()

    async def _room(self, cast: asciicast.Cast) -> None:
        """Wait until the buffer takes more; nothing goes into it while paused, so nobody is held back."""
        while self.buffered_bytes > BUFFER_BYTES and not cast.paused:
            self._moved.clear()
            await self._moved.wait()

    async def _pump_output(self, master: int, cast: asciicast.Cast) -> None:
        try:
            while block := await descriptors.read_ready(master, READ_BYTES, terminal=True):
                if self._user_out is not None:
                    try:
                        await asyncio.to_thread(_show, self._user_out, block)
                    except OSError as exc:
                        # The user's window is gone, the program is not: it is recorded all the same.
                        _log.warning("the terminal can't be shown any more", extra={"reason": str(exc)})
                        self._user_out = None
                self._put(cast.data("o", block))
                self.shown_bytes += len(block)
                await self._room(cast)
            self._put(cast.data("o", b"", final=True))
        finally:
            self._moved.set()
            self._restore_mode()

    async def _pump_input(self, user: int, master: int, cast: asciicast.Cast, *, terminal: bool) -> None:
        waits = descriptors.can_wait(user)
        try:
            while block := (
                await descriptors.read_ready(user, READ_BYTES, terminal=True)
                if waits
                else await asyncio.to_thread(os.read, user, READ_BYTES)
            ):
                await descriptors.write_all(master, block)
                if self._record_input:
                    # The program has what was typed: one Ctrl-C gets through to it even now.
                    self._put(cast.data("i", block))
                    await self._room(cast)
            # In raw mode Ctrl-D is a byte like any other: a terminal that ends was closed. Who leads its
            # session hears that as a signal, everybody else only here.
            if terminal and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
                _log.warning("the terminal is gone, the program is hung up")
                self.hung_up = True
                await self.stop()
            else:
                await descriptors.write_all(master, END_OF_INPUT)
        except OSError:
            return  # the program has gone; its output says so too

    async def _stop(self, child: Child) -> None:
        await child.stop(self._stop_steps)
        if self._output:
            await asyncio.wait({self._output}, timeout=LAST_WORDS_S)
            self._output.cancel()

    def _screen_size(self) -> tuple[int, int] | None:
        if self._user_out is None or not os.isatty(self._user_out):
            return None
        found = os.get_terminal_size(self._user_out)
        return (found.columns, found.lines) if found.columns else None

    def _apply_size(self) -> None:
        if self._master is not None:
            columns, rows = self._size
            fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def _raw_mode(self) -> None:
        if self._user_in is not None and os.isatty(self._user_in):
            self._saved = termios.tcgetattr(self._user_in)
            tty.setraw(self._user_in, termios.TCSANOW)
        if self._screen_size():
            loop = asyncio.get_running_loop()
            # Only the main thread's loop may listen for signals; elsewhere the size stays as it is.
            with contextlib.suppress(RuntimeError, ValueError):
                loop.add_signal_handler(
                    signal.SIGWINCH, lambda: self.resize(*(self._screen_size() or self._size))
                )

    def _restore_mode(self) -> None:
        if self._saved is not None and self._user_in is not None:
            saved, self._saved = self._saved, None
            with contextlib.suppress(termios.error):  # a terminal that is gone wants nothing back
                termios.tcsetattr(self._user_in, termios.TCSADRAIN, saved)
            with contextlib.suppress(RuntimeError, ValueError):
                asyncio.get_running_loop().remove_signal_handler(signal.SIGWINCH)


def _take_terminal(slave: int) -> None:
    """In the child: make `slave` the terminal that job control and Ctrl-C belong to."""
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)


def _show(fd: int, block: bytes) -> None:
    rest = memoryview(block)
    while rest:
        rest = rest[os.write(fd, rest) :]
