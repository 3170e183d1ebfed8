"""Sessions pushed through HTTP all at once: how much longer a status takes, and that nothing is lost.

    python -m bench.http_load [--sessions 200] [--seconds 60] [--runs 1] [--quick] [--together]

The whole product is under load, in the processes that `deploy/containers/compose.yaml` makes of it: the
server, `lucid up` for the work, `lucid serve pipeline` and `lucid serve recorder`; with `--together`, one
`lucid up --http` is all of it but the server. Each session pushes 100 KB/s to the recorder, 50 KB every half
second. Its status is asked of the manager by another process, first while nothing else goes on, then during
the load. Afterwards every session is stopped and played over HTTP, and its SHA-256 compared with what was
sent. An error, or a byte that is not there, fails the measurement.
"""

import argparse
import asyncio
import hashlib
import math
import random
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TypeVar
from urllib.parse import urlsplit

import msgspec
import uvloop

from bench.http_clients import Connection, Load, Probe, Probed, Pushed, connected
from bench.measure import Outcome, Target, table
from bench.stage import ENDING_S, READY_S, Stage, command, environment, staged
from lucid_events.domain.values import MIB

SESSIONS, SECONDS = 200, 60.0
QUICK_SESSIONS, QUICK_SECONDS = 20, 10.0
PIECE_BYTES, EVERY_S = 50_000, 0.5
MIN_CHUNK_BYTES, MAX_CHUNK_BYTES = MIB, 3 * MIB
"""Each session has chunks of its own size, so that they do not all end in the same half second; those of
sessions that began at different times don't either. They are five times as many as with the default size,
so that many are stored within a minute of load."""
MOST = 5.0
"""The ratio: a status under load against one of an idle service."""
PROBES_PER_S = 20.0
IDLE_S = 20.0
SETTLE_S = 5.0
"""Of the load, before it is probed: connections stand, every session has pushed."""
AT_ONCE = 8
"""Requests in parallel before and after the load."""

T = TypeVar("T")


class Address(msgspec.Struct, frozen=True):
    """Where one of the services listens."""

    host: str
    port: int


@asynccontextmanager
async def services(stage: Stage, sessions: int, *, together: bool) -> AsyncIterator[tuple[Address, Address]]:
    """Run the product with its HTTP services; gives where the manager and the recorder listen."""
    ports = {"PIPELINE_PORT": str(_free_port()), "RECORDER_PORT": str(_free_port())}
    env = environment(stage, **ports) | {"MAX_CONCURRENT_SESSIONS": str(sessions)}
    apart = (["up"], ["serve", "pipeline"], ["serve", "recorder"])
    urls: dict[str, str] = {}
    async with AsyncExitStack() as stack:
        for words in [["up", "--http"]] if together else apart:
            urls |= await stack.enter_async_context(_running([*words, "--json"], env))
        found = [urlsplit(urls[name]) for name in ("pipeline", "recorder")]
        first, second = (Address(str(url.hostname), int(url.port or 80)) for url in found)
        yield first, second


@asynccontextmanager
async def _running(words: Sequence[str], env: dict[str, str]) -> AsyncIterator[dict[str, str]]:
    process = await asyncio.create_subprocess_exec(*command(*words), env=env, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    try:
        async with asyncio.timeout(READY_S):
            said = msgspec.json.decode(await process.stdout.readline())
        yield said.get("http") or {}
    finally:
        if process.returncode is None:
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), ENDING_S)
        except TimeoutError:
            process.kill()
            await process.wait()


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


async def _client(kind: type[T], what: str, asked: Load | Probe) -> T:
    """Return what a process of `http_clients` reports."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.http_clients", what, msgspec.json.encode(asked).decode()),
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    assert process.returncode == 0, f"{what} ended with {process.returncode}"
    return msgspec.json.decode(out, type=kind)


async def _each(
    sessions: Iterable[str], where: Address, work: Callable[[Connection, str], Awaitable[None]]
) -> None:
    left = iter(sessions)

    async def some() -> None:
        async with connected(where.host, where.port) as connection:
            for session in left:
                await work(connection, session)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(AT_ONCE):
            tasks.create_task(some())


async def _activate(connection: Connection, session: str) -> None:
    size = random.Random(session).randint(MIN_CHUNK_BYTES, MAX_CHUNK_BYTES)
    body = msgspec.json.encode({"session_id": session, "settings": {"chunk_bytes": size}})
    status, said = await connection.ask("POST", "/recordings/start", body, "application/json")
    assert status == 201, f"{session}: {status} {said!r}"


async def _stop(connection: Connection, session: str) -> None:
    status, said = await connection.ask("POST", f"/recordings/{session}/stop?wait=60")
    assert status == 200, f"{session}: {status} {said!r}"


class Figures(msgspec.Struct, kw_only=True):
    """What one run found; nothing was lost, or there would be none."""

    idle_p50_s: float
    idle_p99_s: float
    loaded_p50_s: float
    loaded_p99_s: float
    loaded_max_s: float
    push_p50_s: float
    push_p99_s: float
    push_max_s: float
    bytes: int
    seconds: float
    stop_s: float


def quantile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that `share` of them do not exceed."""
    return sorted(values)[math.ceil(len(values) * share) - 1]


