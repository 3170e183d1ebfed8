"""Every state and every refusal of a session, over HTTP alone."""

import re
from typing import Any

import httpx
import pytest

from tests.end_to_end.http import Http, reason

VERBS = ("start", "pause", "resume", "stop", "recover")
LEGAL = {
    "created": {"start"},
    "active": {"pause", "stop"},
    "paused": {"resume", "stop"},
    "stopped": {"recover"},
    "error": {"recover"},
    "destroyed": set[str](),
}
"""What of `VERBS` each resting state takes."""


def _bring(http: Http, sid: str, state: str) -> None:
    """Bring a new session to `state` by requests alone."""
    ask = http.pipelines.post
    if state == "created":
        assert ask("/pipelines", json={"session_id": sid}).status_code == 201
        return
    http.active(sid)
    steps = {
        "active": [],
        "paused": ["pause"],
        "stopped": ["stop"],
        "error": ["fail"],
        "destroyed": ["stop"],
    }
    for verb in steps[state]:
        answer = ask(f"/pipelines/{sid}/{verb}")
        assert answer.status_code == 200, answer.text
    if state == "destroyed":
        assert http.pipelines.delete(f"/pipelines/{sid}").status_code == 200


@pytest.mark.parametrize("state", LEGAL)
def test_a_state_refuses_what_the_table_does_not_have(http: Http, sid: str, state: str) -> None:
    """In each resting state an illegal transition is 409 and names the triggers that are allowed."""
    _bring(http, sid, state)
    assert http.state(sid) == state
    for verb in set(VERBS) - LEGAL[state]:
        answer = http.pipelines.post(f"/pipelines/{sid}/{verb}")
        assert answer.status_code == 409, (verb, answer.text)
        details = answer.json()["error"]["details"]
        assert (details["reason"], details["state"]) == ("illegal_transition", state)
        assert verb not in details.get("allowed", [])
        assert LEGAL[state] <= set(details.get("allowed", []))
    assert http.state(sid) == state


@pytest.mark.parametrize(
    ("state", "allowed"),
    [
        ("created", "start, fail, delete"),
        ("stopped", "recover, delete"),
        ("error", "recover, delete"),
        ("destroyed", None),
    ],
)
def test_an_answer_without_a_body_says_why(http: Http, sid: str, state: str, allowed: str | None) -> None:
    """A HEAD that is refused tells reason, state and what may be asked for, as POST does in its body."""
    _bring(http, sid, state)
    answer = http.pipelines.head(f"/pipelines/{sid}/chunks")
    assert (answer.status_code, answer.content) == (409, b"")
    told = [answer.headers.get(f"lucid-{name}") for name in ("reason", "state", "allowed")]
    assert told == ["not_active", state, allowed]
    refused = http.pipelines.post(f"/pipelines/{sid}/chunks", content=b"x")
    details = refused.json()["error"]["details"]
    assert [details["reason"], details["state"], details.get("allowed")] == [
        "not_active",
        state,
        allowed.split(", ") if allowed else None,
    ]
    unknown = http.pipelines.head(f"/pipelines/{sid}-unknown/chunks")
    assert (unknown.status_code, unknown.headers["lucid-reason"]) == (404, "not_found")


def test_a_refusal_names_what_was_asked_for(http: Http, sid: str) -> None:
    """`fail` and DELETE that are refused are called so, and not by the triggers of the table."""
    http.active(sid)
    running = http.pipelines.delete(f"/pipelines/{sid}").json()["error"]
    assert running["message"] == f"session {sid} is active: delete is not allowed"
    assert running["details"]["allowed"] == ["pause", "stop", "fail"]
    http.pipelines.post(f"/pipelines/{sid}/chunks", content=b"x")
    http.stop(sid)
    ended = http.pipelines.post(f"/pipelines/{sid}/fail").json()["error"]
    assert ended["message"] == f"session {sid} is stopped: fail is not allowed"
    http.pipelines.post(f"/pipelines/{sid}/recover")
    stored = http.pipelines.delete(f"/pipelines/{sid}").json()["error"]
    assert "`POST …/fail` first" in stored["message"]
    assert stored["details"]["allowed"] == ["start", "fail"]
    assert http.pipelines.post(f"/pipelines/{sid}/fail").status_code == 200
    assert http.pipelines.delete(f"/pipelines/{sid}").json()["state"] == "destroyed"


