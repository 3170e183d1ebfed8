"""The cluster as containers on a network of their own: cut cables are real ones here."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from testcontainers.core.config import testcontainers_config
from testcontainers.core.container import DockerContainer
from testcontainers.core.image import DockerImage
from testcontainers.core.network import Network

from tests.cluster.cluster import NODES, READY_S, Cluster
from tests.cluster.processes import free_ports
from tests.configured_server import DEPLOY
from tests.nats_server import nats_server

CLIENT_PORT = 4222

# The server is one static program: it needs nothing below it.
_DOCKERFILE = """
FROM scratch
COPY nats-server /nats-server
COPY nats /etc/nats
STOPSIGNAL SIGTERM
ENTRYPOINT ["/nats-server"]
"""

# The container that cleans up after a killed run would have to come from a registry.
testcontainers_config.ryuk_disabled = True


class ContainerCluster(Cluster):
    """Three containers; an isolated one is disconnected from the network."""

    def __init__(self, image: str, network: Network) -> None:
        self._network = network
        self._ports = free_ports(len(NODES))
        # Neither names nor addresses of containers are for clients: they come in by the published ports.
        command = ["-c", "/etc/nats/cluster.conf", "--no_advertise"]
        self._containers = [
            DockerContainer(image)
            .with_command(command)
            .with_env("LUCID_NODE", name)
            .with_env("NATS_STORE_DIR", "/data")
            .with_network(network)
            .with_network_aliases(name)
            # Chosen here, because a container that is started again would get another one.
            .with_bind_ports(CLIENT_PORT, port)
            for name, port in zip(NODES, self._ports, strict=True)
        ]

    @property
    def urls(self) -> Sequence[str]:
        return [f"nats://127.0.0.1:{port}" for port in self._ports]

    def create(self) -> None:
        """Start all of them for the first time; `whole` says when they are there."""
        for container in self._containers:
            container.start()

    def remove(self) -> None:
        """Kill and remove all of them, with their data."""
        for container in self._containers:
            container.stop(force=True, delete_volume=True)

    def kill(self, node: int) -> None:
        self._containers[node].get_wrapped_container().kill()

    def stop(self, node: int) -> None:
        self._containers[node].get_wrapped_container().stop(timeout=int(READY_S))

    def start(self, node: int) -> None:
        self._containers[node].get_wrapped_container().start()

    def isolate(self, node: int) -> None:
        self._wire().disconnect(self._containers[node].get_wrapped_container())

    def rejoin(self, node: int) -> None:
        self._wire().connect(self._containers[node].get_wrapped_container(), aliases=[NODES[node]])

    def _wire(self) -> Any:
        return self._network._network


@contextmanager
def nats_image(folder: Path) -> Iterator[str]:
    """Build an image of the server and the configurations; it goes with the context."""
    context = folder / "image"
    shutil.copytree(DEPLOY, context / "nats")
    shutil.copy(nats_server(), context / "nats-server")
    (context / "Dockerfile").write_text(_DOCKERFILE)
    with DockerImage(path=str(context), tag="lucid-nats-test:latest") as image:
        yield str(image)


@contextmanager
def container_cluster(image: str) -> Iterator[ContainerCluster]:
    """Run three containers for the time of the context."""
    with ExitStack() as stack:
        cluster = ContainerCluster(image, stack.enter_context(Network()))
        stack.callback(cluster.remove)
        cluster.create()
        yield cluster
