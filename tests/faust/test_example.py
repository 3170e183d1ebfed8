"""The example of the guide for Faust users, run as it says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.nats_server import NatsServer

ROOT = Path(__file__).resolve().parent.parent.parent
EXAMPLE_S = 120.0
ONCE = {"ann": 135, "bob": 145, "eve": 155}
"""What each customer ordered in one run: 0 + 3 + … + 27, and so on."""


def test_orders_add_up_and_go_on_from_where_they_were(server: NatsServer) -> None:
    """The first run prints each customer's total, the second one twice as much: the table was kept."""
    for times in (1, 2):
        done = subprocess.run(
            [sys.executable, "examples/faust_orders.py"],
            cwd=ROOT,
            env={**os.environ, "NATS_URL": server.url},
            capture_output=True,
            text=True,
            timeout=EXAMPLE_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines() == [f"{name}: {total * times}" for name, total in ONCE.items()]