def test_a_session_goes_all_the_way_round(http: Http, sid: str) -> None:
    """Created, active, paused, active, stopped, recovered, stopped again, erased: its bytes go on."""
    http.active(sid)
    push = f"/pipelines/{sid}/chunks"
    assert http.pipelines.post(push, content=b"one ").status_code == 202
    for verb, state in (("pause", "paused"), ("resume", "active")):
        answer = http.pipelines.post(f"/pipelines/{sid}/{verb}", json={"reason": "lunch"})
        assert (answer.status_code, answer.json()["state"]) == (200, state)
    assert http.pipelines.post(push, content=b"two ").status_code == 202
    http.stop(sid)
    assert http.pipelines.post(f"/pipelines/{sid}/recover").json()["state"] == "created"
    assert http.pipelines.post(f"/pipelines/{sid}/start").json()["state"] == "active"
    again = http.pipelines.post(push, params={"offset": 8}, content=b"three")
    assert (again.status_code, again.json()["offset"]) == (202, 8)
    assert http.stop(sid)["final_chunks"] == 3
    assert http.media(sid) == b"one two three"
    gone = http.recordings.delete(f"/recordings/{sid}")
    assert (gone.status_code, gone.json()["deleted_chunks"]) == (200, 3)
    assert http.recordings.get(f"/recordings/{sid}/media").status_code == 404
    assert http.state(sid) == "destroyed"


def test_a_session_may_wait_for_another_recorder(http: Http, sid: str) -> None:
    """`source=external` leaves the session starting: 202, and nobody is attached."""
    http.pipelines.post("/pipelines", json={"session_id": sid})
    answer = http.pipelines.post(f"/pipelines/{sid}/start", params={"source": "external", "wait": 0})
    assert (answer.status_code, answer.json()["state"]) == (202, "starting")
    assert http.pipelines.get(f"/pipelines/{sid}/status").json()["recorder"] is None


def test_bytes_are_refused_where_a_session_is_not_active(http: Http, sid: str) -> None:
    """Bytes for a session that is created or paused are 409 with the code of one that is not started."""
    http.pipelines.post("/pipelines", json={"session_id": sid})
    for _ in range(2):
        answer = http.pipelines.post(f"/pipelines/{sid}/chunks", content=b"x")
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "LUCID_ERR_3004")
    http.pipelines.post(f"/pipelines/{sid}/start")
    http.pipelines.post(f"/pipelines/{sid}/pause")
    paused = http.pipelines.post(f"/pipelines/{sid}/chunks", content=b"x")
    assert (paused.status_code, reason(paused)) == (409, "not_active")
    assert "resume" in paused.json()["error"]["details"]["allowed"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/pipelines/nobody/start"),
        ("POST", "/pipelines/nobody/stop"),
        ("GET", "/pipelines/nobody/status"),
        ("GET", "/pipelines/nobody/history"),
        ("GET", "/pipelines/nobody/events"),
        ("POST", "/pipelines/nobody/chunks"),
        ("DELETE", "/pipelines/nobody"),
    ],
)
def test_unknown_sessions_are_not_found(http: Http, method: str, path: str) -> None:
    """Whatever is asked of a session nobody created is 404 with its code, in the shape of every error."""
    answer = http.pipelines.request(method, path)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (404, "LUCID_ERR_3001"), answer.text
    assert set(error) >= {"code", "message", "request_id", "timestamp", "service", "version"}
    assert error["timestamp"].endswith("Z")


