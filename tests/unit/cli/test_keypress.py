"""Single keys of a terminal, which has to be as it was when we are done with it."""

import asyncio
import fcntl
import os
import pty
import termios

import pytest
import uvloop

from lucid_events.cli.keypress import keyboard


def test_a_terminal_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key comes without Enter; afterwards neither its modes nor the flags shared with the shell differ."""
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, closefd=True) as stdin, os.fdopen(ours, "wb", buffering=0, closefd=True) as typed:
        monkeypatch.setattr("sys.stdin", stdin)
        before = termios.tcgetattr(theirs), fcntl.fcntl(theirs, fcntl.F_GETFL)

        async def pressed() -> str:
            with keyboard(what="this", instead="that") as keys:
                waiting = asyncio.create_task(keys.press())
                await asyncio.sleep(0)  # it waits before anything is typed
                typed.write(b"x")
                return await waiting

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            assert runner.run(pressed()) == "x"
        assert (termios.tcgetattr(theirs), fcntl.fcntl(theirs, fcntl.F_GETFL)) == before
