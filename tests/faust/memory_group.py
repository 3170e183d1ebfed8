"""A group's records in memory, under a clock that a test moves; held to the contract of the real ones."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from lucid_events.faust_nats.errors import Refused
from lucid_events.faust_nats.link import WRONG_SEQUENCE
from lucid_events.faust_nats.membership import LEFT_TTL, Group, Snapshot


class Records:
    """What the server keeps: the last of each record until its time to live runs out."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self._kept: dict[str, tuple[int, bytes, float]] = {}
        self._sequence = 0
        self.watchers: list[Callable[[], None]] = []
        self.looks = 0

    def advance(self, seconds: float) -> None:
        """Let time pass. As on the server, nobody is told of what goes by it."""
        self.now_s += seconds

    def clock(self) -> float:
        """The time that members measure their silence by."""
        return self.now_s

    def there(self) -> dict[str, tuple[int, bytes]]:
        """The records whose time has not run out."""
        self._kept = {name: record for name, record in self._kept.items() if record[2] > self.now_s}
        return {name: (sequence, data) for name, (sequence, data, _) in self._kept.items()}

    def store(self, name: str, data: bytes, expect: int | None, ttl: str) -> int:
        """Replace a record, if its last sequence is the one expected."""
        last = self.there().get(name, (0, b""))[0]
        if expect is not None and expect != last:
            raise Refused(f"wrong last sequence: {last}", min(WRONG_SEQUENCE))
        self._sequence += 1
        ends = self.now_s + float(ttl.rstrip("s")) if ttl else float("inf")
        self._kept[name] = (self._sequence, data, ends)
        for watcher in tuple(self.watchers):
            watcher()
        return self._sequence


class MemoryGroup(Group):
    """One worker's view of the records."""

    def __init__(self, records: Records, *, session_s: float) -> None:
        self._records = records
        self.session_ttl = f"{session_s:g}s"

    async def create(self, replicas: int) -> None:
        """Nothing is to be made."""

    async def snapshot(self) -> Snapshot:
        """Return all records as of one moment."""
        await asyncio.sleep(0)
        self._records.looks += 1
        return Snapshot(self._records.there())

    async def put(
        self, kind: str, value: object, *, member: str = "", expect: int | None = None, ttl: str = ""
    ) -> int:
        """Write a record."""
        await asyncio.sleep(0)
        name = f"{kind}.{member}" if member else kind
        return self._records.store(name, msgspec.json.encode(value), expect, ttl)

    async def leave(self, member: str, *, leading: bool) -> None:
        """Say that `member` goes."""
        for name in [f"member.{member}", *(["leader"] if leading else [])]:
            self._records.store(name, b"", None, LEFT_TTL)

    async def watch(self, changed: Callable[[], None]) -> Callable[[], asyncio.Future[None]]:
        """Call `changed` when a record may have changed."""
        self._records.watchers.append(changed)

        def stop() -> asyncio.Future[None]:
            self._records.watchers.remove(changed)
            done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            done.set_result(None)
            return done

        return stop
