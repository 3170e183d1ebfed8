"""One key press at a time from the terminal, without Enter, while the event loop runs."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lucid_events.errors import ConfigError
from lucid_events.recorder.sources.descriptors import read_ready

KEY_BYTES = 16
"""Longer than what any key sends."""
QUIT = frozenset({"q", "Q", "\x03", "\x04", ""})
"""q, Ctrl-C, Ctrl-D and the end of input."""


class Keys:
    """The keyboard; made by `keyboard`."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    async def press(self) -> str:
        """Wait for a key and return what it sends; nothing when the terminal is gone."""
        try:
            return (await read_ready(self._descriptor, KEY_BYTES, terminal=True)).decode(errors="replace")
        except OSError:
            return ""  # it hung up


@contextmanager
def keyboard(*, what: str, instead: str) -> Iterator[Keys]:
    """Take single keys from the terminal for the time of the context; it is left as it was.

    Raises:
        ConfigError: standard input is no terminal; `what` needs one, `instead` is what to do.
    """
    if sys.stdin is None or not sys.stdin.isatty():
        raise ConfigError(f"{what} waits for a key, and standard input is no terminal: {instead}")
    try:
        import termios
        import tty
    except ImportError:
        raise ConfigError(f"{what} waits for a key, which this system can't: {instead}") from None
    descriptor = sys.stdin.fileno()
    before: list[Any] = termios.tcgetattr(descriptor)
    tty.setcbreak(descriptor)
    try:
        yield Keys(descriptor)
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