@pytest.mark.parametrize(
    "path",
    [
        "/pipelines/..%2f..%2fetc/status",
        "/pipelines/%2e%2e/status",
        "/pipelines/a.b/status",
        "/pipelines/*/status",
        "/pipelines/" + "a" * 101 + "/status",
        "/pipelines/ä/status",
        "/pipelines/a%00b/status",
        "/pipelines?limit=-1",
        "/pipelines?limit=1000000000000000000000000",
        "/pipelines?cursor=%ff",
        "/pipelines?state=flying",
        "/pipelines/s/status?min_position=-1",
        "/pipelines/s/status?min_position=99999999999999999999",
        "/pipelines/s/events?after=x",
        "/pipelines/nobody/status?min_position=7&timeout=0",
    ],
)
def test_what_does_not_fit_is_refused_as_such(http: Http, path: str) -> None:
    """Ids that are paths or subjects, numbers out of range, unknown values are 4xx, and said to be wrong."""
    answer = http.pipelines.get(path)
    assert answer.status_code in (404, 422), answer.text
    assert answer.json()["error"]["message"]


def test_older_clients_are_understood(http: Http, sid: str) -> None:
    """The session id in the query and bytes in base64 in JSON work as they always did."""
    created = http.pipelines.post("/pipelines", params={"session_id": sid})
    assert (created.status_code, created.json()["status"]) == (201, "created")
    assert created.json()["pipeline_id"]
    again = http.pipelines.post("/pipelines", params={"session_id": sid})
    assert (again.status_code, again.json()["error"]["code"]) == (409, "LUCID_ERR_3003")
    http.pipelines.post(f"/pipelines/{sid}/start")
    envelope = {"chunk_data": "aGVsbG8=", "chunk_metadata": {"camera": 1}}
    taken = http.pipelines.post(f"/pipelines/{sid}/chunks", json=envelope)
    assert (taken.status_code, taken.json()["accepted_bytes"]) == (202, 5)
    http.stop(sid)
    assert http.media(sid) == b"hello"


def test_a_transition_may_insist_on_a_version(http: Http, sid: str) -> None:
    """`If-Match` takes the ETag of an answer; a session that has moved on since is 412 and stays as it is."""
    created = http.pipelines.post("/pipelines", json={"session_id": sid})
    tag = created.headers["etag"]
    assert http.pipelines.get(f"/pipelines/{sid}/status").headers["etag"] == tag
    assert http.pipelines.post(f"/pipelines/{sid}/start", headers={"If-Match": tag}).status_code == 200
    late = http.pipelines.post(f"/pipelines/{sid}/pause", headers={"If-Match": tag})
    assert (late.status_code, reason(late)) == (412, "version_mismatch")
    assert http.pipelines.post(f"/pipelines/{sid}/pause", headers={"If-Match": "nonsense"}).status_code == 412
    assert http.state(sid) == "active"
    fresh = http.pipelines.get(f"/pipelines/{sid}/status").headers["etag"]
    same = http.pipelines.get(f"/pipelines/{sid}/status", headers={"If-None-Match": fresh})
    assert (same.status_code, same.content) == (304, b"")
    assert http.pipelines.post(f"/pipelines/{sid}/pause", headers={"If-Match": fresh}).status_code == 200


def test_an_idempotency_key_takes_effect_once(http: Http, sid: str) -> None:
    """The same key twice is one command with one outcome, as after a lost answer."""
    key = {"Idempotency-Key": f"create-{sid}"}
    first = http.pipelines.post("/pipelines", json={"session_id": sid}, headers=key)
    again = http.pipelines.post("/pipelines", json={"session_id": sid}, headers=key)
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json() == again.json()
    wrong = http.pipelines.post("/pipelines", json={"session_id": sid}, headers={"Idempotency-Key": "a b"})
    assert wrong.status_code == 422


