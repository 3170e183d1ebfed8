"""Metrics and health of a real pipeline: from real work, bounded, and all that alerts and graphs name."""

import asyncio
import json
import os
import re
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from lucid_events.config import Settings
from lucid_events.gateway import exporting
from lucid_events.gateway.metrics import exposition
from lucid_events.handlers.progress import Lag
from lucid_events.service import Service, up
from lucid_events.service.monitoring import Monitor
from lucid_events.service.reconciling import Totals, note
from tests.nats_server import NatsServer, running_server

ROOT = Path(__file__).resolve().parents[2]
MONITORING = ROOT / "deploy" / "monitoring"
PATIENCE_S = 60
LABELS = frozenset(
    {
        "stage",
        "step",
        "verb",
        "outcome",
        "service",
        "method",
        "route",
        "status",
        "consumer",
        "stream",
        "state",
    }
    | {"codec", "probe", "version", "le"}
)
NAME = re.compile(r"\b((?:lucid|process)_[a-z_]+)\b")
SESSION = "session-nobody-labels"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    """Give a server of our own."""
    with running_server(tmp_path / "nats") as made:
        yield made


@asynccontextmanager
async def pipeline(server: NatsServer, *only: str) -> AsyncIterator[Service]:
    """A pipeline on `server`, its parts as named."""
    settings = Settings(nats_url=server.url, capture_max_mib=64)
    quick = msgspec.structs.replace(
        settings, http=msgspec.structs.replace(settings.http, health_check_interval_s=0.001)
    )
    async with up(quick, only=only) as service:
        yield service


async def lucid(server: NatsServer, *words: str) -> str:
    """Run the command line beside us and return what it said."""
    running = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "lucid_events",
        *words,
        env={**os.environ, "NATS_URL": server.url},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(PATIENCE_S):
            said, complained = await running.communicate()
    finally:
        if running.returncode is None:
            running.kill()
            await running.wait()
    assert running.returncode == 0, complained.decode()
    return said.decode()


def samples(text: str) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """Sample name -> labels -> value."""
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return found


def names(text: str) -> set[str]:
    """Every name a query may use: those of families without samples yet too."""
    endings = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum"), "info": ("_info",)}
    return {
        f"{family.name}{ending}"
        for family in text_string_to_metric_families(text)
        for ending in endings.get(family.type, ("",))
    }


