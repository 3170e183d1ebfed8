"""What is seen of the pipeline costs it little, however much of it there is."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import cast

import pytest

from lucid_events import codec
from lucid_events.config import Settings
from lucid_events.domain.ids import SessionId
from lucid_events.domain.transitions import State
from lucid_events.memory import MemoryKeyValue, MemoryServer
from lucid_events.projections.index import IndexEntry, SessionIndex, entry_key
from lucid_events.service import monitoring
from lucid_events.service.adapters import Adapters
from lucid_events.service.monitoring import COUNTED_UP_TO, Monitor

CREATED = datetime(2026, 1, 1, tzinfo=UTC)


class Counting(MemoryKeyValue):
    """A bucket that counts what is read of it."""

    read = 0

    async def scan(
        self, pattern: str, *, after: int = 0, limit: int = 100
    ) -> AsyncIterator[tuple[str, bytes, int]]:
        """Yield what is asked for."""
        async for found in super().scan(pattern, after=after, limit=limit):
            self.read += 1
            yield found


def test_a_scrape_reads_a_bounded_part_of_the_index(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions in error stay for weeks: beyond `COUNTED_UP_TO` they cost no more; the others are exact."""

    async def main() -> None:
        kv = Counting(MemoryServer(), "status")
        for number in range(COUNTED_UP_TO + 7):
            await _put(kv, f"e{number}", State.ERROR)
        for number in range(3):
            await _put(kv, f"a{number}", State.ACTIVE)

        async def live(adapters: object) -> SessionIndex:
            return SessionIndex(kv)

        monkeypatch.setattr(monitoring, "live_index", live)
        monitor = Monitor(cast(Adapters, SimpleNamespace(settings=Settings())))
        counts = await monitor.sessions()
        assert (counts[State.ERROR], counts[State.ACTIVE], counts[State.PAUSED]) == (COUNTED_UP_TO, 3, 0)
        assert kv.read == COUNTED_UP_TO + 3

    asyncio.run(main())


async def _put(kv: MemoryKeyValue, session: str, state: State) -> None:
    entry = IndexEntry(
        session_id=SessionId(session), owner="ann", label="", state=state, since=CREATED, created_at=CREATED
    )
    await kv.put(entry_key(entry), codec.encode(entry))
