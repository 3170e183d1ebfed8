"""Three servers that replicate, and every way in which one of them can be away."""

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence

from lucid_events.errors import LucidError
from lucid_events.jetstream.connection import connect
from lucid_events.jetstream.options import NatsOptions

NODES = ("nats-1", "nats-2", "nats-3")
"""Names of the servers, as the routes of `deploy/nats/cluster.conf` have them."""
READY_S = 60.0
"""Longest until a cluster has a leader and takes replicated streams; a second is usual."""
LOOK_S = 0.1

_PROBE = {"name": "PROBE", "subjects": ["probe"], "num_replicas": len(NODES)}


class Cluster(ABC):
    """Three servers on `deploy/nats/cluster.conf`; a node is named by its number, 0 to 2."""

    @property
    @abstractmethod
    def urls(self) -> Sequence[str]:
        """Where clients connect, one address a node; they never change."""

    @property
    def url(self) -> str:
        """All addresses, as NATS_URL takes them."""
        return ",".join(self.urls)

    @abstractmethod
    def kill(self, node: int) -> None:
        """End a node as a power cut would, as far as its process is concerned."""

    @abstractmethod
    def stop(self, node: int) -> None:
        """End a node in order."""

    @abstractmethod
    def start(self, node: int) -> None:
        """Start a node that is down, on the same address and data."""

    @abstractmethod
    def isolate(self, node: int) -> None:
        """Cut a node off from the others and from its clients; it does not know."""

    @abstractmethod
    def rejoin(self, node: int) -> None:
        """Let an isolated node be reached again, with what it believed meanwhile."""

    async def leader(self, stream: str, *, not_node: int | None = None) -> int:
        """Return which node leads `stream`, once one does that is not `not_node`."""
        others = [url for node, url in enumerate(self.urls) if node != not_node]
        deadline, why = time.monotonic() + READY_S, ""
        async with connect(NatsOptions(servers=tuple(others)), wait=True) as connection:
            while time.monotonic() < deadline:
                try:
                    info = await connection.api(f"STREAM.INFO.{stream}", timeout_s=1.0)
                    leads = (info.get("cluster") or {}).get("leader", "")
                    if leads in NODES and NODES.index(leads) != not_node:
                        return NODES.index(leads)
                    why = f"the leader is {leads!r}"
                except LucidError as exc:
                    why = exc.message
                await asyncio.sleep(LOOK_S)
        raise AssertionError(f"{stream} has no leader within {READY_S:g} s: {why}")

    async def whole(self, streams: Sequence[str] = ()) -> None:
        """Return once a replicated stream can be made, and every replica of `streams` is up to date."""
        deadline, why = time.monotonic() + READY_S, ""
        async with connect(NatsOptions(servers=tuple(self.urls)), wait=True) as connection:
            while time.monotonic() < deadline:
                try:
                    await connection.api("STREAM.CREATE.PROBE", _PROBE, timeout_s=2.0)
                    await connection.api("STREAM.DELETE.PROBE", timeout_s=2.0)
                    infos = [await connection.api(f"STREAM.INFO.{stream}") for stream in streams]
                    late = [i["config"]["name"] for i in infos if not _current(i["cluster"])]
                    if not late:
                        return
                    why = f"replicas of {late} are behind"
                except LucidError as exc:
                    why = exc.message
                await asyncio.sleep(LOOK_S)
        raise AssertionError(f"the cluster is not whole within {READY_S:g} s: {why}")


def _current(cluster: dict[str, object]) -> bool:
    replicas = cluster.get("replicas") or []
    assert isinstance(replicas, list)
    return all(replica["current"] and not replica.get("offline") for replica in replicas)
