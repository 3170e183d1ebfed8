"""Recorders and workers on a bad network: replies vanish, connections break, stall and stand half open."""

import asyncio
import os
import random
from collections.abc import Sequence

import pytest

from lucid_events.errors import Fenced, StoreUnavailable
from lucid_events.jetstream.connection import NatsOptions, connect
from tests.integration.arena import CHUNK, WORK_S, Arena, Feed, arena, bytes_of
from tests.nats_server import NatsServer
from tests.tcp_proxy import TcpProxy, tcp_proxy

CHAOS_RUNS = int(os.environ.get("CHAOS_RUNS", "20"))
BYTES = 20 * CHUNK + 1234
CLOSED_S = 10.0
"""Bound of a closed client's sockets being gone."""
LONG_LEASE_S = 60.0
"""Longer than any fault here lasts: nobody is given up as lost, so every byte has to arrive."""


async def misbehave(
    proxies: Sequence[TcpProxy], rng: random.Random, *, faults: int, longest_s: float
) -> None:
    """Let one network after the other fail in a random way for a random time, and be sound in between."""
    for _ in range(faults):
        await asyncio.sleep(rng.uniform(0.05, 0.4))
        proxy = rng.choice(proxies)
        match rng.choice(("lose", "lose", "mute", "cut", "refuse", "freeze", "delay", "half")):
            case "lose":
                proxy.loss = rng.choice((0.05, 0.2, 0.5))
            case "mute":
                proxy.muted = True
            case "cut":
                proxy.cut()
            case "refuse":
                proxy.refusing = True
                proxy.cut()
            case "freeze":
                proxy.freeze()
            case "delay":
                proxy.delay_s = rng.uniform(0.01, 0.3)
            case "half":
                # The client never hears that its old connection is gone; it may make a new one.
                proxy.freeze()
                await asyncio.sleep(rng.uniform(0.05, 0.3))
                proxy.cut()
        await asyncio.sleep(rng.uniform(0.05, longest_s))
        proxy.heal()


async def record_through(
    stage: Arena, recorder: TcpProxy, sid: str, data: bytes, **options: float
) -> tuple[int, Exception | None]:
    """Record `data` to its end; returns the offset acked last and how a recorder that was given up ended."""
    acked = [0]
    adapters = await stage.join(f"recorder-{sid}", through=recorder)
    recording = stage.recording(adapters, sid, Feed(data, pace_s=0.02), on_acked=acked.append, **options)
    try:
        async with asyncio.timeout(WORK_S):
            await recording.run()
    except (Fenced, StoreUnavailable) as exc:
        return acked[-1], exc
    return acked[-1], None


def test_every_byte_arrives_through_a_bad_network(server: NatsServer, rng: random.Random) -> None:
    """Recorder and workers behind failing networks: nothing acked is lost, nothing is there twice."""
    asyncio.run(_bad_network(server, rng, faults=6, longest_s=1.5))


@pytest.mark.chaos
@pytest.mark.timeout(600)
@pytest.mark.parametrize("run", range(CHAOS_RUNS))
def test_every_byte_arrives_through_any_bad_network(server: NatsServer, rng: random.Random, run: int) -> None:
    """The same with more and longer faults, differently each time."""
    asyncio.run(_bad_network(server, rng, faults=12, longest_s=3.0))


async def _bad_network(server: NatsServer, rng: random.Random, *, faults: int, longest_s: float) -> None:
    data = bytes_of(rng, BYTES)
    async with arena(server, rng, lease_s=LONG_LEASE_S) as stage:
        recorder, worker, other = await stage.proxy(), await stage.proxy(), await stage.proxy()
        await stage.workers(2, through=worker)
        await stage.workers(1, through=other)
        trouble = asyncio.create_task(
            misbehave([recorder, recorder, worker, other], rng, faults=faults, longest_s=longest_s)
        )
        acked, error = await record_through(stage, recorder, "s", data)
        await trouble
        assert error is None
        audited = await stage.audited("s", data, acked=acked)
        assert audited.state == "stopped"
        assert audited.played == data


def test_a_recorder_cut_off_for_longer_than_its_lease_leaves_what_was_acked(
    server: NatsServer, rng: random.Random
) -> None:
    """Half open for longer than the lease: the session ends without help and holds every acked byte."""
    asyncio.run(_given_up(server, rng))


async def _given_up(server: NatsServer, rng: random.Random) -> None:
    data = bytes_of(rng, BYTES)
    async with arena(server, rng, lease_s=2.0) as stage:
        recorder = await stage.proxy()
        await stage.workers(2)
        recording = asyncio.create_task(record_through(stage, recorder, "s", data))
        await stage.until("s", "active")
        await asyncio.sleep(rng.uniform(0.1, 1.0))
        recorder.freeze()
        await stage.until("s", "error")
        recorder.thaw()
        acked, error = await recording
        assert isinstance(error, Fenced)
        audited = await stage.audited("s", data, acked=acked)
        assert audited.state == "error"


def test_a_server_asleep_for_longer_than_any_request_waits_loses_nothing(
    server: NatsServer, rng: random.Random
) -> None:
    """SIGSTOP of the server past every request timeout, several times: all bytes, each once."""
    asyncio.run(_sleeping_server(server, rng))


async def _sleeping_server(server: NatsServer, rng: random.Random) -> None:
    data = bytes_of(rng, BYTES)
    async with arena(server, rng, lease_s=LONG_LEASE_S) as stage:
        await stage.workers(2)
        recording = asyncio.create_task(record_through(stage, await stage.proxy(), "s", data))
        await stage.until("s", "active")
        for _ in range(3):
            await asyncio.sleep(rng.uniform(0.1, 0.6))
            server.pause()
            await asyncio.sleep(rng.uniform(1.5, 3.0))
            server.resume()
        acked, error = await recording
        assert error is None
        audited = await stage.audited("s", data, acked=acked)
        assert audited.state == "stopped"
        assert audited.played == data


def test_a_server_that_accepts_and_never_answers_costs_no_sockets(
    server: NatsServer, rng: random.Random
) -> None:
    """However often a client has to try again, it holds one connection, and none once it is closed."""
    asyncio.run(_silent_server(server, rng))


async def _silent_server(server: NatsServer, rng: random.Random) -> None:
    async with tcp_proxy(server.port, rng) as proxy:
        async with connect(NatsOptions(servers=(proxy.url,), connect_timeout_s=0.5)) as connection:
            proxy.freeze()
            proxy.cut()
            before = proxy.accepted
            async with asyncio.timeout(WORK_S):
                while proxy.accepted < before + 4:  # noqa: ASYNC110 - counted by another task
                    await asyncio.sleep(0.02)
            assert proxy.standing <= 2  # one may not be noticed as closed yet
            assert not connection.connected
        async with asyncio.timeout(CLOSED_S):
            while proxy.standing:  # noqa: ASYNC110 - counted by another task
                await asyncio.sleep(0.02)
