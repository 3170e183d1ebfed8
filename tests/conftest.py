"""What every test shares: one seed, shown in the header of the run, and the hypothesis profiles."""

from __future__ import annotations

import os
import random
from typing import Any

import hypothesis
import pytest

SEED_VARIABLE = "LUCID_TEST_SEED"

SEED = pytest.StashKey[int]()

# No deadline: the first call pays for imports, and a busy machine is no bug.
hypothesis.settings.register_profile("dev", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, max_examples=500, print_blob=True)


def pytest_configure(config: pytest.Config) -> None:
    """Choose the seed once, in the process that starts the run, and the profile that fits the place."""
    worker_input: dict[str, Any] | None = getattr(config, "workerinput", None)
    if worker_input is not None:
        seed = int(worker_input["lucid_test_seed"])
    else:
        seed = int(os.environ.get(SEED_VARIABLE) or random.SystemRandom().getrandbits(32))
    config.stash[SEED] = seed
    if not config.getoption("--hypothesis-profile"):
        hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "dev")


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Hand the seed to a pytest-xdist worker, so that all of them log and use the same one."""
    node.workerinput["lucid_test_seed"] = node.config.stash[SEED]


def pytest_report_header(config: pytest.Config) -> str:
    """Say how to repeat the run's random inputs."""
    return f"seed: {SEED_VARIABLE}={config.stash[SEED]}"


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, exitstatus: int, config: pytest.Config
) -> None:
    """Repeat the seed under a run that failed: `-q` leaves the header out."""
    if exitstatus:
        terminalreporter.write_line(pytest_report_header(config))


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    """Random numbers that depend on the run's seed and the test's name, not on the order of tests."""
    return random.Random(f"{request.config.stash[SEED]} {request.node.nodeid}")
