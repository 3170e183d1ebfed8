"""The REST services as processes of their own beside a pipeline, and a client of both."""

import json
from collections.abc import Mapping
from typing import Any

import httpx

from tests.end_to_end.pipeline import Pipeline
from tests.end_to_end.processes import Running

ASK_S = 60.0
"""Bound of one request; most are over in milliseconds."""


class Http:
    """`lucid serve all` on free ports; `pipelines` and `recordings` are clients of its two services."""

    def __init__(self, pipeline: Pipeline, env: Mapping[str, str] | None = None) -> None:
        self._pipeline, self._env = pipeline, {"LUCID_SHUTDOWN_TIMEOUT": "10", **(env or {})}
        self.pipelines = self.recordings = httpx.Client()
        self.start()

    def start(self) -> None:
        """Start the services, on new ports."""
        self.close()
        self.process: Running = self._pipeline.spawn("serve", "all", "--port", "0", "--json", env=self._env)
        urls = json.loads(self.process.says('"http"'))["http"]
        self.pipelines = httpx.Client(base_url=urls["pipeline"], timeout=ASK_S)
        self.recordings = httpx.Client(base_url=urls["recorder"], timeout=ASK_S)

    def active(self, sid: str, **settings: Any) -> None:
        """Bring a session that takes pushed bytes into being."""
        body = {"session_id": sid, "settings": settings}
        assert self.pipelines.post("/pipelines", json=body).status_code == 201
        started = self.pipelines.post(f"/pipelines/{sid}/start")
        assert (started.status_code, started.json()["state"]) == (200, "active"), started.text

    def state(self, sid: str) -> str:
        """Return the session's state."""
        return str(self.pipelines.get(f"/pipelines/{sid}/status").json()["state"])

    def stop(self, sid: str) -> dict[str, Any]:
        """Stop the recording and return the answer, with all of its chunks."""
        stopped = self.recordings.post(f"/recordings/{sid}/stop")
        assert stopped.status_code == 200, stopped.text
        return dict(stopped.json())

    def media(self, sid: str) -> bytes:
        """Return the whole recording."""
        played = self.recordings.get(f"/recordings/{sid}/media")
        assert played.status_code == 200, played.text
        return played.content

    def close(self) -> None:
        """Close the clients; the process ends with its pipeline."""
        self.pipelines.close()
        self.recordings.close()


def reason(answer: httpx.Response) -> str:
    """Return why the services refused."""
    return str(answer.json()["error"]["details"]["reason"])
