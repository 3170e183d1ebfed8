"""Run upstream's own tests against the driver.

    python scripts/faust_conformance/run.py [--folder FOLDER] [--version 0.15.3] [-- PYTEST ARGUMENTS]

The tests are in Faust's source distribution, fetched by pip now; they are not kept here. They need an
older pytest, so they run in an environment of their own in FOLDER. Three parts: upstream's consumer
tests with our consumer in place of theirs, their functional, app, agent, table, stream, topic, assignor
and command-line tests with a NATS broker, and their store tests with our store. What does not apply is
in skips.toml, with reasons.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
VERSION = "0.15.3"
TOOLS = (
    "aiohttp",
    "freezegun>=0.3.11",
    "hypothesis",
    "pytest-aiofiles>=0.2.0",
    "pytest-aiohttp<1.1",
    "pytest-asyncio==0.21.2",
    "pytest<8",
    "python-dateutil",
    "pytz",
    "redis",
    "statsd",
    "uvicorn",
)
PARTS = {
    "consumer": ("tests/unit/transport/test_consumer.py",),
    "broker": (
        "tests/functional",
        "tests/integration/cli",
        "tests/meticulous/assignor",
        "tests/unit/agents",
        "tests/unit/app",
        "tests/unit/cli",
        "tests/unit/livecheck",
        "tests/unit/tables",
        "tests/unit/test_streams.py",
        "tests/unit/test_topics.py",
        "tests/unit/transport/test_conductor.py",
    ),
    "store": ("tests/unit/stores/test_memory.py",),
}
PYTEST_INI = "[pytest]\nasyncio_mode = auto\nmarkers =\n    app\n    conf\n    http_session\n"


def prepare(folder: Path, version: str) -> tuple[Path, Path]:
    """Return the environment's interpreter and the folder of upstream's tests; both are made if missing."""
    python = folder / "venv" / "bin" / "python"
    pip = (str(python), "-m", "pip", "--quiet", "--disable-pip-version-check")
    if not python.exists():
        venv.create(folder / "venv", with_pip=True)
        run(*pip, "install", *TOOLS)
    run(*pip, "install", f"faust-streaming=={version}", "ddsketch", "click<8.4", str(ROOT))
    sources = folder / f"faust_streaming-{version}"
    if not sources.exists():
        wanted = ("--no-deps", "--no-binary", ":all:", f"faust-streaming=={version}")
        run(*pip, "download", *wanted, "-d", str(folder))
        with tarfile.open(next(folder.glob(f"faust_streaming-{version}.tar.gz"))) as archive:
            archive.extractall(folder, filter="data")
    tests = folder / "run"
    shutil.rmtree(tests, ignore_errors=True)
    shutil.copytree(sources / "tests", tests / "tests")
    (tests / "pytest.ini").write_text(PYTEST_INI, encoding="utf-8")
    return python, tests


def run(*command: str) -> None:
    subprocess.run(command, check=True)


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """Run a server on a free port of loopback for the time of the context."""
    sys.path.insert(0, str(ROOT))
    from tests.nats_server import running_server  # noqa: PLC0415 - found once the checkout is on the path

    with running_server(folder / "nats") as running:
        yield running.url


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "faust-conformance")
    parser.add_argument("--version", default=VERSION, help=f"of faust-streaming (default {VERSION})")
    parser.add_argument("--part", action="append", choices=PARTS, help="run this; may be repeated")
    parser.add_argument("arguments", nargs="*", help="for pytest")
    asked = parser.parse_args()
    folder = asked.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    python, tests = prepare(folder, asked.version)
    failed = []
    with server(folder) as url:
        for part in asked.part or PARTS:
            environment = {
                **os.environ,
                "FAUST_CONFORMANCE": part,
                "PYTHONPATH": os.pathsep.join((str(HERE), str(tests))),
            }
            if part == "broker":
                environment["BROKER_URL"] = url
            print(f"conformance: {part}", flush=True)
            command = [
                str(python),
                "-m",
                "pytest",
                "-q",
                "-p",
                "plugin",
                "-p",
                "no:cacheprovider",
                "--tb=short",
            ]
            done = subprocess.run(
                [*command, *PARTS[part], *asked.arguments], cwd=tests, env=environment, check=False
            )
            if done.returncode:
                failed.append(part)
    if failed:
        sys.exit(f"conformance: {', '.join(failed)} failed")


if __name__ == "__main__":
    main()
