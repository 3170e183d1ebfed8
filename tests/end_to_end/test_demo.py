"""The demo is the promise anybody can check in half a minute: real sources, real server, compared bytes."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.end_to_end.processes import lucid

DEMO_S = 110.0
"""Twelve seconds of video in real time, then everything is played back and decoded."""
FILE_BYTES = 64 * 1024 * 1024


@pytest.mark.slow
def test_the_demo_plays_back_what_it_recorded(tmp_path: Path) -> None:
    """A video, a terminal and a 64 MiB file, recorded at once, come back byte for byte."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("LUCID_", "NATS_", "COMPRESSOR_"))}
    done = subprocess.run(
        [*lucid(), "demo", "--json", "--keep", str(tmp_path)],
        env=env,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=DEMO_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    results = {result["session"]: result for result in map(json.loads, done.stdout.splitlines())}
    assert set(results) == {"demo-video", "demo-terminal", "demo-file"}
    for name, result in results.items():
        assert result["same"] is True, result
        assert result["state"] == "stopped"
        assert not [check for check in result["checks"] if not check.startswith("ok: ")]
        assert (tmp_path / "source" / name).read_bytes() == (tmp_path / "played" / name).read_bytes()
    assert results["demo-file"]["bytes"] == FILE_BYTES
    assert results["demo-video"]["chunks"] >= 3
    assert any("frames decoded" in check for check in results["demo-video"]["checks"])
    assert any("paused and resumed" in check for check in results["demo-terminal"]["checks"])
