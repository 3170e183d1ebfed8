"""The workers on a capture stream that a dead recorder has filled to the last byte."""

import asyncio
import hashlib
import random
import time
from contextlib import suppress

import pytest

from lucid_events.config import Settings
from lucid_events.domain import commands as cmd
from lucid_events.domain import events as ev
from lucid_events.domain.envelope import Recorded
from lucid_events.domain.values import MIB, SettingsAsked
from lucid_events.errors import Fenced, StoreFull
from lucid_events.jetstream.topology import compare
from lucid_events.playback import Bytes
from lucid_events.ports import CaptureStore
from lucid_events.service import Client, connect
from lucid_events.service.adapters import open_adapters, topology_settings
from lucid_events.service.deploying import deploy
from lucid_events.service.embedded import prepare
from lucid_events.service.preflight import examine
from lucid_events.service.workers import Workers
from tests.contract.bundle import OTHER, SID
from tests.nats_server import NatsServer

CAPTURE_MIB = 3
END_S = 20.0
"""A lease, a fence and some chunks; a fence that finds no room takes more than a minute."""
PROMPT_S = 10.0
"""A fence that waits for room would take 30 s and fail."""
LOOK_S = 0.05


async def fill(capture: CaptureStore, rng: random.Random) -> bytes:
    """Record into the first chunk of epoch 1, ever smaller pieces until nothing fits; returns the bytes."""
    data, running = bytearray(), hashlib.sha256()
    for size in (256 * 1024, 16 * 1024, 1024, 64, 1):
        while True:
            piece = rng.randbytes(size)
            ahead = running.copy()
            ahead.update(piece)
            try:
                await capture.publish(
                    SID, epoch=1, n=0, offset=len(data), data=piece, sha256=ahead.hexdigest()
                )
            except StoreFull:
                break
            running = ahead
            data += piece
    return bytes(data)


async def subjects_left(client: Client) -> set[str]:
    """Return the subjects of capture that are no fences."""
    body = {"subjects_filter": f"{client.subjects.prefix}.cap.>"}
    info = await client.adapters.connection.api(f"STREAM.INFO.{client.subjects.capture_stream}", body)
    return {subject for subject in info["state"].get("subjects") or {} if ".fence." not in subject}


async def history(client: Client) -> list[Recorded]:
    """Return the session's events."""
    return [one async for one in client.store.read(SID) if isinstance(one, Recorded)]


def test_a_dead_recorder_that_filled_capture_is_salvaged(server: NatsServer, rng: random.Random) -> None:
    """Its session ends in `error` by itself, every acked byte is in a ready chunk, and capture empties."""

    async def main() -> None:
        settings = Settings(
            nats_url=server.url,
            capture_max_mib=CAPTURE_MIB,
            chunk_mib=2 * CAPTURE_MIB,
            lease_s=1.0,
            beat_interval_s=0.2,
        )
        async with open_adapters(settings, name="workers") as adapters:
            await prepare(adapters, capture_max_bytes=CAPTURE_MIB * MIB, sync="always")
            async with Workers(adapters).running(), connect(settings) as client:
                await client.commands.send(
                    SID, cmd.Create(settings=SettingsAsked(chunk_bytes=2 * CAPTURE_MIB * MIB))
                )
                await client.commands.send(SID, cmd.Start())
                await client.commands.send(SID, cmd.Attach(recorder="killed"))
                data = await fill(adapters.capture, rng)
                deadline = time.monotonic() + END_S
                while await subjects_left(client) != set(client.subjects.ballast):
                    assert time.monotonic() < deadline, [one.type for one in await history(client)]
                    await asyncio.sleep(LOOK_S)
                events = [one.event for one in await history(client)]
                assert any(isinstance(event, ev.SessionFailed) for event in events)
                assert not any(isinstance(event, ev.GapDeclared | ev.ChunkFailed) for event in events)
                parts = [part async for part in client.player.play(SID)]
                assert b"".join(bytes(part.data) for part in parts if isinstance(part, Bytes)) == data
                assert (
                    await client.status(SID, min_version=int((await history(client))[-1].sequence))
                ).state == "error"
                assert not [finding for finding in await examine(adapters) if finding.level == "error"]

    asyncio.run(main())


def test_fences_find_room_among_recorders_that_press_on(server: NatsServer, rng: random.Random) -> None:
    """Others that send again and again into the room given up don't keep a fence from being stored."""

    async def main() -> None:
        settings = Settings(nats_url=server.url, capture_max_mib=1)
        await deploy(settings)
        async with connect(settings) as client:
            capture = client.adapters.capture
            await fill(capture, rng)

            async def press(number: int) -> None:
                while True:
                    data = bytes(1024 * number)
                    with suppress(StoreFull):
                        await capture.publish(OTHER, epoch=1, n=number, offset=0, data=data, sha256="")

            async with asyncio.TaskGroup() as tasks:
                pressing = [tasks.create_task(press(number)) for number in range(1, 13)]
                async with asyncio.timeout(PROMPT_S):
                    await capture.fence(SID, epoch=1)
                for task in pressing:
                    task.cancel()
            with pytest.raises(Fenced):
                await capture.publish(SID, epoch=1, n=0, offset=0, data=b"", sha256="")

    asyncio.run(main())


def test_deploying_keeps_room_for_fences(server: NatsServer) -> None:
    """`lucid deploy` puts the room there, once, and nothing differs from the definitions by it."""

    async def main() -> None:
        settings = Settings(nats_url=server.url, capture_max_mib=CAPTURE_MIB)
        await deploy(settings, check=True)
        await deploy(settings)
        await deploy(settings)
        async with connect(settings) as client:
            assert await subjects_left(client) == set(client.subjects.ballast)
            adapters = client.adapters
            info = await adapters.connection.api(f"STREAM.INFO.{client.subjects.capture_stream}")
            assert info["state"]["messages"] == len(client.subjects.ballast)
            assert not await compare(adapters.connection, adapters.subjects, topology_settings(settings))

    asyncio.run(main())
