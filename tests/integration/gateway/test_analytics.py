"""Stream analytics over HTTP: none, then those that `lucid up --analytics` keeps."""

import json
import os
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.end_to_end.http import Http, reason
from tests.end_to_end.pipeline import Pipeline
from tests.end_to_end.processes import until

WITHIN_S = 60.0
BYTES = 25_000


class Told:
    """The services of one pipeline, and what they said before there were analytics."""

    def __init__(self, http: Http, pipeline: Pipeline) -> None:
        self.http, self.pipeline = http, pipeline
        self.before = [one.get("/analytics") for one in self.services]
        self.metrics_before = figures(http.pipelines)

    @property
    def services(self) -> tuple[httpx.Client, httpx.Client]:
        return self.http.pipelines, self.http.recordings

    def until_counted(self) -> dict[str, Any]:
        """Return the report once the recording is in it."""

        def look() -> dict[str, Any] | None:
            answer = self.http.pipelines.get("/analytics")
            found: dict[str, Any] = answer.json()
            return found if answer.status_code == 200 and found["sessions"].get("stopped") else None

        return until(lambda: look() or {}, within_s=WITHIN_S, what="the recording in the analytics")


@pytest.fixture(scope="module")
def told(http: Http, pipeline: Pipeline) -> Told:
    """Give services that have seen both: a pipeline without analytics, then the same with them."""
    made = Told(http, pipeline)
    pipeline.stop()
    pipeline.start(flags=["--analytics"])
    source = pipeline.folder / "source"
    source.write_bytes(os.urandom(BYTES))
    pipeline.cli("record", "seen", str(source), "--chunk-bytes", "10000", "--owner", "ann")
    made.until_counted()
    return made


def figures(service: httpx.Client) -> dict[str, dict[tuple[str, ...], float]]:
    """Name -> values of labels -> value, of the analytics and of the scrape."""
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(service.get("/metrics").text):
        for sample in family.samples:
            if sample.name.startswith(("lucid_analytics_", "lucid_scrape_")):
                found.setdefault(sample.name, {})[tuple(sample.labels.values())] = sample.value
    return found


def test_before_any_analytics_there_is_nothing(told: Told) -> None:
    """Never set up, they are not found, with the error body of every route, and no metric makes zeros up."""
    for answer in told.before:
        assert answer.status_code == 404
        assert reason(answer) == "not_found"
        assert "lucid up --analytics" in answer.json()["error"]["message"]
    assert told.metrics_before == {"lucid_scrape_complete": {(): 1}}


def test_services_tell_what_the_command_prints(told: Told) -> None:
    """Both services answer with what `lucid analytics --json` prints, by any length of a window."""
    for window in ("10s", "1m", "1h"):
        said = json.loads(told.pipeline.cli("analytics", "--window", window, "--json", "-n", "7").stdout)
        for service in told.services:
            answer = service.get("/analytics", params={"window": window, "last": 7})
            assert (answer.status_code, answer.json()) == (200, said)
        assert sum(row["ready_bytes"] for row in said["windows"]) == BYTES
        assert said["owners"] == {"ann": BYTES}


@pytest.mark.parametrize(
    "asked", [{"window": "5m"}, {"window": ""}, {"last": "0"}, {"last": "721"}, {"last": "all"}], ids=str
)
def test_what_does_not_fit_is_refused(http: Http, asked: dict[str, str]) -> None:
    """A length that there is not, or too many windows, is an invalid request that names its parameter."""
    answer = http.pipelines.get("/analytics", params=asked)
    assert answer.status_code == 422
    assert answer.json()["error"]["details"]["field"] == next(iter(asked))


def test_the_document_describes_it(http: Http) -> None:
    """OpenAPI has the parameters with their bounds, the report, and the errors."""
    document = http.recordings.get("/schema/openapi.json").json()
    described = document["paths"]["/analytics"]["get"]
    schemas = {one["name"]: one["schema"] for one in described["parameters"]}
    assert schemas["window"]["enum"] == ["10s", "1m", "1h"]
    assert (schemas["last"]["minimum"], schemas["last"]["maximum"]) == (1, 720)
    assert {"200", "401", "403", "404", "422", "503"} <= set(described["responses"])
    assert "ready_bytes_per_second" in str(document["components"]["schemas"])


def test_metrics_tell_the_analytics(told: Told) -> None:
    """A scrape has the sessions, the sums and, with nothing behind, the rates of the last whole minute."""

    def look() -> dict[str, dict[tuple[str, ...], float]]:
        found = figures(told.http.pipelines)
        return found if found.get("lucid_analytics_events_behind") == {(): 0} else {}

    found = until(look, within_s=WITHIN_S, what="nothing behind")
    assert found["lucid_scrape_complete"] == {(): 1}
    assert found["lucid_analytics_sessions"] == {("stopped",): 1}
    assert found["lucid_analytics_events_total"][()] >= 10
    assert found["lucid_analytics_undecodable_total"] == found["lucid_analytics_late_total"] == {(): 0}
    for what in ("captured", "sealed", "ready"):
        assert found[f"lucid_analytics_{what}_bytes_per_second"][()] >= 0