async def load(
    pipeline: Address, recorder: Address, sessions: Sequence[str], *, seconds: float, seed: int
) -> Figures:
    """Push into `sessions` for `seconds`, stop them, and play them all.

    Raises:
        AssertionError: an answer was an error, or bytes were lost or changed.
    """
    settle_s = min(SETTLE_S, seconds / 4)
    await _each(sessions[:1], recorder, _activate)
    probe = Probe(
        host=pipeline.host,
        port=pipeline.port,
        sessions=list(sessions[:1]),
        seconds=min(IDLE_S, seconds),
        per_second=PROBES_PER_S,
    )
    idle = await _client(Probed, "probe", probe)
    await _each(sessions[1:], recorder, _activate)
    pushing = Load(
        host=recorder.host,
        port=recorder.port,
        sessions=list(sessions),
        seconds=seconds,
        piece_bytes=PIECE_BYTES,
        every_s=EVERY_S,
        seed=seed,
    )
    probe.sessions, probe.seconds = list(sessions), seconds - 2 * settle_s

    async def probing() -> Probed:
        await asyncio.sleep(settle_s)
        return await _client(Probed, "probe", probe)

    pushed, probed = await asyncio.gather(_client(Pushed, "push", pushing), probing())
    errors = [*idle.errors, *pushed.errors, *probed.errors]
    assert not errors, f"{len(errors)} errors (seed {seed}): {errors[:5]}"
    began = asyncio.get_running_loop().time()
    await _each(sessions, recorder, _stop)
    stop_s = asyncio.get_running_loop().time() - began

    async def played(connection: Connection, session: str) -> None:
        status, said = await connection.ask("GET", f"/recordings/{session}/media")
        found = hashlib.sha256(said).hexdigest()
        assert (status, found) == (200, pushed.sha256[session]), (
            f"{session} (seed {seed}): {status}, {len(said)} bytes with SHA-256 {found}"
        )

    await _each(sessions, recorder, played)
    return Figures(
        idle_p50_s=quantile(idle.latencies_s, 0.5),
        idle_p99_s=quantile(idle.latencies_s, 0.99),
        loaded_p50_s=quantile(probed.latencies_s, 0.5),
        loaded_p99_s=quantile(probed.latencies_s, 0.99),
        loaded_max_s=max(probed.latencies_s),
        push_p50_s=quantile(pushed.latencies_s, 0.5),
        push_p99_s=quantile(pushed.latencies_s, 0.99),
        push_max_s=max(pushed.latencies_s),
        bytes=pushed.bytes,
        seconds=pushed.seconds,
        stop_s=stop_s,
    )


async def run(*, sessions: int, seconds: float, together: bool, seed: int) -> Figures:
    """Run one load on a server and services of its own."""
    async with staged() as stage, services(stage, sessions, together=together) as (pipeline, recorder):
        names = [f"load-{number}" for number in range(sessions)]
        return await load(pipeline, recorder, names, seconds=seconds, seed=seed)


async def measure(
    *,
    runs: int,
    quick: bool = False,
    sessions: int = SESSIONS,
    seconds: float = SECONDS,
    together: bool = False,
) -> list[Outcome]:
    """Measure the status under load against that of an idle service."""
    if quick:
        sessions, seconds = QUICK_SESSIONS, QUICK_SECONDS
    name = f"status over HTTP, p99, {sessions} push"
    outcome = Outcome(name, "the same, idle", Target(most=MOST), 1, "ms")
    for number in range(runs):
        figures = await run(sessions=sessions, seconds=seconds, together=together, seed=number)
        print(msgspec.json.encode(figures).decode(), file=sys.stderr)
        outcome.add(figures.loaded_p99_s, figures.idle_p99_s)
    return [outcome]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.http_load", description=__doc__)
    parser.add_argument("--sessions", type=int, default=SESSIONS)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="20 sessions for 10 s")
    parser.add_argument("--together", action="store_true", help="one process with all of it")
    asked = vars(parser.parse_args())
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(table(runner.run(measure(**asked))))


if __name__ == "__main__":
    main()
