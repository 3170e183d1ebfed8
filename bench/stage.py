"""What measurements run on: a server of their own, its streams, processes of the installed command."""

import asyncio
import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import nats
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.api import StreamConfig

from lucid_events.config import Settings
from lucid_events.domain.values import MIB
from lucid_events.jetstream import topology
from lucid_events.jetstream.embedded import embedded_server
from lucid_events.service.adapters import Adapters, open_adapters, topology_settings

RAW_STREAM = "BENCH"
RAW_SUBJECT = "bench.raw"
PIECES = (128 * 1024, MIB - 1024)
"""Sizes of the rival's messages: 128 KiB, and about as much as fits a server's default of 1 MiB."""
WINDOW_BYTES = 16 * MIB
"""What the rival has in flight: as much as a recorder of ours."""
MAX_SESSIONS = 1000
"""What a session that is never stopped counts against."""
CAPTURE_BYTES = 8192 * MIB
READY_S = 60.0
ENDING_S = 30.0


class Stage:
    """A server with the product's streams, a connection of ours, and one of nats-py."""

    def __init__(self, url: str, folder: Path, adapters: Adapters, client: Client) -> None:
        self.url, self.folder, self.adapters, self.client = url, folder, adapters, client
        self.js: JetStreamContext = client.jetstream(timeout=60)

    async def empty(self, *streams: str) -> None:
        """Purge `streams`: what one run left must not weigh on the next."""
        for stream in streams:
            await self.js.purge_stream(stream)


@asynccontextmanager
async def staged(*, sync: str = "always") -> AsyncIterator[Stage]:
    """Run a server for the time of the context; everything it stored goes with it."""
    folder = Path(tempfile.mkdtemp(prefix="lucid-bench-"))
    try:
        async with embedded_server(folder / "nats", sync_interval=sync) as server:
            settings = Settings(nats_url=server.url, max_sessions=MAX_SESSIONS)
            async with open_adapters(settings, name="bench") as adapters:
                wanted = topology_settings(settings, capture_max_bytes=CAPTURE_BYTES)
                await topology.apply(adapters.connection, adapters.subjects, wanted)
                client = await nats.connect(server.url)
                try:
                    stage = Stage(server.url, folder, adapters, client)
                    await stage.js.add_stream(StreamConfig(name=RAW_STREAM, subjects=[f"{RAW_SUBJECT}.>"]))
                    yield stage
                finally:
                    await client.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def publish(stage: Stage, data: bytes, piece_bytes: int, window_bytes: int = WINDOW_BYTES) -> None:
    """Publish `data` with nats-py, pipelined: a window of unacknowledged messages, all acked at the end."""
    view = memoryview(data)
    window = asyncio.Semaphore(max(1, window_bytes // piece_bytes))
    acks = []
    for start in range(0, len(data), piece_bytes):
        await window.acquire()
        future = await stage.js.publish_async(f"{RAW_SUBJECT}.x", bytes(view[start : start + piece_bytes]))
        future.add_done_callback(lambda _: window.release())
        acks.append(future)
    for ack in acks:
        await ack


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "lucid_events", *words]


def environment(stage: Stage, **more: str) -> dict[str, str]:
    limit = {"MAX_CONCURRENT_SESSIONS": str(MAX_SESSIONS)}
    return {**os.environ, "NATS_URL": stage.url, "LOG_LEVEL": "WARNING", **limit, **more}


@asynccontextmanager
async def service(stage: Stage, **more: str) -> AsyncIterator[int]:
    """Run all handlers in a process of their own, as `lucid up` does; yields its process id."""
    process = await asyncio.create_subprocess_exec(
        *command("up", "--json"), env=environment(stage, **more), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(READY_S):
            said = await process.stdout.readline()
        assert b'"url"' in said, said
        yield process.pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), ENDING_S)
        except TimeoutError:
            process.kill()
            await process.wait()


async def run(stage: Stage, *words: str, **more: str) -> bytes:
    """Run one command to its end and return what it printed."""
    process = await asyncio.create_subprocess_exec(
        *command(*words),
        env=environment(stage, **more),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return out
