"""A real server for the integration tests: one per module, started when first asked for."""

from collections.abc import Iterator

import pytest

from tests.nats_server import NatsServer, running_server


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """Give one server to all tests of a module; each uses a prefix of its own."""
    with running_server(tmp_path_factory.mktemp("nats")) as server:
        yield server


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """Give a server to one test, which may kill it."""
    with running_server(tmp_path_factory.mktemp("nats")) as server:
        yield server
