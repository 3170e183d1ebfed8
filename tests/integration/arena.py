"""The whole pipeline in one process on a real server, each part behind a network of its own.

Recorders, workers and clients are the real ones, built as the composition root builds them; only
where they connect to is a proxy's port, and request timeouts are short.
"""

import asyncio
import hashlib
import logging
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import msgspec

from lucid_events.client import Commands
from lucid_events.config import Settings
from lucid_events.domain import events as ev
from lucid_events.domain.commands import Create
from lucid_events.domain.envelope import Recorded
from lucid_events.domain.ids import SessionId
from lucid_events.domain.state import evolve, initial
from lucid_events.domain.values import MIB, SettingsAsked
from lucid_events.jetstream.connection import connect
from lucid_events.jetstream.options import NatsOptions
from lucid_events.recorder import Recording
from lucid_events.recorder.options import RecorderOptions
from lucid_events.service.adapters import Adapters
from lucid_events.service.embedded import prepare
from lucid_events.service.workers import Workers
from tests.cluster.cluster import Cluster
from tests.end_to_end.audit import Audited, audit
from tests.nats_server import NatsServer
from tests.tcp_proxy import TcpProxy, tcp_proxy

CHUNK = 64 * 1024
ACK_WAIT_S = 2.0
"""Of all consumers, instead of half a minute: what a lost delivery costs here."""
REQUEST_S = 1.0
"""How long a request waits, instead of five seconds."""
WORK_S = 100.0
"""Bound of anything waited for; each takes a few seconds."""
LOOK_S = 0.02

_log = logging.getLogger(__name__)


class Feed:
    """A resumable source in memory that gives its bytes a block at a time, no faster than `pace_s` each.

    With `until`, its last byte is held back until that has happened: the recording goes on as long
    as what is done beside it.
    """

    name, content_type, resumable = "feed", "", True
    exit_code: int | None = None

    def __init__(
        self, data: bytes, *, block: int = 8192, pace_s: float = 0.005, until: asyncio.Event | None = None
    ) -> None:
        self._data, self._block, self._pace_s, self._until = data, block, pace_s, until
        self.position = 0
        self._end = len(data)

    async def start(self) -> None:
        """Nothing begins."""

    async def read(self) -> bytes:
        """Return the next block."""
        await asyncio.sleep(self._pace_s)
        begin, end = self.position, self._end
        if self._until is not None and not self._until.is_set():
            end = min(end, len(self._data) - 1)
            if begin >= end:
                await self._until.wait()
                end = self._end
        self.position = min(begin + self._block, end)
        return self._data[begin : self.position]

    async def seek(self, offset: int) -> None:
        """Go on at `offset`."""
        self.position = offset

    async def pause(self) -> None:
        """Nothing is held."""

    async def resume(self) -> None:
        """Nothing is held."""

    async def stop(self) -> None:
        """Give nothing more."""
        self._end = self.position

    async def close(self) -> None:
        """Nothing to give back."""


