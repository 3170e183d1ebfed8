"""`lucid analytics` as a person meets it: in a terminal, and where an event could not be read."""

import asyncio
import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import termios
from collections.abc import Callable, Iterator
from typing import Any

import pyte
import pytest

from tests.end_to_end.pipeline import Pipeline
from tests.end_to_end.plain import ask, connected
from tests.end_to_end.processes import ROOT, lucid, until

WITHIN_S = 60.0
WIDE, NARROW = (40, 160), (12, 60)
"""Rows and columns."""
LEFT, SHOWN = b"\x1b[?1049l", b"\x1b[?25h"
"""What gives the screen back as it was, and what shows the cursor again."""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    """One pipeline that keeps analytics, with one recording."""
    folder = tmp_path_factory.mktemp("analytics")
    source = folder / "source"
    source.write_bytes(os.urandom(25_000))
    with Pipeline(folder / "pipeline") as pipeline:
        pipeline.stop()
        pipeline.start(flags=["--analytics"])
        pipeline.cli("record", "seen", str(source), "--chunk-bytes", "10000", "--owner", "ann")

        def counted() -> bool:
            found = pipeline.cli("analytics", "--json", check=False)
            return found.returncode == 0 and json.loads(found.stdout)["sessions"].get("stopped") == 1

        until(counted, within_s=WITHIN_S, what="the recording in the analytics")
        yield pipeline


class Terminal:
    """A command with a terminal of its own, as in a window: pyte draws what it writes."""

    def __init__(self, pipeline: Pipeline, *words: str) -> None:
        self._ours, self._theirs = pty.openpty()
        self.raw = b""
        self.screen = pyte.Screen(*reversed(WIDE))
        self._stream = pyte.ByteStream(self.screen)
        self.resize(*WIDE)
        self.before = termios.tcgetattr(self._theirs)
        self.process = subprocess.Popen(
            [*lucid(), *words],
            env={**pipeline.env, "NATS_URL": pipeline.url, "TERM": "xterm-256color"},
            cwd=ROOT,
            # Its own session, led by this terminal: Ctrl-C and a new size reach it as signals.
            preexec_fn=self._lead,  # noqa: PLW1509 - this process has no threads that hold locks
        )

    def _lead(self) -> None:
        os.login_tty(os.dup(self._theirs))

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)
        os.close(self._theirs)

    @property
    def attributes(self) -> list[Any]:
        """How the terminal treats what is typed."""
        return termios.tcgetattr(self._theirs)

    @property
    def text(self) -> str:
        """What is on the screen."""
        return "\n".join(self.screen.display)

    def resize(self, rows: int, columns: int) -> None:
        """Change the size, as dragging a corner of a window does."""
        self.screen.resize(rows, columns)
        fcntl.ioctl(self._theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def press(self, key: bytes) -> None:
        """Press a key."""
        os.write(self._ours, key)

    def read(self, within_s: float) -> bool:
        """Draw what is written next; False when nothing is, in that time."""
        readable, _, _ = select.select([self._ours], [], [], within_s)
        if not readable:
            return False
        data = os.read(self._ours, 65536)
        self.raw += data
        self._stream.feed(data)
        return True

    def until(self, true: Callable[[], bool], what: str) -> None:
        """Draw until `true()`."""
        while not true():
            assert self.read(WITHIN_S), f"{what} was not shown, but:\n{self.text}"


def test_watching_draws_fits_and_leaves_the_terminal_as_it_was(shared: Pipeline) -> None:
    """The report is drawn and drawn again, within a smaller window too; Ctrl-C gives everything back."""
    with Terminal(shared, "analytics", "--watch", "--window", "1h") as terminal:
        terminal.until(lambda: "stopped 1" in terminal.text and "ann" in terminal.text, "the report")
        assert "throughput" in terminal.text
        first = len(terminal.raw)
        terminal.until(lambda: terminal.raw[first:].count(b"sessions:") >= 1, "another look")
        terminal.resize(*NARROW)
        begun = len(terminal.raw)
        # Looks drawn before it learnt of the new size may still be on their way: they scroll out of sight.
        terminal.until(lambda: terminal.raw[begun:].count(b"sessions:") >= 2, "a look at the new size")
        terminal.until(lambda: terminal.screen.display[0].startswith("sessions:"), "a look that fits")
        assert SHOWN not in terminal.raw
        terminal.press(b"\x03")
        assert terminal.process.wait(WITHIN_S) == 130
        while terminal.read(0):
            pass
        assert terminal.raw.rfind(LEFT) > begun
        assert terminal.raw.rfind(SHOWN) > begun
        assert not terminal.screen.cursor.hidden
        assert terminal.attributes == terminal.before
        assert b"Traceback" not in terminal.raw


def test_an_end_from_outside_leaves_the_terminal_as_it_was(shared: Pipeline) -> None:
    """SIGTERM, as from a closing session or `kill`, gives the screen and the cursor back too."""
    with Terminal(shared, "analytics", "--watch") as terminal:
        terminal.until(lambda: "sessions:" in terminal.text, "the report")
        begun = len(terminal.raw)
        os.kill(terminal.process.pid, signal.SIGTERM)
        assert terminal.process.wait(WITHIN_S) == 130
        while terminal.read(0):
            pass
        assert terminal.raw.rfind(LEFT) >= begun
        assert terminal.raw.rfind(SHOWN) >= begun


def test_a_letter_of_the_analytics_is_shown_refused_and_dropped(shared: Pipeline) -> None:
    """It can't be redriven, since the count is past it: the answer says what to do, and `drop` forgets it."""
    session = "tomorrow"

    async def forge() -> None:
        async with connected(shared.url) as client:
            await ask(client, session, "create")
            headers = {
                **{"Nats-Msg-Id": "t-1", "ce-specversion": "1.0", "ce-id": "t-1"},  # noqa: PIE800 # two lines
                **{"ce-type": "chunk.sealed.v9", "ce-subject": session, "ce-time": "2026-01-01T00:00:00Z"},  # noqa: PIE800
                **{"Lucid-Causation": "t", "Lucid-Prev": "0" * 64},  # noqa: PIE800
            }
            await client.jetstream().publish(f"lucid.evt.{session}.chunk.sealed", b"{}", headers=headers)

    asyncio.run(forge())

    def letters() -> list[dict[str, Any]]:
        done = shared.cli("dlq", "list", "--consumer", "analytics", "--json")
        return [json.loads(line) for line in done.stdout.splitlines()]

    (letter,) = until(letters, within_s=WITHIN_S, what="a letter of the analytics")
    number = str(letter["sequence"])
    shown = json.loads(shared.cli("dlq", "show", number, "--json").stdout)
    assert shown["original"]["subject"] == f"lucid.evt.{session}.chunk.sealed"
    refused = shared.cli("dlq", "redrive", number, check=False)
    assert refused.returncode == 2
    assert "delete the stream faust_lucid-analytics-v1_state" in " ".join(refused.stderr.split())
    assert letters() == [letter]
    shared.cli("dlq", "drop", number)
    assert letters() == []
