"""A connection that loses what it is told to lose, and reads from a replica as old as it is told."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from lucid_events.errors import AppendUncertain
from lucid_events.jetstream.connection import Connection, DirectPage, NatsOptions, Reply, connect
from lucid_events.jetstream.definitions import TopologySettings, load
from lucid_events.jetstream.topology import apply
from lucid_events.subjects import Subjects
from tests.nats_server import NatsServer

REQUEST, REPLY = "request", "reply"

CAPTURE_MAX_BYTES = 256 * 1024 * 1024

_prefixes = (f"i{number}" for number in itertools.count())


class FaultyConnection(Connection):
    """Loses requests or replies on chosen subjects; `before` runs ahead of a call on one of them."""

    def __init__(self, inner: Connection) -> None:
        super().__init__(inner._link)
        self._faults: list[tuple[str, str]] = []
        self.before: dict[str, Callable[[], Awaitable[None]]] = {}
        self.visible: int | None = None
        """Last sequence that direct gets show, None for all of them."""
        self.lost = 0

    def lose(self, what: str, prefix: str, times: int = 1) -> None:
        """Lose the next `times` requests or replies on subjects that begin with `prefix`."""
        self._faults += [(prefix, what)] * times

    def call(
        self,
        subject: str,
        data: bytes | memoryview = b"",
        *,
        headers: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
    ) -> asyncio.Future[Reply]:
        for prefix in list(self.before):
            if subject.startswith(prefix):
                return asyncio.ensure_future(
                    self._after(self.before.pop(prefix), subject, data, headers, timeout_s)
                )
        for fault in self._faults:
            if subject.startswith(fault[0]):
                self._faults.remove(fault)
                self.lost += 1
                return asyncio.ensure_future(self._lose(fault[1], subject, data, headers, timeout_s))
        return super().call(subject, data, headers=headers, timeout_s=timeout_s)

    async def _after(
        self,
        action: Callable[[], Awaitable[None]],
        subject: str,
        data: bytes | memoryview,
        headers: Mapping[str, str] | None,
        timeout_s: float | None,
    ) -> Reply:
        await action()
        return await super().call(subject, data, headers=headers, timeout_s=timeout_s)

    async def _lose(
        self,
        what: str,
        subject: str,
        data: bytes | memoryview,
        headers: Mapping[str, str] | None,
        timeout_s: float | None,
    ) -> Reply:
        if what == REPLY:
            await super().call(subject, data, headers=headers, timeout_s=timeout_s)
        raise AppendUncertain(f"no reply on {subject!r} (lost by the test)")

    async def direct_get(
        self, stream: str, body: Mapping[str, Any], *, timeout_s: float | None = None
    ) -> DirectPage:
        page = await super().direct_get(stream, body, timeout_s=timeout_s)
        if self.visible is None:
            return page
        shown = tuple(message for message in page.messages if message.sequence <= self.visible)
        return DirectPage(shown, 0, shown[-1].sequence) if shown else DirectPage()


@asynccontextmanager
async def deployed(
    server: NatsServer, settings: TopologySettings | None = None
) -> AsyncIterator[tuple[FaultyConnection, Subjects]]:
    """Connect, with all streams deployed under a prefix of their own; they go at the end."""
    subjects = Subjects(next(_prefixes))
    settings = settings or TopologySettings(capture_max_bytes=CAPTURE_MAX_BYTES)
    async with connect(NatsOptions(servers=(server.url,))) as connection:
        await apply(connection, subjects, settings)
        yield FaultyConnection(connection), subjects
        if connection.connected:
            for definition in load(subjects, settings):
                if definition.kind == "stream":
                    await connection.api(f"STREAM.DELETE.{definition.name}")
