"""Child processes in a session of their own: started, waited for, and stopped step by step."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from lucid_events.errors import ConfigError

StopSteps = Sequence[tuple[signal.Signals, float]]
"""Signals in the order they are sent, each with the seconds it is given."""

POLITE: StopSteps = ((signal.SIGINT, 5.0), (signal.SIGTERM, 5.0))
"""Encoders finish their file on SIGINT. Half the time cuts a slow disk off, twice keeps a user waiting."""
HANG_UP: StopSteps = ((signal.SIGHUP, 3.0), (signal.SIGTERM, 3.0))
"""Interactive shells ignore SIGINT and SIGTERM; a hang-up is what a closed terminal sends."""

_ASKING = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)

KILLED_WAIT_S = 5.0
"""How long a killed process may take to be gone; longer means it hangs in the kernel."""


class Child:
    """One child process and everything it has started, as one process group."""

    def __init__(self, process: asyncio.subprocess.Process, name: str) -> None:
        self._process, self._name = process, name

    @classmethod
    async def spawn(
        cls,
        argv: Sequence[str],
        *,
        stdin: int | None,
        stdout: int,
        stderr: int,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        before_exec: Callable[[], object] | None = None,
    ) -> "Child":
        """Start `argv` as the leader of a new session, deaf to no signal that will ask it to end.

        A recorder started by `nohup` or in a script's background has signals ignored, and its
        children would inherit that. `before_exec` runs in the child after it became the leader.

        Raises:
            ConfigError: there is no such program, or it can't be run.
        """
        ignored = [number for number in _ASKING if signal.getsignal(number) is signal.SIG_IGN]
        try:
            process = await asyncio.create_subprocess_exec(
                *argv,
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                env=env,
                cwd=cwd,
                preexec_fn=partial(_lead, ignored, before_exec),
            )
        except OSError as exc:
            raise ConfigError(f"{argv[0]!r} can't be run: {exc.strerror}", command=argv[0]) from exc
        return cls(process, argv[0])

    @property
    def running(self) -> bool:
        """Whether the child itself has not been seen to end."""
        return self._process.returncode is None

    @property
    def exit_code(self) -> int | None:
        """Its exit status; 128 + the signal's number when a signal ended it, as shells have it."""
        code = self._process.returncode
        return code if code is None or code >= 0 else 128 - code

    async def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until the child has ended; False when it has not within `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._process.wait()
        except TimeoutError:
            return False
        return True

    async def stop(self, steps: StopSteps = POLITE) -> None:
        """Ask the process group to end, more firmly each time, and kill it in the end."""
        for number, patience_s in steps:
            if not self.running:
                break
            self.signal(number)
            if await self.wait(patience_s):
                break
        # Whatever the child leaves behind in its group would hold the pipe open.
        self.kill()
        await self.wait(KILLED_WAIT_S)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the whole group."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    def kill(self) -> None:
        """End the whole group at once."""
        self.signal(signal.SIGKILL)


def _lead(ignored: Sequence[signal.Signals], then: Callable[[], object] | None) -> None:
    """In the child, before the program: lead a session of our own, hear every signal again.

    Not `start_new_session`: uvloop would run this before it, asyncio's own loop after.
    """
    os.setsid()
    for number in ignored:
        signal.signal(number, signal.SIG_DFL)
    if then is not None:
        then()
