"""Processes of the installed command: started, read from, and ended in every way a process can end."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

ROOT = Path(__file__).parents[2]
START_S = 60.0
"""Longest a process may take to say that it is ready; a store is rebuilt at the start."""
END_S = 60.0
"""Longest an orderly end may take."""
POLL_S = 0.01

T = TypeVar("T")


def until(look: Callable[[], T], *, within_s: float, what: str) -> T:
    """Return the first true value `look` gives; fail when there is none `within_s`."""
    deadline = time.monotonic() + within_s
    while True:
        if found := look():
            return found
        assert time.monotonic() < deadline, f"not within {within_s:g} s: {what}"
        time.sleep(POLL_S)


def lucid() -> list[str]:
    """Return the words that start the installed command of this environment."""
    return [str(Path(sys.executable).parent / "lucid")]


def hooked(*flags: str) -> list[str]:
    """Return the words that start the same command with hooks; see `hooks.py`."""
    return [sys.executable, "-m", "tests.end_to_end.hooks", *flags, "--"]


class Running:
    """One process in a session of its own; what it says goes to files."""

    def __init__(self, words: Sequence[str], log: Path, env: Mapping[str, str], stdin: int | None) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self.words, self.out_path, self.err_path = words, log.with_suffix(".out"), log.with_suffix(".err")
        with self.out_path.open("wb") as out, self.err_path.open("wb") as err:
            self._process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL if stdin is None else stdin,
                stdout=out,
                stderr=err,
                env=dict(env),
                cwd=ROOT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def code(self) -> int | None:
        """Its exit status, minus the number of the signal that killed it; None while it runs."""
        return self._process.poll()

    @property
    def out(self) -> str:
        return self.out_path.read_text(errors="replace")

    @property
    def err(self) -> str:
        return self.err_path.read_text(errors="replace")

    @property
    def peak_bytes(self) -> int:
        """Most memory it has had resident so far."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return 1024 * int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])

    def says(self, text: str, *, within_s: float = START_S) -> str:
        """Return the first whole line on standard output that holds `text`."""

        def look() -> str:
            found = next((x for x in self.out.splitlines(keepends=True) if text in x and x[-1] == "\n"), "")
            assert found or self.code is None, f"{self} ended with {self.code}: {self.err}"
            return found

        return until(look, within_s=within_s, what=f"{self} says {text!r}; it said {self.out} {self.err}")

    def wait(self, *, within_s: float = END_S) -> int:
        """Return its exit status once it has ended."""
        try:
            return self._process.wait(within_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self} did not end within {within_s:g} s: {self.err}") from None

    def signal(self, number: signal.Signals) -> None:
        """Send `number`, if it still runs."""
        if self.code is None:
            os.kill(self.pid, number)

    def kill9(self) -> None:
        """End it at once, wherever it is."""
        self.signal(signal.SIGKILL)
        self.wait()

    def stop(self) -> int:
        """Ask it to end in order."""
        self.resume()
        self.signal(signal.SIGTERM)
        return self.wait()

    def pause(self) -> None:
        """Stop its clock: its connections stand, it does nothing."""
        self.signal(signal.SIGSTOP)
        until(self.paused, within_s=END_S, what=f"{self} is stopped")

    def paused(self) -> bool:
        """Whether it stands still."""
        return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"

    def resume(self) -> None:
        """Let it go on."""
        self.signal(signal.SIGCONT)

    def __str__(self) -> str:
        return " ".join(self.words[-8:])