def queries() -> list[str]:
    """Every query of the alert rules and of the dashboard."""
    rules = yaml.safe_load((MONITORING / "alerts.yaml").read_text(encoding="utf-8"))
    found = [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    dashboard = json.loads((MONITORING / "dashboard.json").read_text(encoding="utf-8"))
    found += [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    assert len(found) > 30
    return found


def test_alerts_and_graphs_name_what_there_is(server: NatsServer) -> None:
    """Each metric that a rule or a panel asks for is in the exposition, and each label that it groups by."""

    async def main() -> str:
        async with pipeline(server) as service:
            assert await note(service.adapters, Totals(at=service.adapters.clock.now()))
            body, content_type = await exposition(Monitor(service.adapters, workers=service.workers))
            assert content_type.startswith("text/plain")
            return body.decode()

    known = names(asyncio.run(main()))
    for query in queries():
        named = set(NAME.findall(re.sub(r"\{[^}]*\}|\"[^\"]*\"", "", query)))
        assert named <= known, f"{query}: {sorted(named - known)}"
        grouped = re.findall(r"\b(?:by|on) \(([^)]*)\)", query)
        labels = {label.strip() for group in grouped for label in group.split(",")}
        assert labels <= LABELS | {"instance"}, query


def test_rules_are_whole() -> None:
    """Every alert has a severity, a summary, and a row in the operations page that says what to do."""
    rules = yaml.safe_load((MONITORING / "alerts.yaml").read_text(encoding="utf-8"))
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    for rule in rules["groups"][0]["rules"]:
        assert rule["labels"]["severity"] in {"page", "ticket"}
        assert rule["annotations"]["summary"]
        assert f"| `{rule['alert']}` |" in page


def test_numbers_come_from_real_work(server: NatsServer, tmp_path: Path) -> None:
    """After a recording the stages, commands and codecs have counted it, and no label names the session."""
    source = tmp_path / "source"
    source.write_bytes(os.urandom(3_000_000))

    async def main() -> tuple[str, dict[str, Any]]:
        async with (
            pipeline(server) as service,
            exporting(service.adapters.settings, service.workers, port=0) as url,
            httpx.AsyncClient(base_url=url) as client,
        ):
            done = json.loads(await lucid(server, "record", SESSION, str(source), "--json"))
            assert done["chunks"] == 1
            text = await client.get("/metrics")
            old = await client.get("/metrics", headers={"Accept": "application/json"})
            assert text.headers["content-type"].startswith("text/plain")
            assert (await client.get("/metrics", headers={"Accept": OPEN_METRICS})).text.endswith("# EOF\n")
            return text.text, old.json()

    text, old = asyncio.run(main())
    found = samples(text)
    for stage in ("chunk_generation", "compression", "storage"):
        key = (("stage", stage),)
        assert found["lucid_stage_processed_total"][key] == 1
        assert found["lucid_stage_bytes_total"][key] == 3_000_000
        assert found["lucid_stage_seconds_count"][key] == 1
        assert found["lucid_stage_seconds_sum"][key] > 0
        assert found["lucid_stage_in_flight"][key] == 0
    assert found["lucid_stage_processed_total"][("stage", "merkle_building"),] == 1
    steps = {labels[0][1] for labels in found["lucid_chunk_step_seconds_count"]}
    assert steps == {"read", "hash", "probe", "compress", "put", "append"}
    assert found["lucid_command_seconds_count"][("outcome", "accepted"), ("verb", "seal")] == 1
    assert found["lucid_compression_raw_bytes_total"][("codec", "store"),] == 3_000_000
    assert found["lucid_scrape_complete"][()] == 1
    assert SESSION not in text
    assert {name for series in found.values() for labels in series for name, _ in labels} <= LABELS
    assert set(old) == {"active_pipelines", "total_workers", "pipeline_states", "stage_metrics"}
    assert old["stage_metrics"]["storage"]["processed"] == 1


OPEN_METRICS = "application/openmetrics-text; version=1.0.0"


def test_a_consumer_without_workers_falls_behind(server: NatsServer, tmp_path: Path) -> None:
    """What nobody stores shows as messages, age and stillness; an idle consumer has three zeros."""
    source = tmp_path / "source"
    source.write_bytes(b"x" * 1000)

    async def main() -> None:
        async with pipeline(server, "commands", "status") as service:
            await asyncio.wait_for(lucid(server, "create", SESSION), PATIENCE_S)
            recording = asyncio.create_task(lucid(server, "record", SESSION, str(source)))
            try:
                monitor = Monitor(service.adapters, workers=service.workers)
                async with asyncio.timeout(PATIENCE_S):
                    while not (lag := (await Monitor(service.adapters).lags())["chunks"]).events_behind:  # noqa: ASYNC110 - nothing tells
                        await asyncio.sleep(0.1)
                assert lag.events_behind == 1
                lags = await monitor.lags()
                assert lags["chunks"].seconds_behind >= lag.seconds_behind > 0
                assert 0 < lags["chunks"].seconds_since_progress <= lags["chunks"].seconds_behind
                assert lags["eraser"] == Lag(events_behind=0, seconds_behind=0.0, seconds_since_progress=0.0)
            finally:
                recording.cancel()
                await asyncio.gather(recording, return_exceptions=True)

    asyncio.run(main())


def test_health_says_what_is_down(server: NatsServer) -> None:
    """503 with the reason: a stream is gone, the server is gone; the process stays alive through it."""

    async def main() -> None:
        async with (
            pipeline(server) as service,
            exporting(service.adapters.settings, service.workers, port=0) as url,
            httpx.AsyncClient(base_url=url, timeout=PATIENCE_S) as client,
        ):
            for path in ("/health", "/health/ready", "/health/live"):
                assert (await client.get(path)).status_code == 200, path
            well = (await client.get("/health")).json()
            assert (well["status"], well["down"]) == ("healthy", {})
            assert set(well["checks"]) == {"nats", "streams", "consumers", "disk"}

            await service.adapters.connection.api(
                f"STREAM.DELETE.{service.adapters.subjects.outcomes_stream}"
            )
            ready = await client.get("/health/ready")
            assert ready.status_code == 503
            assert "LUCID_OUTCOMES is missing" in ready.json()["down"]["streams"]
            assert "lucid deploy" in ready.json()["down"]["streams"]

            server.kill()
            while (answer := await client.get("/health")).json()["checks"]["nats"] != "down":
                assert answer.status_code == 503
            assert answer.json()["down"]["nats"]
            assert (await client.get("/health/live")).status_code == 200
            incomplete = samples((await client.get("/metrics")).text)
            assert incomplete["lucid_scrape_complete"][()] == 0
            assert incomplete["lucid_probe_well"][("probe", "nats"),] == 0
            server.start()

    asyncio.run(main())


def test_a_full_disk_is_not_ready(server: NatsServer, tmp_path: Path) -> None:
    """Below the floor of free space the process says so before anything fails."""

    async def main() -> None:
        settings = Settings(nats_url=server.url, disk_floor_mib=10**7, chunk_output=str(tmp_path / "later"))
        async with up(settings) as service:
            found = await Monitor(service.adapters).health.look()
            assert "LUCID_DISK_FLOOR_MB is 10000000" in found.down["disk"]

    asyncio.run(main())
