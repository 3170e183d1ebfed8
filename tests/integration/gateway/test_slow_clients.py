"""Clients that send or read too slowly: each is let go in time, and told where it can be told."""

import asyncio
import contextlib
import importlib
import json
import socket
import time
from collections.abc import Awaitable, Callable

import httpx
import pytest

from lucid_events.config import Service, load_settings
from lucid_events.gateway import bodies, connections, serving
from tests.end_to_end.http import Http
from tests.end_to_end.pipeline import Pipeline

PATIENCE_S = 30.0
MIB = 1024 * 1024
serving_module = importlib.import_module("lucid_events.gateway.serving")  # its function has its name

Client = Callable[[str, int], Awaitable[None]]


def _with_service(pipeline: Pipeline, which: Service, work: Client) -> None:
    async def main() -> None:
        settings = load_settings({"NATS_URL": pipeline.url, "LUCID_SHUTDOWN_TIMEOUT": "3"})
        async with serving(settings, (which,), ports={which: 0}) as gateways:
            host, _, port = gateways.urls[which].removeprefix("http://").partition(":")
            async with asyncio.timeout(PATIENCE_S):
                await work(host, int(port))

    asyncio.run(main())


@pytest.fixture(params=["httptools", "h11"])
def protocol(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Serve with each of uvicorn's protocols: one is for speed, the other for client certificates."""
    real = serving_module.uvicorn_options
    monkeypatch.setattr(serving_module, "uvicorn_options", lambda http: {**real(http), "http": request.param})
    return str(request.param)


def test_a_connection_that_asks_for_nothing_is_closed(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, protocol: str
) -> None:
    """A connection that says nothing is closed after `HEAD_S`, one with half a head is told why."""
    monkeypatch.setattr(connections, "HEAD_S", 0.2)

    async def work(host: str, port: int) -> None:
        for said, answered in ((b"", b""), (b"GET /health HT", b"HTTP/1.1 408 ")):
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(said)
            assert (await reader.read()).startswith(answered)
            writer.close()

    _with_service(pipeline, "pipeline", work)


def test_a_head_that_is_dribbled_ends_a_kept_alive_connection(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, protocol: str
) -> None:
    """Header by header, none of which ever is the last: `HEAD_S` after the first byte it is over."""
    monkeypatch.setattr(connections, "HEAD_S", 0.3)

    async def work(host: str, port: int) -> None:
        reader, writer = await asyncio.open_connection(host, port)
        await _ask_live(reader, writer)
        writer.write(b"GET /health/live HTTP/1.1\r\nHost: x\r\n")
        answer = asyncio.create_task(reader.read())
        began, sent = time.monotonic(), 0
        while not answer.done():
            writer.write(b"X-%d: y\r\n" % sent)
            sent += 1
            await asyncio.wait({answer}, timeout=0.05)
        assert (await answer).startswith(b"HTTP/1.1 408 ")
        assert sent > 3, "it was not the silence that ended it"
        assert time.monotonic() - began >= 0.3
        writer.close()

    _with_service(pipeline, "pipeline", work)


def test_a_client_that_keeps_asking_is_kept(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, protocol: str
) -> None:
    """The bound is on one head: requests with pauses between them outlast it many times."""
    monkeypatch.setattr(connections, "HEAD_S", 0.2)

    async def work(host: str, port: int) -> None:
        reader, writer = await asyncio.open_connection(host, port)
        end = time.monotonic() + 1.0
        while time.monotonic() < end:
            await _ask_live(reader, writer, split=True)
            await asyncio.sleep(0.05)  # the pause of a client, not a wait for anything
        writer.close()

    _with_service(pipeline, "pipeline", work)


@pytest.mark.parametrize("behind", ["a connection", "an answer", "a stream"])
def test_a_head_without_end_is_refused(
    pipeline: Pipeline, http: Http, sid: str, protocol: str, behind: str
) -> None:
    """More than `MAX_HEAD_BYTES` of headers are not gathered, wherever on a connection they come."""
    http.pipelines.post("/pipelines", json={"session_id": sid})

    async def work(host: str, port: int) -> None:
        reader, writer = await asyncio.open_connection(host, port)
        if behind == "an answer":
            await _ask_live(reader, writer)
        if behind == "a stream":
            writer.write(f"GET /pipelines/{sid}/events HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        writer.write(b"GET /health/live HTTP/1.1\r\nHost: x\r\nX: ")
        answer = asyncio.create_task(reader.read())
        sent, taken = 0, True
        while taken and not answer.done() and sent < 64 * MIB:
            writer.write(b"y" * 16_384)
            sent += 16_384
            taken = await _taken(writer)
        assert sent < 8 * MIB, "it was gathered for longer than the sockets can hold"
        if taken:
            with contextlib.suppress(ConnectionResetError):
                said = await answer
                assert behind == "a stream" or said[:12] in (b"HTTP/1.1 431", b"HTTP/1.1 400"), said
        answer.cancel()
        writer.close()

    _with_service(pipeline, "pipeline", work)


async def _taken(writer: asyncio.StreamWriter) -> bool:
    """Return whether the other side reads on, or has hung up; h11 reads nothing beside an open request."""
    with contextlib.suppress(ConnectionResetError, BrokenPipeError):
        try:
            async with asyncio.timeout(1.0):
                await writer.drain()
        except TimeoutError:
            return False
    return True


async def _ask_live(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, split: bool = False
) -> None:
    head = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"
    for part in (head[:9], head[9:]) if split else (head,):
        writer.write(part)
        await asyncio.sleep(0)
    answer = await reader.readuntil(b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 "), answer
    length = next(int(x[15:]) for x in answer.split(b"\r\n") if x.lower().startswith(b"content-length:"))
    await reader.readexactly(length)


def test_a_body_that_stands_still_is_ended(
    pipeline: Pipeline, http: Http, sid: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After `READ_STALL_S` without a byte the answer is 408, and says how much of the body is recorded."""
    monkeypatch.setattr(bodies, "READ_STALL_S", 0.2)
    http.pipelines.post("/pipelines", json={"session_id": sid})
    http.pipelines.post(f"/pipelines/{sid}/start", params={"source": "external", "wait": 0})

    async def work(host: str, port: int) -> None:
        reader, writer = await asyncio.open_connection(host, port)
        head = f"POST /pipelines/{sid}/chunks HTTP/1.1\r\nHost: x\r\nContent-Length: {10 * MIB}\r\n\r\n"
        writer.write(head.encode() + b"a" * 70_000)
        answer = await reader.readuntil(b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 408"), answer
        assert b"upload-offset: 70000" in answer.lower()
        body = json.loads(await reader.read())
        assert body["error"]["details"]["reason"] == "too_slow"
        writer.close()

    _with_service(pipeline, "pipeline", work)
    assert http.state(sid) == "active"


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="the kernel has no such time-out")
def test_a_reader_that_takes_nothing_is_let_go(
    pipeline: Pipeline, http: Http, sid: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The request of a client that reads no byte ends, and what waited to be sent is let go."""
    key = (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
    monkeypatch.setitem(serving_module._PATIENCE, key, 500)
    http.active(sid)
    size = 24 * MIB
    http.pipelines.post(f"/pipelines/{sid}/chunks", content=bytes(size))
    http.stop(sid)

    async def work(host: str, port: int) -> None:
        reader = socket.socket()
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        reader.connect((host, port))
        reader.sendall(f"GET /recordings/{sid}/media HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        async with httpx.AsyncClient(base_url=f"http://{host}:{port}") as client:
            while 'route="/recordings/{sid}/media"' not in (await client.get("/metrics")).text:  # noqa: ASYNC110
                await asyncio.sleep(0.1)  # a request is counted once it has ended
        sent = await asyncio.to_thread(_rest, reader)
        assert 0 < sent < size, "it was not let go: all of it was on its way"
        reader.close()

    _with_service(pipeline, "recorder", work)


def _rest(connection: socket.socket) -> int:
    """Read what still comes out of a connection that the other side gave up; returns how much it was."""
    connection.settimeout(5)
    taken = 0
    with contextlib.suppress(ConnectionResetError, TimeoutError):
        while block := connection.recv(65_536):
            taken += len(block)
    return taken
