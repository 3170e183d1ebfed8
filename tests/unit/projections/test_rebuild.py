"""A view rebuilt from sequence 1 equals the live one, byte by byte."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from lucid_events.domain import events as ev
from lucid_events.domain.ids import SessionId
from lucid_events.domain.transitions import State
from lucid_events.errors import (
    CommandRejected,
    ConfigError,
    ContractError,
    IntegrityError,
    NotFound,
    StoreUnavailable,
    VersionConflict,
)
from lucid_events.memory import MemoryKeyValue
from lucid_events.ports import Position
from lucid_events.projections import comparison
from lucid_events.projections.checkpoints import Checkpoints
from lucid_events.projections.comparison import Difference, compare
from lucid_events.projections.generations import SCRATCH, Built, Generations, Live
from lucid_events.projections.index import ENTRIES, VIEWS, entry_key, entry_of
from lucid_events.projections.rebuild import PATIENCE_S, Rebuild
from lucid_events.projections.views import StatusViews
from tests.unit.domain.specification import active, created
from tests.unit.projections.bench import Bench, ends_at
from tests.unit.projections.chained import SID
from tests.unit.projections.histories import legal_histories


async def everything(bench: Bench, generation: int) -> dict[str, bytes]:
    """All keys and values of a generation's bucket."""
    scan = bench.bucket(generation).scan(">", limit=10_000)
    return {key: value async for key, value, _ in scan}