def test_a_held_session_is_not_deleted(http: Http, sid: str) -> None:
    """While a hold stands DELETE is 409 on both services; released, the session goes."""
    http.active(sid)
    http.stop(sid)
    held = http.pipelines.post(f"/pipelines/{sid}/holds", json={"hold": "case 7"})
    assert held.status_code == 200
    for client, path in ((http.pipelines, "pipelines"), (http.recordings, "recordings")):
        answer = client.delete(f"/{path}/{sid}")
        assert (answer.status_code, reason(answer)) == (409, "held")
        assert answer.json()["error"]["details"]["allowed"] == ["recover", "release"]
    assert http.pipelines.delete(f"/pipelines/{sid}/holds/case 7").status_code == 200
    assert http.pipelines.delete(f"/pipelines/{sid}").json()["state"] == "destroyed"


def test_a_delete_under_a_key_and_a_condition_stops_and_erases(http: Http, sid: str) -> None:
    """One request that takes two commands does both: the condition is for the first, the key for each."""
    http.active(sid)
    http.pipelines.post(f"/pipelines/{sid}/chunks", params={"wait": "ready"}, content=b"x")
    tag = http.recordings.get(f"/recordings/{sid}").headers["etag"]
    asked = {"Idempotency-Key": f"delete-{sid}", "If-Match": tag}
    gone = http.recordings.delete(f"/recordings/{sid}", headers=asked)
    assert (gone.status_code, gone.json()["status"], gone.json()["deleted_chunks"]) == (200, "destroyed", 1)


def test_request_ids_go_through(http: Http) -> None:
    """An id the client chose comes back in the header and in errors; otherwise one is made."""
    mine = http.pipelines.get("/pipelines/nobody/status", headers={"X-Request-Id": "trace-1"})
    assert (mine.headers["x-request-id"], mine.json()["error"]["request_id"]) == ("trace-1", "trace-1")
    ours = http.pipelines.get("/nowhere", headers={"X-Request-Id": "bad id"})
    assert re.fullmatch(r"[0-9a-f-]{36}", ours.headers["x-request-id"])
    assert ours.json()["error"]["request_id"] == ours.headers["x-request-id"]


def test_lists_are_paged_by_cursor(http: Http, sid: str) -> None:
    """A page ends in a cursor that leads on until all are seen once; another list's cursor is refused."""
    owner = f"owner-{sid}"
    for number in range(5):
        body = {"session_id": f"{sid}-{number}", "owner_address": owner}
        assert http.pipelines.post("/pipelines", json=body).status_code == 201
    http.pipelines.get(f"/pipelines/{sid}-4/status", params={"min_position": 1})
    seen: list[str] = []
    cursor: Any = None
    while True:
        asked = {"owner": owner, "limit": 2, **({"cursor": cursor} if cursor else {})}
        page = http.pipelines.get("/pipelines", params=asked).json()
        seen += [one["session_id"] for one in page["pipelines"]]
        if (cursor := page["cursor"]) is None:
            break
    assert seen == [f"{sid}-{number}" for number in range(5)]
    page = http.pipelines.get("/pipelines", params={"owner": owner, "limit": 2}).json()
    other = http.recordings.get("/recordings", params={"cursor": page["cursor"]})
    assert (other.status_code, other.json()["error"]["details"]["field"]) == (422, "cursor")


def test_a_history_is_paged_and_streamed(http: Http, sid: str) -> None:
    """Pages, and server-sent events from a `Last-Event-ID` on, tell the same events, each once."""
    http.active(sid)
    http.stop(sid)
    events: list[dict[str, Any]] = []
    cursor = None
    while True:
        asked = {"limit": 2, **({"cursor": cursor} if cursor else {})}
        page = http.pipelines.get(f"/pipelines/{sid}/history", params=asked).json()
        events += page["events"]
        if (cursor := page["cursor"]) is None:
            break
    assert [one["type"] for one in events][:2] == ["session.created.v1", "session.started.v1"]
    assert [one["prev"] for one in events[1:]] == [one["digest"] for one in events[:-1]]
    told = http.pipelines.get(f"/pipelines/{sid}/events", params={"follow": "false"})
    assert told.headers["content-type"].startswith("text/event-stream")
    assert _ids(told.text) == [one["sequence"] for one in events]
    rest = http.pipelines.get(
        f"/pipelines/{sid}/events",
        params={"follow": "false"},
        headers={"Last-Event-ID": str(events[1]["sequence"])},
    )
    assert _ids(rest.text) == [one["sequence"] for one in events[2:]]
    junk = http.pipelines.get(f"/pipelines/{sid}/events", headers={"Last-Event-ID": "x"})
    assert junk.status_code == 422


def test_a_stream_follows_a_session_to_its_end(http: Http, sid: str) -> None:
    """A stream stays open when the session stops and ends when it is destroyed; behind that there is none."""
    http.active(sid)
    kinds: list[str] = []
    last = ""
    with http.pipelines.stream("GET", f"/pipelines/{sid}/events") as stream:
        for line in stream.iter_lines():
            if line.startswith("id: "):
                last = line.removeprefix("id: ")
            if line.startswith("event: "):
                kinds.append(line.removeprefix("event: "))
            if kinds and kinds[-1] == "recorder.attached.v1" and line == "":
                http.stop(sid)
                http.pipelines.delete(f"/pipelines/{sid}", params={"wait": 0})
    assert kinds[-1] == "session.destroyed.v1"
    assert "session.stopped.v1" in kinds
    again = http.pipelines.get(f"/pipelines/{sid}/events", headers={"Last-Event-ID": last})
    assert (again.status_code, again.content) == (204, b"")


def test_a_service_tells_its_state(http: Http, sid: str) -> None:
    """Status, config, compression and metrics answer with their fields; secrets are masked."""
    http.active(sid)
    status = http.pipelines.get("/status").json()
    assert status["active_pipelines"][sid]["state"] == "active"
    assert status["service"] == "lucid-pipeline-manager"
    recorder = http.recordings.get("/status").json()
    assert sid in [one["session_id"] for one in recorder["active_recordings"]]
    assert sid in recorder["recorded_here"]
    assert http.pipelines.get("/config").json()["http"]["host"] == "127.0.0.1"
    stats = http.recordings.get("/compression/stats").json()
    assert {"total_compressions", "average_compression_ratio", "codecs"} <= set(stats)
    assert http.recordings.post("/compression/reset").json()["total_compressions"] == 0
    for client in (http.pipelines, http.recordings):
        health = client.get("/health")
        assert (health.status_code, health.json()["status"]) == (200, "healthy"), health.text
        assert "lucid_" in client.get("/metrics").text


def _ids(text: str) -> list[int]:
    return [int(line.removeprefix("id: ")) for line in text.splitlines() if line.startswith("id: ")]


def test_methods_that_do_not_exist_say_so(http: Http) -> None:
    """A method a path does not have is 405 in the shape of every error."""
    answer: httpx.Response = http.pipelines.put("/pipelines")
    assert (answer.status_code, reason(answer)) == (405, "method_not_allowed")


def test_pages_of_an_allowed_origin_may_ask(http: Http) -> None:
    """A browser is told that the origin of the setting may ask and what it may read, another one nothing."""
    asked = {"Origin": "https://player.example", "Access-Control-Request-Method": "POST"}
    answer = http.pipelines.options("/pipelines", headers=asked)
    assert answer.headers["access-control-allow-origin"] == "https://player.example"
    got = http.pipelines.get("/pipelines", headers={"Origin": "https://player.example"})
    assert "upload-offset" in got.headers["access-control-expose-headers"].lower()
    other = http.pipelines.get("/pipelines", headers={"Origin": "https://elsewhere.example"})
    assert "access-control-allow-origin" not in other.headers
