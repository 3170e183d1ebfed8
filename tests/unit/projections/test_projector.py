"""The checkpoint rule: whoever delivers what, in whatever order, the view is the fold of the history."""

import asyncio
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lucid_events import codec
from lucid_events.domain import events as ev
from lucid_events.domain.envelope import Recorded, Stray
from lucid_events.domain.ids import SessionId
from lucid_events.domain.transitions import State
from lucid_events.errors import AppendUncertain, StoreUnavailable
from lucid_events.projections.comparison import fold
from tests.unit.domain.specification import active, created, ready, sealed
from tests.unit.projections.bench import CONSUMER, UNKNOWN, Bench
from tests.unit.projections.chained import SID
from tests.unit.projections.histories import legal_histories


async def history(bench: Bench, session: SessionId = SID) -> list[Recorded | Stray]:
    """All messages of a history."""
    return [message async for message in bench.store.read(session)]


async def expected(bench: Bench, session: SessionId = SID) -> bytes:
    """The bytes of the view a history adds up to."""
    view = await fold(bench.projection, bench.store, session, upto=await bench.store.version(session))
    return codec.encode(view)


def test_events_in_order_need_no_reads() -> None:
    """An event that names the view's head as its predecessor is applied without reading the history."""

    async def _() -> None:
        bench = Bench()
        await bench.append(*active(), sealed(0, 0, 10), ready(0, 0, 10))
        projector = bench.projector()
        for message in await history(bench):
            await projector.apply(SID, [message])
        assert projector.reads == 0
        assert await bench.rows() == {SID: await expected(bench)}

    asyncio.run(_())


def test_a_later_event_brings_the_earlier_ones() -> None:
    """A projector handed only the last event reads what it has not seen, and skips nothing."""

    async def _() -> None:
        bench = Bench()
        await bench.append(*active(), sealed(0, 0, 10), ready(0, 0, 10))
        messages = await history(bench)
        projector = bench.projector()
        await projector.apply(SID, [messages[1]])
        await projector.apply(SID, [messages[-1]])
        assert projector.reads == 2
        assert await bench.rows() == {SID: await expected(bench)}
        for message in messages:  # late deliveries of what is in already
            await projector.apply(SID, [message])
        assert projector.reads == 2
        assert await bench.rows() == {SID: await expected(bench)}

    asyncio.run(_())


def test_two_projectors_never_skip_each_other() -> None:
    """A projector with a stale copy loses the compare-and-set, reads the view again and goes on."""

    async def _() -> None:
        bench = Bench()
        await bench.append(*active())
        messages = await history(bench)
        one, other = bench.projector(), bench.projector()
        await one.apply(SID, messages[:1])
        await other.apply(SID, messages[:1])
        await other.apply(SID, messages[1:2])
        await one.apply(SID, messages[1:3])
        assert one.conflicts == 1
        assert await bench.rows() == {SID: await expected(bench)}

    asyncio.run(_())


@settings(max_examples=60)
@given(legal_histories(max_steps=15), st.integers(0, 2**32))
def test_any_interleaving_of_two_projectors_is_the_history(events: list[ev.SessionEvent], seed: int) -> None:
    """Two projectors at once, each event delivered twice in any order to either: the same bytes."""

    async def _() -> None:
        bench, rng = Bench(), random.Random(seed)
        await bench.append(*events)
        if rng.random() < 0.3:
            await bench.stray()
        deliveries = [(rng.random(), message) for message in await history(bench) for _ in range(2)]
        deliveries.sort(key=lambda one: one[0])
        projectors = bench.projector(), bench.projector()
        queues: list[list[Recorded | Stray]] = [[], []]
        for _key, message in deliveries:
            queues[rng.randrange(2)].append(message)

        async def work(number: int) -> None:
            while queues[number]:
                size = rng.randint(1, 4)
                batch, queues[number] = queues[number][:size], queues[number][size:]
                await projectors[number].apply(SID, batch)

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(work(0))
            tasks.create_task(work(1))
        assert await bench.rows() == {SID: await expected(bench)}

    asyncio.run(_())


def test_a_replica_that_is_behind_is_not_believed() -> None:
    """A history that ends before the event that was delivered is an error to retry, nothing is written."""

    async def _() -> None:
        bench = Bench()
        await bench.append(*active())
        messages = await history(bench)
        log = bench.server.stream(bench.subjects.events_stream)
        log.remove([messages[-1].sequence])
        with pytest.raises(StoreUnavailable, match="read again"):
            await bench.projector().apply(SID, [messages[-1]])
        assert await bench.rows() == {SID: None}

    asyncio.run(_())


