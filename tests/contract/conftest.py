"""Runs every contract test against both adapters: `memory`, and `jetstream` on a real server."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator

import pytest

from tests.contract.bundle import Ports, Run
from tests.contract.jetstream_ports import jetstream_ports
from tests.contract.memory_ports import memory_ports
from tests.nats_server import running_server


@pytest.fixture(scope="session")
def contract_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run one server for all contract tests; gives its address."""
    with running_server(tmp_path_factory.mktemp("contract")) as server:
        yield server.url


@pytest.fixture(params=["memory", "jetstream"])
def run(request: pytest.FixtureRequest) -> Run:
    """Run a scenario on ports over an empty store."""
    # Asked for by name, so that tests in memory start no server.
    url: str | None = request.getfixturevalue("contract_server") if request.param == "jetstream" else None

    def run_scenario(scenario: Callable[[Ports], Awaitable[None]], /) -> None:
        async def main() -> None:
            async with jetstream_ports(url) if url else memory_ports() as ports:
                await scenario(ports)

        asyncio.run(main())

    return run_scenario
