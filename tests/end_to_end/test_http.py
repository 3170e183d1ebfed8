"""The REST services under what happens to services: killed, stopped under load, given more than fits."""

import json
import os
import random
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import httpx
import pytest

from tests.end_to_end.http import Http, reason
from tests.end_to_end.pipeline import Pipeline
from tests.end_to_end.processes import until

MIB = 1024 * 1024
RECORDING = 24 * MIB
GIB = 1024 * MIB
GROWTH = 192 * MIB
"""Most a gateway may grow by while a recording of any length goes through it: its windows and buffers."""


@pytest.fixture
def serve() -> Iterator[Callable[..., Http]]:
    """Start the services beside a pipeline: `serve(pipeline, env={…})`."""
    made: list[Http] = []

    def start(pipeline: Pipeline, env: Mapping[str, str] | None = None) -> Http:
        made.append(Http(pipeline, env))
        return made[-1]

    yield start
    for http in made:
        http.close()


@pytest.mark.parametrize("round_", range(3))
def test_a_killed_gateway_loses_nothing_it_answered_for(
    pipelines: Callable[..., Pipeline], serve: Callable[..., Http], rng: random.Random, round_: int
) -> None:
    """A gateway is killed in the middle of a body; the next one tells the offset, and the rest follows it."""
    http = serve(pipelines(env={"LUCID_LEASE": "60"}))
    data = rng.randbytes(RECORDING)
    sid = f"killed{round_}"
    http.active(sid, chunk_bytes=4 * MIB)
    first = http.pipelines.post(f"/pipelines/{sid}/chunks", content=data[:MIB])
    assert first.json()["next_offset"] == MIB
    reached = MIB + rng.randrange(RECORDING // 2)

    def body() -> Iterator[bytes]:
        at = MIB
        while at < len(data):
            if at >= reached:
                http.process.signal(signal.SIGKILL)
            yield data[at : at + 65_536]
            at += 65_536

    with pytest.raises(httpx.TransportError):
        http.pipelines.post(f"/pipelines/{sid}/chunks", params={"offset": MIB}, content=body())
    http.process.wait()
    http.start()
    offset = int(http.pipelines.head(f"/pipelines/{sid}/chunks").headers["upload-offset"])
    assert MIB <= offset < len(data)
    wrong = http.pipelines.post(f"/pipelines/{sid}/chunks", params={"offset": offset + 1}, content=b"x")
    assert (wrong.status_code, wrong.headers["upload-offset"]) == (409, str(offset))
    rest = http.pipelines.post(f"/pipelines/{sid}/chunks", params={"offset": offset}, content=data[offset:])
    assert rest.status_code == 202, rest.text
    http.stop(sid)
    assert http.media(sid) == data


def test_a_session_given_up_with_its_gateway_is_recovered(
    pipelines: Callable[..., Pipeline], serve: Callable[..., Http], rng: random.Random
) -> None:
    """When the lease of a killed gateway runs out the session is in error, and goes on after `recover`."""
    http = serve(pipelines(env={"LUCID_LEASE": "1"}))
    data = rng.randbytes(MIB)
    started = {"session_id": "lost", "content_type": "video/webm"}
    assert http.recordings.post("/recordings/start", json=started).status_code == 201
    http.pipelines.post("/pipelines/lost/chunks", content=data[:300_000])
    http.process.kill9()
    http.start()
    until(lambda: http.state("lost") == "error", within_s=30, what="the lost recorder is given up")
    refused = http.pipelines.post("/pipelines/lost/chunks", content=b"x")
    assert (refused.status_code, reason(refused)) == (409, "not_active")
    assert "recover" in refused.json()["error"]["details"]["allowed"]
    asked = http.pipelines.head("/pipelines/lost/chunks")
    told = asked.status_code, asked.headers["lucid-reason"], asked.headers["lucid-state"]
    assert told == (409, "not_active", "error")
    assert http.pipelines.post("/pipelines/lost/recover").status_code == 200
    assert http.pipelines.post("/pipelines/lost/start").json()["state"] == "active"
    rest = http.pipelines.post("/pipelines/lost/chunks", params={"offset": 300_000}, content=data[300_000:])
    assert rest.status_code == 202, rest.text
    http.stop("lost")
    assert http.recordings.head("/recordings/lost/media").headers["content-type"] == "video/webm"
    assert http.media("lost") == data


def test_a_gateway_stopped_under_load_loses_nothing(
    pipelines: Callable[..., Pipeline], serve: Callable[..., Http], rng: random.Random
) -> None:
    """SIGTERM while four bodies and a stream are under way: all end in time, and each goes on elsewhere."""
    http = serve(pipelines(env={"LUCID_LEASE": "60"}), env={"LUCID_SHUTDOWN_TIMEOUT": "10"})
    sids = [f"load{number}" for number in range(4)]
    data = {sid: rng.randbytes(8 * MIB) for sid in sids}
    sent, go_on = {sid: threading.Event() for sid in sids}, threading.Event()
    answers: dict[str, httpx.Response | None] = {}

    def push(sid: str) -> None:
        def body() -> Iterator[bytes]:
            for at in range(0, 4 * MIB, 65_536):
                yield data[sid][at : at + 65_536]
            sent[sid].set()
            go_on.wait(30)
            yield data[sid][4 * MIB :]

        with httpx.Client(base_url=http.pipelines.base_url, timeout=60) as client:
            try:
                answers[sid] = client.post(f"/pipelines/{sid}/chunks", content=body())
            except httpx.TransportError:
                answers[sid] = None  # the answer came before the body was sent, which httpx does not read

    attached = threading.Event()

    def follow() -> None:
        with (
            httpx.Client(base_url=http.pipelines.base_url, timeout=60) as client,
            client.stream("GET", f"/pipelines/{sids[0]}/events") as stream,
        ):
            for line in stream.iter_lines():
                if line == "event: recorder.attached.v1":
                    attached.set()

    for sid in sids:
        http.active(sid, chunk_bytes=MIB)
    threads = [threading.Thread(target=follow)]
    threads += [threading.Thread(target=push, args=(sid,)) for sid in sids]
    for thread in threads:
        thread.start()
    for sid in sids:
        assert sent[sid].wait(30)
    assert attached.wait(30)
    http.process.signal(signal.SIGTERM)
    code = http.process.wait(within_s=12)
    go_on.set()
    for thread in threads:
        thread.join(60)
    assert code == 0, http.process.err
    http.start()
    for sid in sids:
        assert http.state(sid) == "active"
        offset = int(http.pipelines.head(f"/pipelines/{sid}/chunks").headers["upload-offset"])
        assert 2 * MIB <= offset <= 4 * MIB
        rest = http.pipelines.post(
            f"/pipelines/{sid}/chunks", params={"offset": offset}, content=data[sid][offset:]
        )
        assert rest.status_code == 202, rest.text
        http.stop(sid)
        assert http.media(sid) == data[sid]


def test_a_body_outlasts_its_server(
    pipelines: Callable[..., Pipeline], serve: Callable[..., Http], rng: random.Random
) -> None:
    """The server is killed and comes back in the middle of a body, and every byte of it is recorded."""
    pipeline = pipelines(env={"LUCID_LEASE": "60"})
    http = serve(pipeline)
    data = rng.randbytes(12 * MIB)
    http.active("outage", chunk_bytes=MIB)

    def body() -> Iterator[bytes]:
        for at in range(0, len(data), 65_536):
            if at == 6 * MIB:
                pipeline.kill9_server()
            yield data[at : at + 65_536]

    answer = http.pipelines.post("/pipelines/outage/chunks", content=body())
    assert (answer.status_code, answer.json()["next_offset"]) == (202, len(data)), answer.text
    stopped = http.recordings.post("/recordings/outage/stop")
    while stopped.status_code == 503:
        # The views may still wait for what the server had handed out when it was killed.
        assert stopped.json()["error"]["details"]["retry"], stopped.text
        stopped = http.recordings.post("/recordings/outage/stop")
    assert stopped.status_code == 200, stopped.text
    assert http.media("outage") == data


def test_bytes_for_another_gateway_are_refused(
    pipelines: Callable[..., Pipeline], serve: Callable[..., Http]
) -> None:
    """While one gateway records a session another one takes none of its bytes, until the first has left."""
    pipeline = pipelines()
    first, second = serve(pipeline), serve(pipeline)
    first.active("one")
    assert first.pipelines.post("/pipelines/one/chunks", content=b"first ").status_code == 202
    refused = second.pipelines.post("/pipelines/one/chunks", content=b"x")
    assert (refused.status_code, reason(refused)) == (409, "recorder_alive")
    where = f"{socket.gethostname()}:{first.process.pid}"
    assert refused.json()["error"]["details"]["recorder"] == where, "it does not say which gateway"
    assert f"recorded by {where}, which is alive: send the bytes to that gateway" in refused.text
    asked = second.pipelines.head("/pipelines/one/chunks")
    told = asked.status_code, asked.headers["lucid-reason"], asked.headers["lucid-recorder"]
    assert told == (409, "recorder_alive", where)
    assert first.process.stop() == 0
    taken = second.pipelines.post("/pipelines/one/chunks", content=b"second")
    assert (taken.status_code, taken.json()["offset"]) == (202, 6), taken.text
    second.stop("one")
    assert second.media("one") == b"first second"


def test_up_serves_both_services(tmp_path: Path) -> None:
    """`lucid up --http` is a whole pipeline with both services, and ends in order with a recording open."""
    pipeline = Pipeline(tmp_path, env={"PIPELINE_PORT": _free_port(), "RECORDER_PORT": _free_port()})
    try:
        pipeline.start(flags=["--http"])
        assert pipeline.service is not None
        urls = json.loads(pipeline.service.says('"http"'))["http"]
        with httpx.Client(timeout=60) as client:
            started = client.post(f"{urls['recorder']}/recordings/start", json={"session_id": "up"})
            assert started.status_code == 201, started.text
            pushed = client.post(f"{urls['pipeline']}/pipelines/up/chunks", content=b"all in one")
            assert pushed.status_code == 202
            status = client.get(f"{urls['pipeline']}/pipelines/up/status").json()
            assert status["stages"][0]["name"] == "recording"
        assert pipeline.stop() == 0
        pipeline.start(flags=["--http"])
        urls = json.loads(pipeline.service.says('"http"'))["http"]
        with httpx.Client(timeout=60) as client:
            assert client.post(f"{urls['recorder']}/recordings/up/stop").status_code == 200
            assert client.get(f"{urls['recorder']}/recordings/up/media").content == b"all in one"
        assert pipeline.stop() == 0
    finally:
        pipeline.close()


def _free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.mark.slow
def test_a_gibibyte_goes_through_in_bounded_memory(
    pipelines: Callable[..., Pipeline], serve: Callable[..., Http]
) -> None:
    """One body of 1 GiB grows the gateway by its buffers only, and every byte of it is recorded."""
    http = serve(
        pipelines(env={"LUCID_COMPRESSION": "lz4", "LUCID_SYNC": "2m"}), env={"LUCID_COMPRESSION": "lz4"}
    )
    http.active("large")
    http.pipelines.post("/pipelines/large/chunks", content=b"x" * MIB)
    before = http.process.peak_bytes
    block = os.urandom(4096) * 256

    def body() -> Iterator[bytes]:
        for _ in range(GIB // len(block)):
            yield block

    answer = http.pipelines.post("/pipelines/large/chunks", content=body(), timeout=100)
    grown = http.process.peak_bytes - before
    assert (answer.status_code, answer.json()["accepted_bytes"]) == (202, GIB), answer.text
    assert grown < GROWTH, f"grew by {grown / MIB:.0f} MiB"


def test_a_reader_that_stands_still_holds_little(
    pipelines: Callable[..., Pipeline], serve: Callable[..., Http]
) -> None:
    """Clients that ask for a recording and read nothing cost a chunk each, not the recording."""
    http = serve(pipelines())
    http.active("still", chunk_bytes=MIB)
    http.pipelines.post("/pipelines/still/chunks", content=os.urandom(48 * MIB))
    http.stop("still")
    assert len(http.media("still")) == 48 * MIB
    before = http.process.peak_bytes
    url = http.recordings.base_url
    readers = []
    for _ in range(8):
        reader = socket.create_connection((url.host, url.port or 80), timeout=30)
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        reader.sendall(b"GET /recordings/still/media HTTP/1.1\r\nHost: x\r\n\r\n")
        assert reader.recv(1024).startswith(b"HTTP/1.1 200")
        readers.append(reader)
    assert http.recordings.get("/health").status_code == 200
    grown = http.process.peak_bytes - before
    for reader in readers:
        reader.close()
    assert grown < 96 * MIB, f"grew by {grown / MIB:.0f} MiB"
