"""A terminal with a person before it, for commands that are used at one."""

import fcntl
import os
import pty
import signal
import subprocess
import termios
from collections.abc import Iterator
from contextlib import contextmanager

from tests.end_to_end.pipeline import Pipeline
from tests.end_to_end.processes import lucid, until

SHOWN_S = 20.0
"""Bound of what must be seen once it has happened."""


class Screen:
    """A terminal with a person before it: what is typed goes in, what is shown is kept.

    Args:
        controlling: it is the command's own terminal: the system tells the command when it is closed.
        ignoring: a signal that the command is started deaf to.
    """

    def __init__(
        self,
        words: list[str],
        env: dict[str, str],
        *,
        controlling: bool = False,
        ignoring: signal.Signals | None = None,
    ) -> None:
        def begin() -> None:
            if controlling:
                fcntl.ioctl(0, termios.TIOCSCTTY, 0)
            if ignoring:
                signal.signal(ignoring, signal.SIG_IGN)

        self.master, slave = pty.openpty()
        self.process = subprocess.Popen(
            words,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=env,
            start_new_session=True,
            preexec_fn=begin,  # noqa: PLW1509 - two calls of the system, no lock and no thread in them
        )
        os.close(slave)
        os.set_blocking(self.master, False)
        self.shown = ""

    def look(self) -> str:
        """Return everything shown so far."""
        try:
            while block := os.read(self.master, 65536):
                self.shown += block.decode(errors="replace")
        except OSError:
            pass  # nothing more for now, or the other end has gone
        return self.shown

    def close(self) -> None:
        """Close the window."""
        if self.master >= 0:
            os.close(self.master)
            self.master = -1

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def shows(self, text: str) -> None:
        until(lambda: text in self.look(), within_s=SHOWN_S, what=f"the screen shows {text!r}: {self.shown}")


@contextmanager
def screen(
    pipeline: Pipeline, *args: str, controlling: bool = False, ignoring: signal.Signals | None = None
) -> Iterator[Screen]:
    """Run a command of ours under a terminal."""
    env = {**pipeline.env, "NATS_URL": pipeline.url, "PS1": "$ ", "TERM": "xterm"}
    made = Screen([*lucid(), *args], env, controlling=controlling, ignoring=ignoring)
    try:
        yield made
    finally:
        made.process.kill()
        made.process.wait()
        made.close()
