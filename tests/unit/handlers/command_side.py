"""The command side in memory: several handlers over one server, as several processes would be."""

import asyncio
import hashlib
import itertools
from collections.abc import Awaitable, Sequence
from datetime import datetime, timedelta

from lucid_events.domain import commands as cmd
from lucid_events.domain.envelope import Recorded
from lucid_events.domain.ids import CommandId, SessionId
from lucid_events.domain.replies import Accepted
from lucid_events.domain.values import SettingsAsked
from lucid_events.handlers.commands import CommandHandler
from lucid_events.handlers.endpoint import Endpoints
from lucid_events.handlers.facts import Facts
from lucid_events.handlers.histories import Histories
from lucid_events.handlers.requests import Request
from lucid_events.memory import (
    ManualClock,
    MemoryBeats,
    MemoryCaptureStore,
    MemoryEventStore,
    MemoryKeyValue,
    MemoryServer,
)
from lucid_events.subjects import Subjects

SID = SessionId("s1")
BEAT_S = 5.0


class HurryingClock(ManualClock):
    """A clock on which whoever sleeps moves the time on, so that nobody waits."""

    async def sleep(self, seconds: float) -> None:
        """Let others run, then be `seconds` later."""
        for _ in range(5):
            await asyncio.sleep(0)
        self._now += timedelta(seconds=max(0.0, seconds))


class CommandSide:
    """One server and one process; `process()` starts another beside it."""

    def __init__(self, clock: ManualClock | None = None, *, server: MemoryServer | None = None) -> None:
        self.clock = clock or HurryingClock()
        self.subjects = Subjects()
        self.server = server or MemoryServer(self.subjects, clock=self.clock)
        self.faults = self.server.faults
        self.store = MemoryEventStore(self.server)
        self.capture = MemoryCaptureStore(self.server)
        self.beats = MemoryBeats(self.server)
        self.snapshots = MemoryKeyValue(self.server, self.subjects.snapshots_bucket)
        self.histories = Histories(self.store, self.snapshots, clock=self.clock, snapshot_every=50)
        self.facts = Facts(self.store, self.capture, self.beats, self.clock, beat_interval_s=BEAT_S)
        self.handler = CommandHandler(self.histories, self.store, self.facts, self.clock)
        self.endpoints = Endpoints(self.handler, self.histories, self.subjects, self.clock)

    def process(self) -> "CommandSide":
        """Return another process over the same server, with a cache of its own."""
        return CommandSide(self.clock, server=self.server)

    def request(
        self,
        command: cmd.SessionCommand,
        *,
        id: str,
        session: SessionId = SID,
        issued_at: datetime | None = None,
    ) -> Request:
        """Return the request as the endpoint would read it."""
        return Request(
            session=session,
            id=CommandId(id),
            command=command,
            issued_at=issued_at or self.clock.now(),
            actor="unverified:test",
            correlation=id,
        )

    def ask(
        self,
        command: cmd.SessionCommand,
        *,
        id: str,
        session: SessionId = SID,
        issued_at: datetime | None = None,
    ) -> Awaitable[Accepted]:
        """Handle one command."""
        return self.handler.handle(self.request(command, id=id, session=session, issued_at=issued_at))

    async def start(self, settings: SettingsAsked | None = None, session: SessionId = SID) -> Accepted:
        """Bring a session to `active` with epoch 1 attached."""
        created = cmd.Create(settings=settings or SettingsAsked())
        await self.ask(created, id=f"{session}-create", session=session)
        await self.ask(cmd.Start(), id=f"{session}-start", session=session)
        return await self.ask(cmd.Attach(recorder="r1"), id=f"{session}-attach", session=session)

    async def piece(
        self, offset: int, data: bytes, *, before: bytes = b"", n: int = 0, epoch: int = 1, sha256: str = ""
    ) -> int:
        """Capture one piece; `before` is what precedes it in its chunk. Returns its sequence."""
        running = sha256 or hashlib.sha256(before + data).hexdigest()
        ack = await self.capture.publish(SID, epoch=epoch, n=n, offset=offset, data=data, sha256=running)
        return ack.sequence

    async def pieces(
        self, chunk: bytes, cuts: Sequence[int], *, offset: int = 0, n: int = 0, epoch: int = 1
    ) -> list[int]:
        """Capture a chunk cut at `cuts`, in order; returns the sequences."""
        bounds = [0, *cuts, len(chunk)]
        return [
            await self.piece(offset + a, chunk[a:b], before=chunk[:a], n=n, epoch=epoch)
            for a, b in itertools.pairwise(bounds)
        ]

    async def seal(self, chunk: bytes, *, offset: int = 0, n: int = 0, epoch: int = 1) -> Accepted:
        """Capture and seal one chunk."""
        sequences = await self.pieces(chunk, [], offset=offset, n=n, epoch=epoch)
        command = cmd.Seal(
            epoch=epoch,
            n=n,
            offset=offset,
            size=len(chunk),
            sha256=hashlib.sha256(chunk).hexdigest(),
            first_seq=sequences[0],
            last_seq=sequences[-1],
            started_at=self.clock.now(),
            ended_at=self.clock.now(),
            cut="size",
        )
        return await self.ask(command, id=f"seal-{epoch}-{n}")

    async def events(self, session: SessionId = SID) -> list[Recorded]:
        """Return the history's events as stored."""
        return [one async for one in self.store.read(session) if isinstance(one, Recorded)]

    async def types(self, session: SessionId = SID) -> list[str]:
        """Return the types of the history's events, without their version."""
        return [one.type.rpartition(".")[0] for one in await self.events(session)]
