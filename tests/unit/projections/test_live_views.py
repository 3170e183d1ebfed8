"""Readers of whichever generation is live: through switches, drops and lags."""

import asyncio

import pytest

from lucid_events.domain import events as ev
from lucid_events.domain.ids import SessionId
from lucid_events.errors import ContractError, StoreUnavailable
from lucid_events.memory import MemoryKeyValue
from lucid_events.projections.generations import Generations
from lucid_events.projections.live_views import KEPT_S, LiveViews
from lucid_events.projections.rebuild import Rebuild
from lucid_events.projections.views import StatusViews
from tests.unit.domain.specification import active, created
from tests.unit.projections.bench import Bench
from tests.unit.projections.chained import SID


class Readers:
    """A log with one generation built beside the other, and a reader; `gone` buckets can't be read."""

    def __init__(self) -> None:
        self.bench = Bench()
        self.generations = Generations(self.bench.meta, "status")
        self.gone: set[int] = set()
        self.views = LiveViews(self.generations, self.open, self.bench.clock)

    def open(self, generation: int) -> MemoryKeyValue:
        """Open a generation's bucket."""
        if generation in self.gone:
            raise StoreUnavailable(f"nobody serves generation {generation}")
        return self.bench.bucket(generation)

    async def build(self) -> None:
        """Bring generation 1 up to date, and make generation 2 from the log as it is."""
        await self.bench.drain(self.bench.runner())
        await self.generations.begin(version=1)
        fresh = StatusViews(self.bench.bucket(2))
        await Rebuild(self.bench.projection, self.bench.store, fresh, clock=self.bench.clock).run()
        await self.generations.built(2)

    async def at(self) -> int:
        """Where the view stands that a reader gets."""
        view = (await self.views.load(SID)).view
        assert view is not None
        return view.position.sequence


def test_a_switch_takes_no_reader_back() -> None:
    """While the generation switched to lags, reads give the other one's view, then its own."""

    async def _() -> None:
        readers = Readers()
        await readers.bench.append(*active())
        await readers.build()
        version = await readers.bench.append(ev.SessionStopping())
        await readers.bench.drain(readers.bench.runner())
        assert await readers.at() == version
        await readers.generations.switch(2, expected=1)
        await readers.bench.clock.advance(2 * KEPT_S)
        behind = (await StatusViews(readers.bench.bucket(2)).load(SID)).view
        assert behind is not None
        assert behind.position.sequence < version
        assert await readers.at() == version
        last = [message async for message in readers.bench.store.read(SID)][-1:]
        await readers.bench.projector(StatusViews(readers.bench.bucket(2))).apply(SID, last)
        await readers.generations.drop(1)
        readers.gone.add(1)
        await readers.bench.clock.advance(2 * KEPT_S)
        assert await readers.at() == version

    asyncio.run(_())


def test_a_reader_that_knows_the_old_generation_outlives_its_drop() -> None:
    """What was known is looked at again when its bucket is gone, without waiting for its time to be over."""

    async def _() -> None:
        readers = Readers()
        await readers.bench.append(*active())
        await readers.build()
        before = await readers.at()
        await readers.generations.switch(2, expected=1)
        await readers.generations.drop(1)
        readers.gone.add(1)
        assert await readers.at() == before
        readers.gone.add(2)
        with pytest.raises(StoreUnavailable):
            await readers.at()

    asyncio.run(_())


def test_a_cursor_stays_with_its_generation() -> None:
    """A list that was begun before a switch goes on where it was; after the drop it has to be begun again."""

    async def _() -> None:
        readers = Readers()
        sessions = [SessionId(f"s{number}") for number in range(5)]
        for session in sessions:
            await readers.bench.append(created(), session=session)
        await readers.build()
        first = await readers.views.page(limit=2)
        await readers.generations.switch(2, expected=1)
        assert first.cursor is not None
        second = await readers.views.page(limit=2, after=first.cursor)
        assert second.cursor is not None
        third = await readers.views.page(limit=2, after=second.cursor)
        listed = [entry.session_id for page in (first, second, third) for entry in page.entries]
        assert listed == sessions
        fresh = await readers.views.page(limit=2)
        assert fresh.cursor is not None
        assert fresh.cursor > first.cursor
        assert len((await readers.views.page(after=fresh.cursor)).entries) == 3
        await readers.generations.drop(1)
        with pytest.raises(ContractError, match="begin again"):
            await readers.views.page(limit=2, after=second.cursor)

    asyncio.run(_())