def test_a_lost_reply_to_the_write_changes_nothing() -> None:
    """When the write landed and its reply did not, applying again finds the cutoff past the event."""

    async def _() -> None:
        bench = Bench()
        await bench.append(*active())
        messages = await history(bench)
        other = bench.projector()

        async def lands() -> None:
            await other.apply(SID, messages)
            raise AppendUncertain("no reply (injected)")

        bench.server.faults.before_next("kv", lands)
        projector = bench.projector()
        with pytest.raises(AppendUncertain):
            await projector.apply(SID, messages)
        revision = (await bench.views.load(SID)).revision
        await projector.apply(SID, messages)
        assert (await bench.views.load(SID)).revision == revision
        assert await bench.rows() == {SID: await expected(bench)}

    asyncio.run(_())


def test_an_unknown_event_halts_its_own_view_only() -> None:
    """The view stands before the event it can't decode and says so; other sessions go on."""

    async def _() -> None:
        bench, well = Bench(), SessionId("well")
        parked: list[tuple[int, str]] = []

        async def park(delivery: object, reason: str) -> None:
            parked.append((getattr(delivery, "sequence"), reason))  # noqa: B009 # any delivery

        await bench.append(*active())
        sequence = await bench.from_the_future()
        await bench.append(ev.SessionStopping())
        await bench.append(created(), session=well)
        runner = bench.runner(park=park)
        await bench.drain(runner)
        view = await bench.view()
        assert view.state is State.ACTIVE
        assert view.position.sequence == sequence - 1
        assert view.problem is not None
        assert view.problem.after == sequence - 1
        assert "session.teleported.v1" in view.problem.reason
        assert [at for at, _ in parked] == [sequence]
        assert list(bench.server.consumer(CONSUMER).terminated) == [sequence]
        assert (runner.counts.undecodable, (await bench.view(well)).state) == (1, State.CREATED)
        held = await bench.views.load(SID)
        await bench.append(ev.SessionMarked(label="m", offset=0))
        await bench.drain(runner)
        assert await bench.views.load(SID) == held  # standing still costs no writes

    asyncio.run(_())


def test_an_event_that_can_t_be_set_aside_comes_again() -> None:
    """Until the pointer is stored the delivery is not given up."""

    async def _() -> None:
        bench = Bench()
        attempts: list[int] = []

        async def park(delivery: object, reason: str) -> None:
            attempts.append(1)
            if len(attempts) == 1:
                raise StoreUnavailable("no responders (injected)")

        await bench.append(created())
        await bench.from_the_future()
        runner = bench.runner(park=park)
        await bench.drain(runner)
        assert len(attempts) == 2
        assert runner.counts.undecodable == 1

    asyncio.run(_())


def test_a_halted_view_goes_on_after_an_upgrade(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once the event can be decoded, the next delivery of the session brings its view up to date."""

    async def _() -> None:
        bench = Bench()
        await bench.append(created())
        await bench.from_the_future()
        await bench.drain(bench.runner())
        assert (await bench.view()).problem is not None
        monkeypatch.setitem(ev.EVENT_TYPES, UNKNOWN, ev.SessionStarted)
        await bench.append(ev.SessionMarked(label="m", offset=0))
        await bench.drain(bench.runner())
        view = await bench.view()
        assert (view.problem, view.state, view.mark_count) == (None, State.STARTING, 1)
        assert await bench.rows() == {SID: await expected(bench)}

    asyncio.run(_())


async def keys(bench: Bench) -> list[str]:
    """All keys of the bucket, in order."""
    return sorted([key async for key, _, _ in bench.kv.scan(">")])


@pytest.mark.parametrize("damage", [b'{"broken', b"{}", b"[]"])
def test_a_view_that_can_not_be_read_is_folded_anew(damage: bytes) -> None:
    """Over a damaged view the history is folded from its beginning, and its index entry is set right."""

    async def _() -> None:
        bench = Bench()
        await bench.append(*active())
        await bench.drain(bench.runner())
        await bench.kv.put(f"s.{SID}", damage)
        stopping = await bench.append(ev.SessionStopping())
        runner = bench.runner()
        await runner.step()
        assert (runner.counts.retried, (await bench.view()).position.sequence) == (0, stopping)
        assert await bench.rows() == {SID: await expected(bench)}
        entry, view = await keys(bench)
        assert (State.STOPPING in entry.split("."), view) == (True, f"s.{SID}")

    asyncio.run(_())


def test_of_two_that_fold_a_damaged_view_one_writes() -> None:
    """The revision of what can't be read is the guard, so nobody writes over a view that was mended."""

    async def _() -> None:
        bench = Bench()
        await bench.append(*active())
        messages = await history(bench)
        await bench.kv.put(f"s.{SID}", b"?")
        one, other = bench.projector(), bench.projector()

        async def overtake() -> None:
            await other.apply(SID, messages)

        bench.server.faults.before_next("kv", overtake)
        await one.apply(SID, messages[:1])
        assert one.conflicts == 1
        assert await bench.rows() == {SID: await expected(bench)}

    asyncio.run(_())
