"""Three-node clusters: as processes everywhere, as containers where `-m cluster` asks for them."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.containers import container_cluster, nats_image
from tests.cluster.processes import process_cluster

KINDS = ["processes", pytest.param("containers", marks=pytest.mark.cluster)]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the containers out unless they are asked for by `-m cluster`: not every machine has an engine."""
    if "cluster" in str(config.getoption("markexpr")):
        return
    dropped = [item for item in items if item.get_closest_marker("cluster")]
    config.hook.pytest_deselected(items=dropped)
    items[:] = [item for item in items if not item.get_closest_marker("cluster")]


@pytest.fixture(scope="session")
def server_image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Give an image of the server to all clusters of containers."""
    with nats_image(tmp_path_factory.mktemp("image")) as image:
        yield image


@contextmanager
def _running(request: pytest.FixtureRequest, folder: Path) -> Iterator[Cluster]:
    # The image is asked for by name, so that clusters of processes need no engine.
    with (
        container_cluster(request.getfixturevalue("server_image"))
        if request.param == "containers"
        else process_cluster(folder)
    ) as cluster:
        asyncio.run(cluster.whole())
        yield cluster


@pytest.fixture(scope="session", params=KINDS)
def shared_cluster(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    """Give one cluster to all tests that harm none of its nodes."""
    with _running(request, tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture(params=KINDS)
def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Give a cluster to one test, which may do to its nodes what it likes."""
    with _running(request, tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster
