"""Bytes pushed over HTTP: where they go, what is promised of them, and what is refused."""

import http.client
import json
import random
import socket
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.end_to_end.http import Http, reason
from tests.end_to_end.processes import until

KIB, MIB = 1024, 1024 * 1024


def test_the_answer_says_where_the_bytes_are(http: Http, sid: str) -> None:
    """Offsets and chunk indices of consecutive bodies follow each other."""
    http.active(sid, chunk_bytes=4096)
    told = []
    for size in (1000, 4096, 3096, 1):
        answer = http.pipelines.post(f"/pipelines/{sid}/chunks", content=b"x" * size).json()
        told.append(
            (answer["offset"], answer["accepted_bytes"], answer["next_offset"], answer["chunk_index"])
        )
    assert told == [(0, 1000, 1000, 0), (1000, 4096, 5096, 1), (5096, 3096, 8192, 1), (8192, 1, 8193, 2)]
    head = http.pipelines.head(f"/pipelines/{sid}/chunks")
    assert (head.status_code, head.headers["upload-offset"]) == (204, "8193")


def test_a_receipt_can_be_waited_for(http: Http, sid: str) -> None:
    """`wait=ready` ends a chunk behind the body and answers with what is stored of it."""
    http.active(sid)
    answer = http.pipelines.post(f"/pipelines/{sid}/chunks", params={"wait": "ready"}, content=b"y" * 5000)
    assert (answer.status_code, answer.json()["status"]) == (200, "ready")
    (receipt,) = answer.json()["receipts"]
    assert (receipt["offset"], receipt["size_bytes"], receipt["chunk_index"]) == (0, 5000, 0)
    assert receipt["stored_bytes"] < 5000


def test_process_tells_the_chunks_it_completed(http: Http, sid: str) -> None:
    """`/chunks/{sid}/process` answers with every chunk that the bytes filled, and leaves the rest open."""
    http.active(sid, chunk_bytes=64 * KIB)
    done = http.recordings.post(f"/chunks/{sid}/process", content=b"z" * (150 * KIB)).json()
    assert (done["processed_bytes"], done["completed_chunks"]) == (150 * KIB, 2)
    assert [one["chunk_id"] for one in done["chunk_metadata"]] == [f"{sid}-chunk-00000{n}" for n in (0, 1)]
    assert {"size_bytes", "compression_ratio", "quality_score"} <= set(done["chunk_metadata"][0])
    rest = http.recordings.post(f"/chunks/{sid}/process", content=b"z").json()
    assert rest["completed_chunks"] == 0


def test_a_wrong_offset_is_refused_with_the_right_one(http: Http, sid: str) -> None:
    """Bytes that would leave a hole, or be there twice, are 409 with the offset to go on at."""
    http.active(sid)
    http.pipelines.post(f"/pipelines/{sid}/chunks", params={"offset": 0}, content=b"12345")
    for wrong in (0, 4, 6, 2**53 - 1):
        answer = http.pipelines.post(f"/pipelines/{sid}/chunks", params={"offset": wrong}, content=b"x")
        assert (answer.status_code, reason(answer)) == (409, "offset_mismatch")
        assert answer.headers["upload-offset"] == "5"
        assert answer.json()["error"]["details"]["offset"] == 5
    for junk in ("-1", "x", str(2**53), "9" * 40):
        asked = http.pipelines.post(f"/pipelines/{sid}/chunks", params={"offset": junk}, content=b"x")
        assert asked.status_code == 422
    http.stop(sid)
    assert http.media(sid) == b"12345"


def test_concurrent_bodies_are_never_mixed(http: Http, sid: str) -> None:
    """Bodies sent at the same time are taken one after the other, each whole, or refused as busy."""
    http.active(sid, chunk_bytes=64 * KIB)
    taken: list[tuple[int, int]] = []
    refused: list[int] = []

    def slowly(letter: int) -> Iterator[bytes]:
        for _ in range(20):
            yield bytes([letter]) * 5000

    def send(letter: int) -> None:
        answer = http.pipelines.post(f"/pipelines/{sid}/chunks", content=slowly(letter))
        if answer.status_code == 202:
            taken.append((answer.json()["offset"], letter))
        else:
            refused.append(answer.status_code)

    threads = [threading.Thread(target=send, args=(letter,)) for letter in b"abcdefgh"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert set(refused) <= {409}
    assert len(taken) + len(refused) == 8
    http.stop(sid)
    assert http.media(sid) == b"".join(bytes([letter]) * 100_000 for _, letter in sorted(taken))


def test_a_body_behind_a_slow_one_is_told_to_wait(http: Http, sid: str) -> None:
    """While a body stands still another one is refused as busy, and nothing of it is recorded."""
    http.active(sid)
    with _open_body(http, sid, announced=10 * MIB) as slow:
        slow.sendall(b"a" * 100_000)
        until(lambda: _durable(http, sid) == 100_000, within_s=10, what="the first bytes are durable")
        answer = http.pipelines.post(f"/pipelines/{sid}/chunks", content=b"b")
        assert (answer.status_code, reason(answer)) == (409, "busy")
        assert "retry-after" in answer.headers


def test_a_body_that_breaks_off_is_kept_as_far_as_it_came(http: Http, sid: str) -> None:
    """A client that goes in the middle finds what was read durable, and goes on from there byte for byte."""
    data = random.Random(2).randbytes(3 * MIB)
    http.active(sid)
    with _open_body(http, sid, announced=len(data)) as broken:
        broken.sendall(data[: 2 * MIB])
        until(lambda: _durable(http, sid) == 2 * MIB, within_s=10, what="what was sent is durable")
    offset = int(http.pipelines.head(f"/pipelines/{sid}/chunks").headers["upload-offset"])
    assert offset == 2 * MIB
    rest = http.pipelines.post(f"/pipelines/{sid}/chunks", params={"offset": offset}, content=data[offset:])
    assert rest.status_code == 202
    http.stop(sid)
    assert http.media(sid) == data


def test_a_small_body_is_taken_whole_or_not_at_all(http: Http, sid: str) -> None:
    """Of a small body of known length that breaks off, nothing is recorded."""
    http.active(sid)
    with _open_body(http, sid, announced=1000) as broken:
        broken.sendall(b"a" * 999)
    answer = http.pipelines.post(f"/pipelines/{sid}/chunks", content=b"whole")
    assert (answer.status_code, answer.json()["offset"]) == (202, 0)


def test_a_pause_ends_a_body_in_the_middle(http: Http, sid: str) -> None:
    """A session paused while a body comes takes no more of it, and says how far it came."""
    http.active(sid)
    with _open_body(http, sid, announced=10 * MIB) as slow:
        slow.sendall(b"a" * 100_000)
        until(lambda: _durable(http, sid) == 100_000, within_s=10, what="the first bytes are durable")
        assert http.pipelines.post(f"/pipelines/{sid}/pause").json()["state"] == "paused"
        slow.sendall(b"a" * 200_000)
        status, headers, _ = _answer(slow)
        assert (status, headers["upload-offset"]) == (409, "100000")
    http.pipelines.post(f"/pipelines/{sid}/resume")
    http.stop(sid)
    assert http.media(sid) == b"a" * 100_000


def test_bodies_over_the_limit_are_refused(http: Http, sid: str) -> None:
    """A body that says it is too large is refused unread; one that only is, as soon as it shows."""
    http.active(sid)
    with _open_body(http, sid, announced=65 * MIB) as refused:
        status, _, body = _answer(refused)
        assert (status, body["error"]["details"]["reason"]) == (413, "too_large")

    def endless() -> Iterator[bytes]:
        for _ in range(66):
            yield b"x" * MIB

    try:
        answer = http.pipelines.post(f"/pipelines/{sid}/chunks", content=endless())
        assert answer.status_code == 413
        assert 63 * MIB < int(answer.headers["upload-offset"]) <= 64 * MIB
    except httpx.TransportError:
        pass  # the connection is closed before the rest is sent: some clients see only that
    assert int(http.pipelines.head(f"/pipelines/{sid}/chunks").headers["upload-offset"]) <= 64 * MIB


@pytest.mark.parametrize(
    ("headers", "content", "status"),
    [
        ({"Content-Type": "multipart/form-data; boundary=x"}, b"--x--", 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, b"a=b", 415),
        ({"Content-Encoding": "gzip"}, b"x", 415),
        ({"Content-Type": "application/json"}, b"{", 422),
        ({"Content-Type": "application/json"}, b"[]", 422),
        ({"Content-Type": "application/json"}, b'{"chunk_data": "***"}', 422),
        ({"Content-Type": "application/json"}, b'{"chunk_data": 7}', 422),
        ({"Content-Type": "application/json"}, b'{"chunk_data": "", "more": 1}', 422),
        ({"Content-Type": "application/json"}, b"[" * 100_000, 422),
        ({}, b"", 202),
    ],
)
def test_bodies_of_other_kinds_are_refused(
    http: Http, sid: str, headers: dict[str, str], content: bytes, status: int
) -> None:
    """Forms, encoded bodies and envelopes that don't fit are 4xx and leave nothing in the recording."""
    http.active(sid)
    answer = http.pipelines.post(f"/pipelines/{sid}/chunks", content=content, headers=headers)
    assert answer.status_code == status, answer.text
    assert http.pipelines.head(f"/pipelines/{sid}/chunks").headers["upload-offset"] == "0"


@pytest.mark.parametrize(
    "body",
    [
        b"not json",
        b"[]",
        b'{"session_id": 7}',
        b'{"session_id": "../x"}',
        b'{"session_id": "a", "settings": {"chunk_bytes": -1}}',
        b'{"session_id": "a", "settings": {"chunk_bytes": 1e400}}',
        b'{"session_id": "a", "settings": {"codec": "rar"}}',
        b'{"session_id": "a", "metadata": {"": "x"}}',
        b'{"session_id": "a", "unknown": 1}',
        b'{"session_id": "a", "owner_address": "' + b"x" * 201 + b'"}',
        b'{"session_id": "\xff"}',
        b"{}",
    ],
)
def test_bad_sessions_are_not_created(http: Http, body: bytes) -> None:
    """Whatever does not fit is 422 with the field at fault, on both services."""
    headers = {"Content-Type": "application/json"}
    for client, path in ((http.pipelines, "/pipelines"), (http.recordings, "/recordings/start")):
        answer = client.post(path, content=body, headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "LUCID_ERR_3002"), answer.text


def test_a_large_json_body_is_refused(http: Http) -> None:
    """JSON is held whole, so it has a limit of its own: 413."""
    body = json.dumps({"session_id": "a", "label": "x" * 300_000})
    answer = http.pipelines.post("/pipelines", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 413


def test_a_form_is_told_what_the_route_takes(http: Http, sid: str) -> None:
    """A body called a form, as curl does by itself, is refused with the type that this route takes."""
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    body = json.dumps({"session_id": sid})
    created = http.pipelines.post("/pipelines", content=body, headers=form)
    assert (created.status_code, reason(created)) == (415, "not_json")
    assert "`Content-Type: application/json`" in created.json()["error"]["message"]
    taken = {"Content-Type": "application/json"}
    assert http.pipelines.post("/pipelines", content=body, headers=taken).status_code == 201
    http.pipelines.post(f"/pipelines/{sid}/start")
    pushed = http.pipelines.post(f"/pipelines/{sid}/chunks", content=b"a", headers=form)
    assert (pushed.status_code, reason(pushed)) == (415, "form")
    assert "`Content-Type: application/octet-stream`" in pushed.json()["error"]["message"]


def test_only_allowed_programs_run(http: Http, sid: str) -> None:
    """A program the operator named is recorded to its end; another one is refused before a session exists."""
    start = {"session_id": sid, "source": "command", "command": ["seq", "1", "5"]}
    assert http.recordings.post("/recordings/start", json=start).status_code == 201
    until(lambda: http.state(sid) == "stopped", within_s=20, what="the program's recording is over")
    assert http.media(sid) == b"1\n2\n3\n4\n5\n"
    refused = {"session_id": f"{sid}-2", "source": "command", "command": ["/bin/sh", "-c", "id"]}
    answer = http.recordings.post("/recordings/start", json=refused)
    assert (answer.status_code, answer.json()["error"]["details"]["field"]) == (422, "command")
    assert http.recordings.get(f"/recordings/{sid}-2").status_code == 404


def test_a_program_that_can_not_run_leaves_an_error(http: Http, sid: str) -> None:
    """What was allowed and is not there is 422, and the session is in error with the reason."""
    start = {"session_id": sid, "source": "command", "command": ["no-such-program"]}
    answer = http.recordings.post("/recordings/start", json=start)
    assert answer.status_code == 422
    told = http.recordings.get(f"/recordings/{sid}").json()
    assert told["status"] == "error"
    assert "no-such-program" in told["error_message"]


class _open_body:  # noqa: N801 - used as a function
    """A connection on which a body of `announced` bytes has been announced, and nothing sent of it."""

    def __init__(self, http: Http, sid: str, *, announced: int) -> None:
        url = http.pipelines.base_url
        self._socket = socket.create_connection((url.host, url.port or 80), timeout=30)
        self._socket.sendall(
            f"POST /pipelines/{sid}/chunks HTTP/1.1\r\nHost: x\r\n"
            f"Content-Type: application/octet-stream\r\nContent-Length: {announced}\r\n\r\n".encode()
        )

    def __enter__(self) -> socket.socket:
        return self._socket

    def __exit__(self, *_: object) -> None:
        self._socket.close()


def _answer(connection: socket.socket) -> tuple[int, http.client.HTTPMessage, dict[str, Any]]:
    answer = http.client.HTTPResponse(connection)
    answer.begin()
    return answer.status, answer.headers, json.loads(answer.read())


def _durable(http: Http, sid: str) -> int:
    return int(http.pipelines.get(f"/pipelines/{sid}/status").json()["durable_offset"] or 0)
