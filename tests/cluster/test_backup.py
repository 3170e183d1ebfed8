"""Backups across replicas: from one server onto a cluster, and from a cluster onto one server."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from random import Random

from tests.cluster.cluster import Cluster
from tests.end_to_end.pipeline import Pipeline
from tests.end_to_end.processes import ROOT, hooked, lucid
from tests.end_to_end.session import Session

CLI_S = 120.0
"""Bound of one command: a cluster elects a leader for every stream that is made."""


def at(cluster: Cluster, *words: str, program: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    """Run a command against the cluster, to its end."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("LUCID_", "NATS_"))}
    env = {**clean, "NATS_URL": cluster.url, "LUCID_REPLICAS": "3", "LUCID_CAPTURE_MAX_MB": "64"}
    return subprocess.run(
        [*(program or lucid()), *words],
        env=env,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=CLI_S,
        check=False,
    )


def test_a_backup_moves_between_one_server_and_a_cluster(
    cluster: Cluster, tmp_path: Path, rng: Random
) -> None:
    """One replica becomes three and one again, through an interrupted restore, and every byte holds."""
    with Pipeline(tmp_path / "one") as pipeline:
        session = Session(pipeline, "moved", rng)
        assert session.record().wait() == 0
        pipeline.cli("backup", "create", str(tmp_path / "backup"))
    killed = at(
        cluster,
        *("backup", "restore", str(tmp_path / "backup")),
        program=hooked("--at", "restore.OBJ_lucid-chunks"),
    )
    assert killed.returncode < 0, killed.stderr
    done = at(cluster, "backup", "restore", str(tmp_path / "backup"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "moved: holds" in done.stdout
    checked = at(cluster, "deploy", "--check")
    assert (checked.returncode, checked.stdout.strip()) == (0, "everything is as defined"), checked.stdout
    again = at(cluster, "backup", "create", str(tmp_path / "again"))
    assert again.returncode == 0, again.stderr
    other = Pipeline(tmp_path / "other")
    restored = pipeline.cli("backup", "restore", str(tmp_path / "again"), "--data", str(other.data))
    assert "incarnation 3" in restored.stdout
    with other:
        other.cli("play", "moved", "-o", str(tmp_path / "played"))
    assert (tmp_path / "played").read_bytes() == session.data