class Arena:
    """A server, the definitions on it, and whoever joins; made by `arena`."""

    def __init__(
        self, server: NatsServer | Cluster, rng: random.Random, stack: AsyncExitStack, **settings: Any
    ) -> None:
        self.server, self.rng, self._stack = server, rng, stack
        self.settings = msgspec.structs.replace(Settings(nats_url=server.url), **settings)
        self.adapters: Adapters
        """Straight to the server, for looking."""

    async def open(self, capture_mib: int) -> None:
        """Put the definitions on the server, with consumers that wait a short time for answers."""
        self.adapters = await self.join("arena")
        await prepare(self.adapters, capture_max_bytes=capture_mib * MIB, sync="always")
        connection, subjects = self.adapters.connection, self.adapters.subjects
        for stream in (
            subjects.events_stream,
            subjects.commands_stream,
            subjects.timers_stream,
            subjects.advisories_stream,
        ):
            found = await connection.api(f"CONSUMER.LIST.{stream}", {"offset": 0})
            for consumer in found["consumers"]:
                config = {**consumer["config"], "ack_wait": int(ACK_WAIT_S * 1e9)}
                body = {"stream_name": stream, "config": config}
                await connection.api(f"CONSUMER.DURABLE.CREATE.{stream}.{consumer['name']}", body)

    async def join(self, name: str, *, through: TcpProxy | None = None) -> Adapters:
        """Return every port on a connection of its own, for as long as the arena stands."""
        url = through.url if through else self.server.url
        options = NatsOptions(name=name, servers=tuple(url.split(",")), request_timeout_s=REQUEST_S)
        connection = await self._stack.enter_async_context(connect(options))
        return Adapters(connection, self.settings)

    async def proxy(self) -> TcpProxy:
        """Return a network of its own in front of the server, which is one, no cluster."""
        assert isinstance(self.server, NatsServer)
        return await self._stack.enter_async_context(
            tcp_proxy(self.server.port, random.Random(self.rng.random()))
        )

    async def workers(self, count: int, *, through: TcpProxy | None = None) -> list[Workers]:
        """Start that many workers with all parts, which race on the same consumers."""
        started = []
        for number in range(count):
            adapters = await self.join(f"worker-{number}", through=through)
            started.append(await self._stack.enter_async_context(Workers(adapters).running()))
        return started

    def commands(self, adapters: Adapters, actor: str) -> Commands:
        """Return a client's side of commands."""
        return Commands(adapters.bus, adapters.subjects, adapters.clock, actor=actor, timeout_s=REQUEST_S)

    def recording(
        self,
        adapters: Adapters,
        sid: str,
        source: Feed,
        *,
        on_acked: Callable[[int], None] = lambda offset: None,
        **options: Any,
    ) -> Recording:
        """Return a recorder of `source`; `run` is the caller's."""
        made = {
            "flush_interval_s": 0.05,
            "beat_interval_s": self.settings.beat_interval_s,
            "retry_most_s": 0.5,
            "finish_timeout_s": WORK_S,
            **options,
        }
        return Recording(
            SessionId(sid),
            source,
            commands=self.commands(adapters, "recorder"),
            capture=adapters.capture,
            live=adapters.live,
            clock=adapters.clock,
            subjects=adapters.subjects,
            history=adapters.store,
            create=Create(settings=SettingsAsked(chunk_bytes=CHUNK)),
            options=RecorderOptions(**made),
            on_acked=on_acked,
        )

    async def history(self, sid: str) -> list[Recorded]:
        """Return the history, as the server has it."""
        found = [message async for message in self.adapters.store.read(SessionId(sid))]
        assert all(isinstance(message, Recorded) for message in found)
        return [message for message in found if isinstance(message, Recorded)]

    async def audited(self, sid: str, source: bytes, *, acked: int = 0) -> Audited:
        """Wait for the session's end, check every promise from what is stored, and that nothing is left."""
        found = await asyncio.to_thread(audit, self.server.url, sid, source, acked=acked, settle_s=WORK_S)
        await self.no_orphans()
        return found

    async def no_orphans(self) -> None:
        """Check that objects and `chunk.ready` agree, and that a sweep finds every abandoned piece."""
        chunks = self.adapters.chunks
        await chunks.sweep(older_than_s=0, dry_run=False)
        assert not await chunks.sweep(older_than_s=0, dry_run=True), "pieces without metadata are left"
        named = {
            message.event.object
            async for message in self.adapters.store.replay()
            if isinstance(message, Recorded) and isinstance(message.event, ev.ChunkReady)
        }
        stored = {found.name async for found in chunks.names()}
        assert stored <= named, "objects are stored that no history names"

    async def captured(self, sid: str) -> int:
        """Return how many pieces of the session are left in capture."""
        held = [
            await self.adapters.capture.chunks(SessionId(sid), epoch=epoch)
            for epoch in range(1, max((_epochs(r) for r in await self.history(sid)), default=0) + 1)
        ]
        return sum(sum(counts.values()) for counts in held)

    async def busy(self) -> list[str]:
        """Return the consumers of events that have something in hand or ahead of them."""
        stream = self.adapters.subjects.events_stream
        found = await self.adapters.connection.api(f"CONSUMER.LIST.{stream}", {"offset": 0})
        return [c["name"] for c in found["consumers"] if c["num_pending"] or c["num_ack_pending"]]

    async def until(self, sid: str, *states: str) -> None:
        """Wait until the session is in one of `states`."""
        async with asyncio.timeout(WORK_S):
            while True:
                with suppress(Exception):
                    if (await self.state(sid)) in states:
                        return
                await asyncio.sleep(LOOK_S)

    async def state(self, sid: str) -> str:
        """Return the session's state by its history."""
        session = initial(SessionId(sid))
        for recorded in await self.history(sid):
            session = evolve(session, recorded)
        return str(session.state or "")


def _epochs(recorded: Recorded) -> int:
    return recorded.event.epoch if isinstance(recorded.event, ev.RecorderAttached) else 0


@asynccontextmanager
async def arena(
    server: NatsServer | Cluster, rng: random.Random, *, capture_mib: int = 64, **settings: Any
) -> AsyncIterator[Arena]:
    """Deploy on `server`; whoever joined leaves, in reverse order, when the context ends."""
    quick = {"beat_interval_s": 0.5, "lease_s": 30.0, "shutdown_s": 5.0, "stop_timeout_s": 90.0, **settings}
    async with AsyncExitStack() as stack:
        made = Arena(server, rng, stack, **quick)
        await made.open(capture_mib)
        yield made


def bytes_of(rng: random.Random, size: int) -> bytes:
    """Return what is recorded: every block of it different, half of it compressible."""
    seed = rng.randbytes(16)
    parts = [
        hashlib.sha256(seed + number.to_bytes(4)).digest() + bytes(32) for number in range(size // 64 + 1)
    ]
    return b"".join(parts)[:size]
