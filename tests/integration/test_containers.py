"""What of the container images can be tried without an engine; `try.sh` beside them tries the rest."""

import http.server
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

CONTAINERS = Path(__file__).parents[2] / "deploy" / "containers"
RUN_S = 30.0
"""Bound of one script; each is over in a second."""


@contextmanager
def answering(status: int, body: bytes) -> Iterator[int]:
    """Run a service whose `/health` answers so; gives its port."""

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/health" else 404)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield int(server.server_address[1])
        finally:
            server.shutdown()
            thread.join()


def run(script: str, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a script beside the Dockerfile, in an environment of its own."""
    words = [sys.executable, "-I", str(CONTAINERS / script), *args]
    return subprocess.run(words, env=env, capture_output=True, text=True, timeout=RUN_S, check=False)


def test_a_container_is_healthy_when_its_service_says_so() -> None:
    """Status 200 of `/health` on PORT, or on a worker's own port, is exit status 0."""
    with answering(200, b"{}") as port:
        assert run("health.py", PORT=str(port)).returncode == 0
        assert run("health.py", PORT="", LUCID_METRICS_PORT=str(port)).returncode == 0


def test_a_container_is_unhealthy_with_the_reason() -> None:
    """Status 503 is exit status 1, and what is down is in what the engine keeps of the check."""
    with answering(503, b'{"nats":"not connected"}') as port:
        done = run("health.py", PORT=str(port))
    assert done.returncode == 1
    assert '503: {"nats":"not connected"}' in done.stderr


def test_a_container_without_a_service_is_unhealthy() -> None:
    """Nobody listening, and no port to ask on, are failures that say which."""
    with answering(200, b"") as port:
        pass
    done = run("health.py", PORT=str(port))
    assert (done.returncode, "Connection refused" in done.stderr) == (1, True)
    done = run("health.py")
    assert (done.returncode, "set PORT or LUCID_METRICS_PORT" in done.stderr) == (2, True)


@pytest.mark.parametrize("service", ["pipeline", "recorder", "worker"])
def test_every_package_of_a_service_has_a_tested_version(service: str) -> None:
    """The export pins everything the service needs, each once, and only a recorder carries ffmpeg."""
    done = run("requirements.py", service)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert all(re.fullmatch(r"[a-z0-9-]+==[\w.]+", line) for line in lines)
    names = [line.partition("==")[0] for line in lines]
    assert names == sorted(set(names))
    assert {"litestar", "msgspec", "nats-py", "uvicorn"} <= set(names)
    assert ("imageio-ffmpeg" in names) == (service == "recorder")


@pytest.mark.parametrize("script", ["cluster.sh", "try.sh"])
def test_without_an_engine_the_scripts_say_so(script: str, tmp_path: Path) -> None:
    """Nothing is tried in silence: the line says NOT RUN, and asked for, its absence is an error."""
    env = {**os.environ, "DOCKER_HOST": f"unix://{tmp_path}/nothing", "PYTHON": sys.executable}
    env.pop("START_ENGINE", None)
    words = ["bash", str(CONTAINERS / script)]
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=RUN_S, check=False)
    assert (done.returncode, "NOT RUN" in done.stdout) == (0, True), done.stderr
    env["REQUIRE_ENGINE"] = "1"
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=RUN_S, check=False)
    assert (done.returncode, "NOT RUN" in done.stdout) == (1, True), done.stderr
