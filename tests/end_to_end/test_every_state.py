"""Each of the ten states held still and looked at over HTTP, the four between the others included.

A state that is only passed through is held by taking away whoever would leave it: a recorder that does not
answer, a part of the workers that does not run.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from lucid_events.domain.transitions import State
from tests.end_to_end.audit import last_acked
from tests.end_to_end.http import Http
from tests.end_to_end.pipeline import Pipeline
from tests.end_to_end.processes import until

WITHIN_S = 60.0
DATA = b"all of it"


class Journey:
    """One session on its way, asked for and looked at by requests alone.

    Attributes:
        seen: every state that a status was answered with.
    """

    def __init__(self, http: Http, sid: str) -> None:
        self._http, self.sid = http, sid
        self.seen: set[str] = set()

    def ask(self, verb: str, **params: str | float) -> httpx.Response:
        """Ask for a transition; without `wait`, the answer is given before anything else happens."""
        path = f"/pipelines/{self.sid}/{verb}"
        return self._http.pipelines.post(path, params={"wait": 0, **params} if verb != "recover" else params)

    def at(self, state: State) -> None:
        """Return when the status says `state`; nothing else may have to happen for it to be seen."""
        until(lambda: self._look() == state, within_s=WITHIN_S, what=f"{self.sid} is {state}")

    def stays(self, state: State, looks: int = 3) -> None:
        """Look again: the state is one that lasts, not one that was caught by luck."""
        assert [self._look() for _ in range(looks)] == [state] * looks

    def events(self) -> list[str]:
        """Return the types of all events, as the history has them."""
        page = self._http.pipelines.get(f"/pipelines/{self.sid}/history").json()
        return [event["type"] for event in page["events"]]

    def _look(self) -> str:
        state = self._http.state(self.sid)
        self.seen.add(state)
        return state


@pytest.fixture
def held(pipelines: Callable[..., Pipeline]) -> Iterator[tuple[Pipeline, Http]]:
    """Give a pipeline whose workers finish no stop and no erasure, and its services."""
    env = {"LUCID_LEASE": "60", "LUCID_PAUSE_TIMEOUT": "5", "LUCID_START_TIMEOUT": "60"}
    pipeline = pipelines(env=env, without=("finaliser", "eraser"))
    http = Http(pipeline)
    yield pipeline, http
    http.close()


def test_every_state_is_reached_and_seen_over_http(held: tuple[Pipeline, Http], tmp_path: Path) -> None:
    """Ten states, each answered by the status while it lasts; requests alone ask for the way there."""
    pipeline, http = held
    way = Journey(http, "all-ten")
    assert http.pipelines.post("/pipelines", json={"session_id": way.sid}).status_code == 201
    way.at(State.CREATED)

    started = way.ask("start", source="external")
    assert (started.status_code, started.json()["state"]) == (202, "starting")
    way.stays(State.STARTING)

    reading, writing = os.pipe()
    acked = tmp_path / "acked"
    recorder = pipeline.spawn("record", way.sid, "-", "--acked-file", str(acked), stdin=reading)
    os.close(reading)
    os.write(writing, DATA)
    way.at(State.ACTIVE)
    until(
        lambda: acked.exists() and last_acked(acked) == len(DATA), within_s=WITHIN_S, what="bytes are durable"
    )

    recorder.pause()
    asked = way.ask("pause")
    assert (asked.status_code, asked.json()["state"]) == (202, "pausing")
    way.stays(State.PAUSING)
    way.at(State.ERROR)  # the recorder never drained, and the server keeps the deadline
    assert "pause" in http.pipelines.get(f"/pipelines/{way.sid}/status").json()["error_message"]
    recorder.kill9()
    os.close(writing)

    assert way.ask("recover").json()["state"] == "created"
    way.at(State.CREATED)
    assert way.ask("start", wait=10).json()["state"] == "active"
    pushed = http.pipelines.post(f"/pipelines/{way.sid}/chunks", content=DATA)
    assert (pushed.status_code, pushed.json()["offset"]) == (202, len(DATA)), pushed.text
    assert way.ask("pause", wait=10).json()["state"] == "paused"
    way.stays(State.PAUSED)
    assert way.ask("resume", wait=10).json()["state"] == "active"

    stopped = way.ask("stop")
    assert (stopped.status_code, stopped.json()["state"]) == (202, "stopping")
    way.stays(State.STOPPING)
    pipeline.worker("finaliser")
    way.at(State.STOPPED)
    assert http.media(way.sid) == DATA + DATA

    removed = http.pipelines.delete(f"/pipelines/{way.sid}", params={"wait": 0})
    assert (removed.status_code, removed.json()["state"]) == (202, "cleanup"), removed.text
    way.stays(State.CLEANUP)
    pipeline.worker("eraser")
    way.at(State.DESTROYED)
    assert way.seen == {str(state) for state in State}
    assert [kind for kind in way.events() if kind.startswith("session.")][-2:] == [
        "session.cleanup_started.v1",
        "session.destroyed.v1",
    ]


def test_a_stream_tells_of_every_state_between(pipeline: Pipeline) -> None:
    """Who follows the events of a session that nothing holds up is told of each state it passed through."""
    http = Http(pipeline)
    try:
        http.active("passing")
        http.pipelines.post("/pipelines/passing/chunks", content=DATA)
        for verb in ("pause", "resume", "stop"):
            assert http.pipelines.post(f"/pipelines/passing/{verb}").status_code == 200
        assert http.pipelines.delete("/pipelines/passing").status_code == 200
        with http.pipelines.stream("GET", "/pipelines/passing/events", params={"after": 0}) as stream:
            told = [
                line.removeprefix("event: ") for line in stream.iter_lines() if line.startswith("event: ")
            ]
    finally:
        http.close()
    facts = [kind.split(".")[1] for kind in told if kind.startswith("session.")]
    assert [fact for fact in facts if fact != "viewed"] == [
        *("created", "started", "pausing", "paused", "resumed"),
        *("stopping", "stopped", "cleanup_started", "destroyed"),
    ]
