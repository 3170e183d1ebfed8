"""Reading one's own writes, and paging through the index."""

import asyncio
from datetime import UTC, date, datetime

import pytest

from lucid_events.domain import events as ev
from lucid_events.domain.ids import SessionId
from lucid_events.domain.transitions import State
from lucid_events.domain.values import SessionSettings
from lucid_events.errors import ContractError, NotFound, NotReady
from lucid_events.projections.index import SessionIndex, owner_token
from tests.unit.domain.specification import active, created
from tests.unit.projections.bench import Bench
from tests.unit.projections.chained import SID


def owned(owner: str) -> ev.SessionCreated:
    """A creation on behalf of `owner`."""
    return ev.SessionCreated(owner=owner, settings=SessionSettings())


async def names(index: SessionIndex, **filters: object) -> list[str]:
    """All sessions that fit, over as many pages of two as it takes."""
    found: list[str] = []
    cursor: int | None = 0
    while cursor is not None:
        page = await index.page(after=cursor, limit=2, **filters)  # type: ignore[arg-type] # the test names them
        found += [entry.session_id for entry in page.entries]
        cursor = page.cursor
    return found


def test_a_read_waits_for_the_write_it_must_see() -> None:
    """A read with a position waits, looks again, and returns the view that holds it."""

    async def _() -> None:
        bench = Bench()
        runner = bench.runner()
        await bench.append(created())
        await runner.step()
        version = await bench.append(ev.SessionStarted())
        assert (await bench.reads.read(SID)).state is State.CREATED
        reading = asyncio.create_task(bench.reads.read(SID, min_position=version, timeout_s=5))
        await bench.clock.asleep()
        assert not reading.done()
        await runner.step()
        await bench.clock.advance(1)
        assert (await reading).state is State.STARTING

    asyncio.run(_())


def test_a_read_that_waits_in_vain_says_how_far_the_view_is() -> None:
    """After the timeout the error carries where the view is and what was asked for."""

    async def _() -> None:
        bench = Bench()
        await bench.append(created())
        await bench.runner().step()
        reading = asyncio.create_task(bench.reads.read(SID, min_position=9, timeout_s=5))
        await bench.clock.asleep()
        await bench.clock.advance(6)
        with pytest.raises(NotReady) as caught:
            await reading
        assert (caught.value.fields["position"], caught.value.fields["min_position"]) == (1, 9)

    asyncio.run(_())


def test_a_session_nobody_knows() -> None:
    """Without a position an unknown session is not found at once; with one it is waited for."""

    async def _() -> None:
        bench = Bench()
        with pytest.raises(NotFound):
            await bench.reads.read(SID)
        with pytest.raises(NotReady):
            await bench.reads.read(SID, min_position=1, timeout_s=0)

    asyncio.run(_())


def test_a_halted_view_surfaces_in_the_wait() -> None:
    """Waiting for a position behind an event that can't be decoded fails at once, with the reason."""

    async def _() -> None:
        bench = Bench()
        await bench.append(created())
        sequence = await bench.from_the_future()
        await bench.drain(bench.runner())
        with pytest.raises(ContractError, match="teleported"):
            await bench.reads.read(SID, min_position=sequence)
        assert (await bench.reads.read(SID)).problem is not None

    asyncio.run(_())


def test_the_index_answers_by_owner_state_and_day() -> None:
    """Each filter and every combination finds exactly the sessions that fit, page by page."""

    async def _() -> None:
        bench = Bench()
        for number in range(5):
            session = SessionId(f"s{number}")
            await bench.append(owned("ann *" if number % 2 else "böb > x"), session=session)
            if number > 2:
                await bench.append(ev.SessionStarted(), session=session)
        await bench.clock.advance(86_400)
        await bench.append(owned("ann *"), session=SessionId("late"))
        await bench.drain(bench.runner())
        index = bench.index
        assert await names(index) == ["s0", "s1", "s2", "s3", "s4", "late"]
        assert await names(index, owner="ann *") == ["s1", "s3", "late"]
        assert await names(index, owner="ann *", state=State.CREATED) == ["s1", "late"]
        assert await names(index, state=State.STARTING) == ["s3", "s4"]
        assert await names(index, created_on=date(2026, 1, 2)) == ["late"]
        assert await names(index, owner="nobody") == []
        assert datetime(2026, 1, 1, tzinfo=UTC) == (await index.page(limit=1)).entries[0].created_at

    asyncio.run(_())


def test_a_session_has_one_entry_and_it_moves() -> None:
    """With a change of state the entry moves: never two of one session, whichever state it was in."""

    async def _() -> None:
        bench = Bench()
        runner = bench.runner(batch=1)
        for event in [*active(), ev.SessionStopping()]:
            await bench.append(event)
            await runner.step()
            assert await names(bench.index) == [SID]
            state = (await bench.view()).state
            assert state is not None
            assert [e.state for e in (await bench.index.page()).entries] == [state]
        assert await names(bench.index, state=State.ACTIVE) == []

    asyncio.run(_())


@pytest.mark.parametrize("limit", [0, 1001])
def test_a_page_has_a_size(limit: int) -> None:
    """A page of nothing, or of everything, is refused."""
    with pytest.raises(ContractError, match="1 to 1000"):
        asyncio.run(Bench().index.page(limit=limit))


@pytest.mark.parametrize("owner", ["", "a", "a.b", "*", ">", "ä" * 200, "$x y\n"])
def test_any_owner_makes_a_token(owner: str) -> None:
    """Whatever an owner is called, its token is one token of a key, of one length."""
    token = owner_token(owner)
    assert len(token) == 20
    assert all(c.isascii() and (c.isalnum() or c in "-_") for c in token)
