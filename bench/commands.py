"""Commands: many sessions at once against `eventsourcing` on SQLite, one alone against one publish."""

import asyncio
import statistics
import time
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from uuid import UUID

from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event

from bench.measure import Outcome, Target, in_turns
from bench.stage import RAW_SUBJECT, Stage, service, staged
from lucid_events.client import Commands
from lucid_events.domain.commands import Create, Mark, SessionCommand
from lucid_events.domain.ids import CommandId, SessionId
from lucid_events.handlers.requests import Request
from lucid_events.service.workers import Workers

SESSIONS = 64
THREADS = (1, 2, 4, 8)
EVENT_BYTES = 300
"""A publish of the size of a small event with its headers."""
_runs = count()


class Recording(Aggregate):
    """The rival's aggregate: as small as ours is asked to be here."""

    @event("Created")
    def __init__(self, owner: str) -> None:
        self.owner = owner
        self.marks = 0

    @event("Marked")
    def mark(self, label: str) -> None:
        self.marks += 1


class Ours:
    """The command handler of a service with its histories cached: decide, guarded append, fold."""

    def __init__(self, stage: Stage, each: int) -> None:
        self._stage, self._each = stage, each
        self._handler = Workers(stage.adapters, only=["commands"]).commands

    async def _command(self, session: SessionId, command: SessionCommand) -> None:
        id = CommandId(str(uuid.uuid4()))
        request = Request(
            session=session,
            id=id,
            command=command,
            issued_at=datetime.now(UTC),
            actor="bench",
            correlation=id,
            traceparent="",
        )
        await self._handler.handle(request)

    async def run(self) -> float:
        run = next(_runs)
        sessions = [SessionId(f"c{run}-{number}") for number in range(SESSIONS)]
        await asyncio.gather(*(self._command(session, Create(owner="ann")) for session in sessions))
        began = time.perf_counter()
        await asyncio.gather(*map(self._one_after_another, sessions))
        return time.perf_counter() - began

    async def _one_after_another(self, session: SessionId) -> None:
        for number in range(self._each):
            await self._command(session, Mark(label=f"mark {number}"))


class Theirs:
    """Load and save of `eventsourcing`, its commands spread over some threads."""

    def __init__(self, folder: Path, each: int) -> None:
        self._folder, self._each = folder, each

    async def run(self) -> float:
        found = [await asyncio.to_thread(self._with, threads) for threads in THREADS]
        return min(found)

    def _with(self, threads: int) -> float:
        file = self._folder / f"theirs-{next(_runs)}.sqlite"
        settings = {
            "PERSISTENCE_MODULE": "eventsourcing.sqlite",
            "SQLITE_DBNAME": str(file),
            "SQLITE_LOCK_TIMEOUT": "60",
        }
        application: Application[UUID] = Application(settings)
        try:
            made = [Recording("ann") for _ in range(SESSIONS)]
            for one in made:
                application.save(one)
            ids = [one.id for one in made]

            def mark(at: UUID) -> None:
                for number in range(self._each):
                    loaded: Recording = application.repository.get(at)
                    loaded.mark(f"mark {number}")
                    application.save(loaded)

            began = time.perf_counter()
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(mark, ids))
            return time.perf_counter() - began
        finally:
            application.close()
            for path in self._folder.glob(f"{file.name}*"):
                path.unlink()


async def commands(*, runs: int, each: int) -> list[Outcome]:
    """Measure commands per second with `sync_interval: always`, and with the server's own default."""
    found = []
    for sync, least in (("always", 2.0), ("2m", 6.0)):
        async with staged(sync=sync) as stage:
            outcome = Outcome(
                f"commands, sync_interval {sync}",
                "eventsourcing, SQLite",
                Target(least=least),
                SESSIONS * each,
                "/s",
            )
            found.append(
                await in_turns(outcome, Ours(stage, each).run, Theirs(stage.folder, each).run, runs=runs)
            )
    return found


async def latency(*, runs: int, asks: int) -> list[Outcome]:
    """Measure one command alone, asked of a service in another process, against one awaited publish."""
    outcome = Outcome("latency of a command", "nats-py publish", Target(most=2.5), 1, "ms")
    async with staged() as stage, service(stage):
        sender = Commands(stage.adapters.bus, stage.adapters.subjects, stage.adapters.clock, actor="bench")
        body = bytes(EVENT_BYTES)
        for turn in range(runs + 1):
            session = SessionId(f"latency-{turn}")
            await sender.send(session, Create(owner="ann"))
            ours, theirs = [], []
            for number in range(asks):
                began = time.perf_counter()
                await sender.send(session, Mark(label=f"mark {number}"))
                ours.append(time.perf_counter() - began)
                began = time.perf_counter()
                await stage.js.publish(f"{RAW_SUBJECT}.x", body)
                theirs.append(time.perf_counter() - began)
            if turn:
                outcome.add(statistics.median(ours), statistics.median(theirs))
    return [outcome]


async def measure(names: Sequence[str], *, runs: int, each: int, asks: int) -> list[Outcome]:
    found: list[Outcome] = []
    if "commands" in names:
        found += await commands(runs=runs, each=each)
    if "latency" in names:
        found += await latency(runs=runs, asks=asks)
    return found
