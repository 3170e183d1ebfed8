"""The cluster as plain processes on loopback: there is nothing to install, so it is tested everywhere."""

import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.cluster.cluster import NODES, Cluster
from tests.configured_server import DEPLOY, ConfiguredServer


class ProcessCluster(Cluster):
    """Three processes; an isolated one has its clock stopped, so nothing gets in or out of it."""

    def __init__(self, folder: Path) -> None:
        routes = free_ports(len(NODES))
        known = ",".join(f"nats://127.0.0.1:{port}" for port in routes)
        self._servers = []
        for name, client, route in zip(NODES, free_ports(len(NODES)), routes, strict=True):
            flags = ["--cluster", f"nats://127.0.0.1:{route}", "--routes", known]
            config = DEPLOY / "cluster.conf"
            server = ConfiguredServer(folder / name, config, env={"LUCID_NODE": name}, flags=flags)
            server.port = client
            self._servers.append(server)

    @property
    def urls(self) -> Sequence[str]:
        return [server.url for server in self._servers]

    def kill(self, node: int) -> None:
        self._servers[node].kill()

    def stop(self, node: int) -> None:
        self._servers[node].stop()

    def start(self, node: int) -> None:
        self._servers[node].start()

    def isolate(self, node: int) -> None:
        self._servers[node].pause()

    def rejoin(self, node: int) -> None:
        self._servers[node].resume()


@contextmanager
def process_cluster(folder: Path) -> Iterator[ProcessCluster]:
    """Run three servers for the time of the context."""
    cluster = ProcessCluster(folder)
    with ExitStack() as stack:
        for node in range(len(NODES)):
            stack.callback(cluster.stop, node)
            cluster.start(node)
        yield cluster


def free_ports(count: int) -> list[int]:
    """Return ports of loopback that nobody listens on now."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