@settings(max_examples=30)
@given(st.lists(legal_histories(max_steps=12), min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_a_rebuilt_view_equals_the_live_one(histories: list[list[ev.SessionEvent]], rng: object) -> None:
    """Any histories, interleaved, with strays, live by two projectors: a rebuild gives the same bytes."""

    async def _() -> None:
        bench = Bench()
        left = {SessionId(f"s{n}"): list(events) for n, events in enumerate(histories)}
        runners = bench.runner(batch=3), bench.runner(batch=5)
        while any(left.values()):
            session = rng.choice([s for s, events in left.items() if events])  # type: ignore[attr-defined] # a Random
            await bench.append(left[session].pop(0), session=session)
            if rng.random() < 0.05:  # type: ignore[attr-defined] # a Random
                await bench.stray(session)
            await runners[rng.randrange(2)].step()  # type: ignore[attr-defined] # a Random
        await bench.drain(*runners)
        fresh = StatusViews(bench.bucket(2))
        rebuilt = await Rebuild(bench.projection, bench.store, fresh, clock=bench.clock, max_open=2).run()
        assert rebuilt.events == sum(map(len, histories))
        assert await everything(bench, 2) == await everything(bench, 1)
        compared = await compare(bench.projection, bench.store, bench.views, fresh)
        assert (compared.same, compared.sessions) == (True, len(histories))

    asyncio.run(_())


def test_the_live_generation_goes_on_meanwhile() -> None:
    """Views that are further on, or behind, or newer than the rebuild are compared at their own sequence."""

    async def _() -> None:
        bench, late, slow = Bench(), SessionId("late"), SessionId("slow")
        await bench.append(*active())
        await bench.append(created(), session=slow)
        await bench.drain(bench.runner())
        await bench.append(ev.SessionStarted(), session=slow)
        fresh = StatusViews(bench.bucket(2))
        await Rebuild(bench.projection, bench.store, fresh, clock=bench.clock).run()
        await bench.append(ev.SessionStopping())
        await bench.append(created(), session=late)
        live = bench.projector()
        for session in (SID, late):
            await live.apply(session, [message async for message in bench.store.read(session)])
        compared = await compare(bench.projection, bench.store, bench.views, fresh)
        assert compared.same, compared

    asyncio.run(_())


def test_a_difference_is_named() -> None:
    """A live view that is not the fold of its history is reported with the fields that differ."""

    async def _() -> None:
        bench = Bench()
        await bench.append(*active())
        await bench.drain(bench.runner())
        held = await bench.views.load(SID)
        assert held.view is not None
        await bench.views.save(replace(held.view, raw_bytes=7, owner="eve"), held)
        fresh = StatusViews(bench.bucket(2))
        await Rebuild(bench.projection, bench.store, fresh, clock=bench.clock).run()
        compared = await compare(bench.projection, bench.store, bench.views, fresh)
        assert compared.differences == (Difference(session_id=SID, at=3, fields=("owner", "raw_bytes")),)

    asyncio.run(_())


def test_a_view_or_an_entry_too_few_or_too_many_is_named() -> None:
    """What one generation has and the other has not is a difference, in the index too."""

    async def _() -> None:
        bench = Bench()
        await bench.append(created())
        await bench.drain(bench.runner())
        bucket = bench.bucket(2)
        fresh = StatusViews(bucket)
        await Rebuild(bench.projection, bench.store, fresh, clock=bench.clock).run()
        entry = next(key for key in await everything(bench, 2) if key.startswith("i."))
        value = (await everything(bench, 2))[entry]
        await bucket.put_many([(entry, None, None), (entry.replace("created", "active"), value, None)])
        await bench.kv.put_many([(f"s.{SID}", None, None)])
        compared = await compare(bench.projection, bench.store, bench.views, fresh)
        assert compared.differences == (Difference(session_id=SID, at=1, fields=("missing", "index")),)
        assert compared.different == 1

    asyncio.run(_())


class _Moving(MemoryKeyValue):
    """A bucket that others write to right behind a page of `pattern`."""

    others: Callable[[], Awaitable[object]] | None = None
    pattern = ""

    async def scan(
        self, pattern: str, *, after: int = 0, limit: int = 100
    ) -> AsyncIterator[tuple[str, bytes, int]]:
        page = [item async for item in super().scan(pattern, after=after, limit=limit)]
        if pattern == self.pattern and self.others is not None:
            others, self.others = self.others, None
            await others()
        for item in page:
            yield item


@pytest.mark.parametrize("pattern", [VIEWS, ENTRIES])
def test_a_candidate_that_moves_on_meanwhile_does_not_differ(pattern: str) -> None:
    """A view or an entry that is replaced behind the page it was read in is looked at anew."""

    async def _() -> None:
        bench = Bench()
        await bench.append(*active())
        await bench.drain(bench.runner())
        bucket = _Moving(bench.server, bench.subjects.status_bucket(2))
        fresh = StatusViews(bucket)
        await Rebuild(bench.projection, bench.store, fresh, clock=bench.clock).run()
        await bench.append(ev.SessionStopping())
        messages = [message async for message in bench.store.read(SID)]
        bucket.pattern, bucket.others = pattern, lambda: bench.projector(fresh).apply(SID, messages)
        compared = await compare(bench.projection, bench.store, bench.views, fresh)
        assert compared.same, compared
        view = (await fresh.load(SID)).view
        assert view is not None
        assert view.state is State.STOPPING

    asyncio.run(_())


def test_a_candidate_may_know_a_session_first() -> None:
    """What the live generation has yet to write is waited for, and reported only when it never comes."""

    async def _() -> None:
        bench = Bench()
        new, lost = SessionId("new"), SessionId("lost")
        for session in (new, lost):
            await bench.append(created(), session=session)
        fresh = StatusViews(bench.bucket(2))
        await Rebuild(bench.projection, bench.store, fresh, clock=bench.clock).run()
        comparing = asyncio.create_task(
            compare(bench.projection, bench.store, bench.views, fresh, clock=bench.clock)
        )
        await bench.clock.asleep()
        messages = [message async for message in bench.store.read(new)]
        await bench.projector().apply(new, messages)
        await bench.clock.advance(comparison.PATIENCE_S + 1)
        compared = await comparing
        assert compared.differences == (Difference(session_id=lost, at=2, fields=("missing",)),)

    asyncio.run(_())


def test_all_that_differ_are_counted_and_the_first_are_named() -> None:
    """However many sessions differ, in however many ways, each counts once and memory holds a hundred."""

    async def _() -> None:
        bench, many = Bench(), comparison.MAX_DIFFERENCES + 20
        sessions = [SessionId(f"s{number}") for number in range(many)]
        for session in sessions:
            await bench.append(created(), session=session)
        await bench.drain(bench.runner())
        bucket = bench.bucket(2)
        fresh = StatusViews(bucket)
        await Rebuild(bench.projection, bench.store, fresh, clock=bench.clock).run()
        for session in sessions:
            held = await bench.views.load(session)
            assert held.view is not None
            await bench.views.save(replace(held.view, raw_bytes=7), held)
            await bucket.put_many([(entry_key(entry_of(held.view)), None, None)])  # type: ignore[arg-type] # created
        compared = await compare(bench.projection, bench.store, bench.views, fresh)
        assert (compared.sessions, compared.different) == (many, many)
        assert len(compared.differences) == comparison.MAX_DIFFERENCES
        assert {difference.fields for difference in compared.differences} == {("raw_bytes", "index")}

    asyncio.run(_())


@pytest.mark.parametrize("generation", [1, 2])
def test_a_damaged_view_is_named(generation: int) -> None:
    """One that can't be read in either generation is a difference of its session, and stops nothing."""

    async def _() -> None:
        bench, well = Bench(), SessionId("well")
        for session in (SID, well):
            await bench.append(created(), session=session)
        await bench.drain(bench.runner())
        fresh = StatusViews(bench.bucket(2))
        await Rebuild(bench.projection, bench.store, fresh, clock=bench.clock).run()
        await bench.bucket(generation).put(f"s.{SID}", b'{"broken')
        compared = await compare(bench.projection, bench.store, bench.views, fresh)
        assert [(one.session_id, one.fields[0]) for one in compared.differences] == [(SID, "damaged")]
        assert compared.sessions == 2

    asyncio.run(_())


def test_sessions_with_a_view_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Page by page, those too whose view can't be read; keys of nobody's session are passed over."""
    monkeypatch.setattr("lucid_events.projections.views.PAGE", 2)

    async def _() -> None:
        bench = Bench()
        for name in ("a", "b", "c", "not=ours", "d"):
            await bench.kv.put(f"s.{name}", b"?")
        assert [session async for session in bench.views.sessions()] == ["a", "b", "c", "d"]

    asyncio.run(_())


@pytest.mark.parametrize("max_open", [2, 3, 100])
def test_an_interrupted_rebuild_is_run_again(max_open: int) -> None:
    """What an interrupted run had written stays, and the next run ends where an undisturbed one does."""

    async def _() -> None:
        bench = Bench()
        sessions = [SessionId(f"s{n}") for n in range(6)]
        for event in [*active(), ev.SessionStopping()]:
            for session in sessions:
                await bench.append(event, session=session)
        await bench.drain(bench.runner())
        fresh = StatusViews(bench.bucket(2))
        bench.server.faults.fail_next("kv", ConfigError("no such bucket"), skip=3)
        with pytest.raises(ConfigError):
            await Rebuild(bench.projection, bench.store, fresh, clock=bench.clock, max_open=2).run()
        assert await everything(bench, 2)
        await Rebuild(bench.projection, bench.store, fresh, clock=bench.clock, max_open=max_open).run()
        assert await everything(bench, 2) == await everything(bench, 1)

    asyncio.run(_())


def test_a_rebuild_outlasts_a_bucket_that_does_not_answer() -> None:
    """Writes and reads that fail for a while are repeated; after `PATIENCE_S` the rebuild gives up."""

    async def _() -> None:
        bench = Bench()
        for session in map(SessionId, ("a", "b", "c")):
            await bench.append(*active(), session=session)
        await bench.drain(bench.runner())
        fresh = StatusViews(bench.bucket(2))
        bench.server.faults.fail_next("kv", times=5)
        rebuild = Rebuild(bench.projection, bench.store, fresh, clock=bench.clock)
        running = asyncio.create_task(rebuild.run())
        await bench.clock.advance(PATIENCE_S / 2)
        await running
        assert await everything(bench, 2) == await everything(bench, 1)
        bench.server.faults.fail_next("kv", times=10_000)
        rebuild = Rebuild(bench.projection, bench.store, StatusViews(bench.bucket(3)), clock=bench.clock)
        running = asyncio.create_task(rebuild.run())
        await bench.clock.advance(2 * PATIENCE_S)
        with pytest.raises(StoreUnavailable):
            await running

    asyncio.run(_())


def test_an_unknown_event_stops_a_rebuild() -> None:
    """A version that can't read the whole log does not get to rebuild from it."""

    async def _() -> None:
        bench = Bench()
        await bench.append(created())
        await bench.from_the_future()
        with pytest.raises(ContractError, match="teleported"):
            await Rebuild(
                bench.projection, bench.store, StatusViews(bench.bucket(2)), clock=bench.clock
            ).run()

    asyncio.run(_())


def test_a_fresh_generation_is_followed_by_its_own_runner() -> None:
    """After the rebuild a projector on the fresh bucket brings in what came since."""

    async def _() -> None:
        bench = Bench()
        await bench.append(*active())
        fresh = StatusViews(bench.bucket(2))
        await Rebuild(bench.projection, bench.store, fresh, clock=bench.clock).run()
        await bench.append(ev.SessionStopping())
        messages = [message async for message in bench.store.read(SID)]
        projector = bench.projector(fresh)
        await projector.apply(SID, messages[-1:])
        view = (await fresh.load(SID)).view
        assert view is not None
        assert (view.state, projector.reads) == (State.STOPPING, 0)

    asyncio.run(_())


def test_generations_are_switched_once() -> None:
    """The switch needs the generation that was compared with; a repeat of it changes nothing."""

    async def _() -> None:
        bench = Bench()
        generations = Generations(bench.meta, "status")
        assert await generations.live() == Live(generation=1, version=1)
        with pytest.raises(NotFound, match="no generation 2"):
            await generations.switch(2, expected=1)
        await generations.begin(version=2)
        with pytest.raises(CommandRejected, match="not whole"):
            await generations.switch(2, expected=1)
        await generations.built(2)
        before = Built(generation=1, version=1)
        switched = Live(generation=2, version=2, previous=before, last=2)
        assert await generations.switch(2, expected=1) == switched
        assert await generations.switch(2, expected=1) == switched
        with pytest.raises(VersionConflict, match="generation 2 is live, not 1"):
            await generations.switch(3, expected=1)
        assert await generations.live() == switched

    asyncio.run(_())


def test_the_way_back_and_the_numbers() -> None:
    """A rollback changes places, what is kept is in the way of the next switch, no number comes twice."""

    async def _() -> None:
        generations = Generations(Bench().meta, "status")
        await generations.begin(version=1)
        with pytest.raises(CommandRejected, match="built, already"):
            await generations.begin(version=1)
        await generations.built(2)
        await generations.switch(2, expected=1)
        back = await generations.switch(1, expected=2)
        assert (back.generation, back.previous) == (1, Built(generation=2, version=1))
        assert (await generations.begin(version=1)).generation == 3
        await generations.built(3)
        with pytest.raises(CommandRejected, match="projections drop 2"):
            await generations.switch(3, expected=1)
        with pytest.raises(CommandRejected, match="is live"):
            await generations.drop(1)
        assert await generations.drop(2)
        assert not await generations.drop(2)
        assert (await generations.switch(3, expected=1)).generation == 3
        assert await generations.reserve() == SCRATCH + 1
        assert await generations.reserve() == SCRATCH + 2
        assert (await generations.live()).last == 3

    asyncio.run(_())


def test_a_log_that_was_cut_back_is_noticed() -> None:
    """A log that ends below what was seen is refused with both numbers, until its incarnation is raised."""

    async def _() -> None:
        bench = Bench()
        log = bench.subjects.events_stream
        checkpoints = Checkpoints(bench.meta, log, 1)
        await checkpoints.check(ends_at(Position(log, 1, 0)))
        await checkpoints.note(500)
        await checkpoints.note(20)
        await checkpoints.check(ends_at(Position(log, 1, 500)))
        with pytest.raises(IntegrityError, match="ends at 499, 500 was seen") as caught:
            await checkpoints.check(ends_at(Position(log, 1, 499)))
        assert (caught.value.fields["expected"], caught.value.fields["actual"]) == (500, 499)
        raised = Checkpoints(bench.meta, log, 2)
        await raised.check(ends_at(Position(log, 2, 3)))
        await raised.note(3)
        with pytest.raises(IntegrityError, match="older log"):
            await checkpoints.note(501)
        await raised.check(ends_at(Position(log, 2, 4)))

    asyncio.run(_())


class _Overtaken(MemoryKeyValue):
    """A bucket that others write to right behind its first read."""

    others: Callable[[], Awaitable[None]] | None = None

    async def get(self, key: str) -> tuple[bytes, int] | None:
        found = await super().get(key)
        others, self.others = self.others, None
        if others is not None:
            await others()
        return found


def test_a_checkpoint_that_others_raise_meanwhile_is_no_log_cut_back() -> None:
    """Who is overtaken between its look and its note finds a higher one, not a log that ends too early."""

    async def _() -> None:
        bench = Bench()
        log = bench.subjects.events_stream
        meta = _Overtaken(bench.server, bench.subjects.meta_bucket)
        one, other = Checkpoints(meta, log, 1), Checkpoints(bench.meta, log, 1)
        meta.others = lambda: other.note(7)
        await one.note(5)
        with pytest.raises(IntegrityError, match="7 was seen"):
            await other.check(ends_at(Position(log, 1, 6)))

    asyncio.run(_())


def test_racing_checkpoints_keep_the_highest() -> None:
    """Of two processes that note at once, the higher sequence stands."""

    async def _() -> None:
        bench = Bench()
        log = bench.subjects.events_stream
        one, other = Checkpoints(bench.meta, log, 1), Checkpoints(bench.meta, log, 1)
        bench.server.faults.before_next("kv", lambda: other.note(7))
        await one.note(5)
        with pytest.raises(IntegrityError, match="7 was seen"):
            await one.check(ends_at(Position(log, 1, 6)))

    asyncio.run(_())
