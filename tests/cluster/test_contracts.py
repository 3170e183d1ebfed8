"""Every promise of the ports once more, with three replicas of everything, capture and commands included."""

import asyncio
import importlib
import inspect
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from lucid_events.jetstream.definitions import TopologySettings
from tests.cluster.cluster import NODES, Cluster
from tests.contract.bundle import CAPTURE_MAX_BYTES, Ports, Run
from tests.contract.jetstream_ports import jetstream_ports

REPLICATED = TopologySettings(
    replicas=len(NODES), untrusted_replicas=len(NODES), capture_max_bytes=CAPTURE_MAX_BYTES
)

for _module in sorted((Path(__file__).parents[1] / "contract").glob("test_*.py")):
    for _name, _test in vars(importlib.import_module(f"tests.contract.{_module.stem}")).items():
        if _name.startswith("test_") and "run" in inspect.signature(_test).parameters:
            # Named after its module, too: two suites may have a promise of one name.
            globals()[f"{_module.stem}__{_name}"] = _test


@pytest.fixture
def run(shared_cluster: Cluster) -> Run:
    """Run a scenario on ports over empty streams of the cluster."""

    def run_scenario(scenario: Callable[[Ports], Awaitable[None]], /) -> None:
        async def main() -> None:
            async with jetstream_ports(shared_cluster.url, REPLICATED) as ports:
                await scenario(ports)

        asyncio.run(main())

    return run_scenario
