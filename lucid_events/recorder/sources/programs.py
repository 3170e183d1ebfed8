"""A program's standard output as a source; its standard error is drained and kept."""

import asyncio
import logging
import os
from collections import deque
from collections.abc import Mapping, Sequence
from io import RawIOBase
from pathlib import Path

from lucid_events.errors import ConfigError
from lucid_events.recorder.sources import descriptors
from lucid_events.recorder.sources.processes import POLITE, Child, StopSteps

STDERR_BYTES = 64 * 1024
"""How much of the end of standard error is kept: a screen or two of an encoder's complaints."""
LAST_WORDS_S = 2.0
"""How long the pipes of a program that has been stopped may take to end."""

_log = logging.getLogger(__name__)


class CommandSource:
    """Runs `argv`; what it writes to standard output is the recording.

    A pause leaves its pipe unread: the program waits when the pipe is full, and nothing is lost.

    Args:
        argv: program and arguments; no shell looks at them.
        stderr_file: also append standard error here.
        stop_steps: how it is asked to end.
    """

    resumable = False

    def __init__(
        self,
        argv: Sequence[str],
        *,
        content_type: str = "application/octet-stream",
        name: str = "",
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        stderr_file: Path | None = None,
        stop_steps: StopSteps = POLITE,
    ) -> None:
        self.argv = tuple(argv)
        self.name, self.content_type = (name or " ".join(argv))[:200], content_type
        self._env, self._cwd, self._stop_steps = env, cwd, stop_steps
        self._stderr_file = stderr_file
        self._child: Child | None = None
        self._out: int | None = None
        self._err: int | None = None
        self._draining: asyncio.Task[None] | None = None
        self._copy: RawIOBase | None = None
        self._kept: deque[bytes] = deque()
        self._kept_bytes = 0
        self._stopping: asyncio.Task[None] | None = None

    @property
    def exit_code(self) -> int | None:
        """What the program ended with; 128 + the signal's number when a signal ended it."""
        return self._child.exit_code if self._child else None

    @property
    def stderr(self) -> bytes:
        """The last `STDERR_BYTES` of standard error."""
        return b"".join(self._kept)[-STDERR_BYTES:]

    async def start(self) -> None:
        """Start the program.

        Raises:
            ConfigError: there is no such program, it can't be run, or `stderr_file` can't be written.
        """
        if self._stderr_file:
            try:
                self._copy = await asyncio.to_thread(self._stderr_file.open, "ab", 0)
            except OSError as exc:
                raise ConfigError(f"can't write {self._stderr_file}: {exc.strerror}") from exc
        self._out, out = os.pipe()
        self._err, err = os.pipe()
        descriptors.widen(self._out)
        try:
            self._child = await Child.spawn(
                self.argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=self._env,
                cwd=self._cwd,
            )
        finally:
            os.close(out)
            os.close(err)
        self._draining = asyncio.create_task(self._drain(self._err), name="stderr")

    async def read(self) -> bytes:
        """Return what the program wrote; at the end, wait until it has gone."""
        if self._out is None or self._child is None:
            return b""
        block = await self._read_out(self._out)
        if not block:
            await self._child.wait()
            if self._draining:
                await asyncio.wait({self._draining}, timeout=LAST_WORDS_S)
        return block

    async def seek(self, offset: int) -> None:
        """The program's first byte becomes byte `offset`; whether it may is the recorder's question."""

    async def pause(self) -> None:
        """Nobody reads its pipe."""

    async def resume(self) -> None:
        """Reading goes on, with what the pipe has kept."""

    async def stop(self) -> None:
        """Ask the program to end, more firmly as time passes, beside the reading of its last words."""
        if self._child and self._stopping is None:
            self._stopping = asyncio.create_task(self._stop(self._child), name="stop")

    async def close(self) -> None:
        """Kill what still runs and close the pipes."""
        tasks = [task for task in (self._draining, self._stopping) if task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._child:
            self._child.kill()
            await self._child.wait(LAST_WORDS_S)
        for fd in (self._out, self._err):
            if fd is not None:
                os.close(fd)
        self._out = self._err = None
        if self._copy:
            self._copy.close()
            self._copy = None

    async def _stop(self, child: Child) -> None:
        await child.stop(self._stop_steps)
        # A descendant that left the group may hold the pipe open for ever.
        await asyncio.sleep(LAST_WORDS_S)

    async def _read_out(self, fd: int) -> bytes:
        if self._stopping is None:
            return await descriptors.read_ready(fd)
        reading = asyncio.create_task(descriptors.read_ready(fd), name="read")
        try:
            await asyncio.wait({reading, self._stopping}, return_when=asyncio.FIRST_COMPLETED)
            return reading.result() if reading.done() else b""
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    def _heard(self, block: bytes) -> bytes:
        """Return what of standard error is kept; a program of a known kind may be understood here."""
        return block

    async def _drain(self, err: int) -> None:
        while block := await descriptors.read_ready(err, STDERR_BYTES):
            block = self._heard(block)
            if not block:
                continue
            self._kept.append(block)
            self._kept_bytes += len(block)
            while self._kept_bytes - len(self._kept[0]) >= STDERR_BYTES:
                self._kept_bytes -= len(self._kept.popleft())
            if self._copy:
                try:
                    await asyncio.to_thread(self._copy.write, block)
                except OSError as exc:
                    # Going on matters more than the copy: a program whose pipe nobody reads stops.
                    _log.warning("standard error is not copied any more", extra={"reason": str(exc)})
                    self._copy.close()
                    self._copy = None
