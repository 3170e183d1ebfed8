"""The servers of the tests themselves: none outlives the process that started it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PATIENCE_S = 30.0

STARTS = """
import sys, time
from pathlib import Path
from tests.nats_server import NatsServer
server = NatsServer(Path(sys.argv[1]))
server.start()
if sys.argv[2] == "standing still":
    server.pause()
print(server.pid, flush=True)
time.sleep(600)
"""


def alive(pid: int) -> bool:
    """Return whether the process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("how", ["running", "standing still"])
def test_a_killed_test_run_leaves_no_server(tmp_path: Path, how: str) -> None:
    """When the process that started it is killed, the server goes, whatever it was doing."""
    words = [sys.executable, "-c", STARTS, str(tmp_path), how]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        server = int(starter.stdout.readline())
        assert alive(server)
        os.kill(starter.pid, signal.SIGKILL)
    deadline = time.monotonic() + PATIENCE_S
    while alive(server):
        assert time.monotonic() < deadline, f"server {server} is still there"
        time.sleep(0.01)
