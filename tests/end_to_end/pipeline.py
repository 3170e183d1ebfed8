"""A whole pipeline as an operator runs it: real processes of the installed command on a real server."""

import json
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from lucid_events.service import REACTIONS
from tests.end_to_end.processes import ROOT, Running, hooked, lucid, until

CLI_S = 60.0
"""Bound of one command; each is over in a second or two."""

QUICK = {
    "LUCID_BEAT_INTERVAL": "0.3",
    "LUCID_LEASE": "2",
    "LUCID_FLUSH_INTERVAL": "0.05",
    "LUCID_START_TIMEOUT": "10",
    "LUCID_STOP_TIMEOUT": "30",
    "LUCID_SHUTDOWN_TIMEOUT": "5",
}
"""Settings under which what takes minutes in production takes seconds."""


class Pipeline:
    """`lucid up` on a folder and a port of its own, and everything else beside it.

    Everything spawned is ended with the pipeline; the folder is the caller's.

    Args:
        folder: data, and what the processes say.
        env: settings over those of `QUICK`.
        ack_wait_s: of all consumers, instead of the 30 s of their definitions.
        without: parts that `lucid up` does not run here, so that a test can.
        hooks: further flags of `hooks.py` for `lucid up`; `{data}` in them is its folder.
    """

    def __init__(
        self,
        folder: Path,
        env: Mapping[str, str] | None = None,
        *,
        ack_wait_s: float | None = None,
        without: Sequence[str] = (),
        hooks: Sequence[str] = (),
    ) -> None:
        self.folder, self.data = folder, folder / "data"
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("LUCID_", "NATS_", "COMPRESSOR_"))}
        self.env = {**clean, **QUICK, **(env or {})}
        self.port = 0
        self.service: Running | None = None
        self.spawned: list[Running] = []
        self._started = 0
        flags = [flag.format(data=self.data) for flag in hooks]
        flags += ["--ack-wait", str(ack_wait_s)] if ack_wait_s else []
        flags += ["--only", ",".join(p for p in REACTIONS if p not in without)] if without else []
        self._up = hooked(*flags) if flags else lucid()

    @property
    def url(self) -> str:
        """Where clients connect; the same after a restart."""
        return f"nats://127.0.0.1:{self.port}"

    @property
    def server_pid(self) -> int:
        """Process id of the embedded server."""
        return int((self.data / "nats-server.pid").read_text())

    def start(self, words: list[str] | None = None, *, flags: Sequence[str] = ()) -> None:
        """Start `lucid up`, with more `flags`, and return when it says that it is ready."""
        args = ["up", "--data", str(self.data), "--port", str(self.port), "--json", *flags]
        self.service = self._run([*(words or self._up), *args], "up", None, None)
        said = json.loads(self.service.says('"url"'))
        self.port = int(said["url"].rpartition(":")[2])

    def stop(self) -> int:
        """End `lucid up` in order; returns its exit status."""
        assert self.service is not None
        return self.service.stop()

    def kill9(self, *, server: bool = True) -> None:
        """Kill `lucid up` at once; its server with it, or else that stops in order by itself."""
        assert self.service is not None
        pid = self.server_pid
        if server:
            self.kill9_server()
        self.service.kill9()
        until(lambda: not _runs(pid), within_s=CLI_S, what="the server of a killed process is gone")

    def kill9_server(self) -> None:
        """Kill the server alone; `lucid up` starts it again on the same port and data."""
        with suppress(ProcessLookupError):
            os.kill(self.server_pid, signal.SIGKILL)

    def restart(self) -> None:
        """Kill everything of `lucid up` at once and start it again on the same port and data."""
        self.kill9()
        self.start()

    def cli(
        self, *args: str, check: bool = True, env: Mapping[str, str] | None = None, within_s: float = CLI_S
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end; with `check` it has to succeed."""
        done = subprocess.run(
            [*lucid(), *args],
            env=self._env(env),
            cwd=ROOT,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=within_s,
            check=False,
        )
        assert not check or done.returncode == 0, f"{args} ended with {done.returncode}: {done.stderr}"
        return done

    def spawn(
        self,
        *args: str,
        words: list[str] | None = None,
        env: Mapping[str, str] | None = None,
        stdin: int | None = None,
    ) -> Running:
        """Start a command beside the pipeline; `words` start it another way, with hooks for example."""
        return self._run([*(words or lucid()), *args], args[0], env, stdin)

    def worker(self, *parts: str) -> Running:
        """Start a worker of some parts (all when none is named), and return when it works."""
        worker = self.spawn("worker", "--only", ",".join(parts), "--json")
        worker.says('"parts"')
        return worker

    def close(self) -> None:
        """End everything that was started here, at once."""
        for process in reversed(self.spawned):
            process.kill9()
        if self.service is not None and self.service.code is None:
            self.service.resume()
            self.kill9()

    def __enter__(self) -> "Pipeline":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, words: list[str], name: str, env: Mapping[str, str] | None, stdin: int | None) -> Running:
        self._started += 1
        log = self.folder / "said" / f"{self._started:02d}-{name}"
        # `up` must not take the server of its own first start for somebody else's.
        running = Running(words, log, self.env if name == "up" else self._env(env), stdin)
        if name != "up":
            self.spawned.append(running)
        return running

    def _env(self, env: Mapping[str, str] | None) -> dict[str, str]:
        return {**self.env, "NATS_URL": self.url, **(env or {})}


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"  # an orphan may wait for whoever inherited it to notice
