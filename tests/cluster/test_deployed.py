"""What `lucid deploy` makes of a cluster: three replicas of all but what strangers write to."""

import asyncio
import json
import os
import subprocess

from lucid_events.jetstream.connection import connect
from lucid_events.jetstream.options import NatsOptions
from tests.cluster.cluster import NODES, Cluster
from tests.end_to_end.processes import ROOT, lucid

CLI_S = 60.0
"""Bound of one command; each is over in seconds."""
UNTRUSTED = {"LUCID_CAPTURE", "LUCID_COMMANDS"}


def lucid_at(cluster: Cluster, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run the installed command against the cluster, to its end."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("LUCID_", "NATS_"))}
    env = {**clean, "NATS_URL": cluster.url, "LUCID_REPLICAS": "3", "LUCID_CAPTURE_MAX_MB": "64", **more}
    return subprocess.run(
        [*lucid(), *words], env=env, cwd=ROOT, capture_output=True, text=True, timeout=CLI_S, check=False
    )


def test_a_cluster_is_deployed_and_examined_without_a_fault(cluster: Cluster) -> None:
    """LUCID_REPLICAS=3 replicates all streams but capture and commands, and the doctor finds no fault."""
    for words in (["deploy"], ["deploy", "--check"]):
        done = lucid_at(cluster, *words)
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
    examined = lucid_at(cluster, "doctor", "--json")
    assert {json.loads(line)["level"] for line in examined.stdout.splitlines()} == {"info"}

    async def main() -> None:
        async with connect(NatsOptions(servers=tuple(cluster.urls))) as connection:
            found = await connection.api("STREAM.LIST", {"offset": 0})
        replicas = {one["config"]["name"]: one["config"]["num_replicas"] for one in found["streams"]}
        assert {name for name, count in replicas.items() if count == 1} == UNTRUSTED
        assert {count for name, count in replicas.items() if name not in UNTRUSTED} == {len(NODES)}

    asyncio.run(main())


def test_more_replicas_than_nodes_are_refused_by_name(cluster: Cluster) -> None:
    """Five replicas on three nodes are an error that names the stream and the setting to change."""
    done = lucid_at(cluster, "deploy", LUCID_REPLICAS="5")
    assert done.returncode == 2
    assert "stream LUCID_ADVISORIES" in done.stderr
    assert "lower LUCID_REPLICAS" in done.stderr
