"""From a durable consumer to views: nothing is lost, nothing is counted twice."""

import asyncio

import msgspec
import pytest

from lucid_events.domain import events as ev
from lucid_events.domain.ids import SessionId
from lucid_events.domain.transitions import State
from lucid_events.errors import ConfigError, IntegrityError, LucidError, StoreUnavailable
from lucid_events.memory import MemoryInbox
from lucid_events.ports import Delivery
from lucid_events.projections.comparison import compare, fold
from lucid_events.projections.rebuild import Rebuild
from lucid_events.projections.runner import DEFAULT_LIMITS
from lucid_events.projections.views import StatusViews
from tests.unit.domain.specification import active, created, ready, sealed
from tests.unit.projections.bench import CONSUMER, Bench, ends_at
from tests.unit.projections.chained import SID

SESSIONS = [SessionId(f"s{i}") for i in range(5)]


async def recordings(bench: Bench, chunks: int = 6) -> None:
    """Several sessions, their events interleaved in the log."""
    for session in SESSIONS:
        await bench.append(*active(), session=session)
    for index in range(chunks):
        for session in SESSIONS:
            await bench.append(sealed(index, index * 10, 10), session=session)
            await bench.append(ready(index, index * 10, 10), session=session)


async def is_the_log(bench: Bench) -> None:
    """Every view equals the fold of its history, which nobody else has touched."""
    for session in SESSIONS:
        upto = await bench.store.version(session)
        assert await bench.view(session) == await fold(bench.projection, bench.store, session, upto=upto)


def test_a_batch_costs_one_write_per_session() -> None:
    """Deliveries of one fetch are folded together: as many writes as sessions, all acknowledged."""

    async def _() -> None:
        bench = Bench()
        await recordings(bench)
        runner = bench.runner()
        assert await runner.step() == len(SESSIONS) * 15
        views = bench.server.stream(f"KV_{bench.kv.bucket}")
        assert views.last_sequence == 2 * len(SESSIONS)  # view and index entry
        lag = await MemoryInbox(bench.server, CONSUMER).lag()
        assert (lag.pending, lag.in_flight, runner.counts.applied) == (0, 0, len(SESSIONS) * 15)
        await is_the_log(bench)

    asyncio.run(_())


@pytest.mark.parametrize("batch", [1, 3, 256])
def test_two_processes_share_a_consumer(batch: int) -> None:
    """Two projector processes on one consumer, with duplicates and stragglers: every view is its history."""

    async def _() -> None:
        bench = Bench()
        for _ in range(3):
            bench.server.faults.duplicate_next(CONSUMER)
            bench.server.faults.delay_next(CONSUMER, 5)
        await recordings(bench)
        await bench.drain(bench.runner(batch=batch), bench.runner(batch=batch))
        await is_the_log(bench)

    asyncio.run(_())


@pytest.mark.parametrize("place", ["read", "kv", "ack"])
def test_a_failure_anywhere_is_repeated(place: str) -> None:
    """When bucket, history or answer fail for a while, the messages come again and the views are right."""

    async def _() -> None:
        bench = Bench()
        await recordings(bench, chunks=2)
        bench.server.faults.fail_next(place, times=4)  # type: ignore[arg-type] # parametrized
        runner = bench.runner(batch=7)
        await bench.drain(runner)
        assert place == "ack" or runner.counts.retried > 0
        await is_the_log(bench)

    asyncio.run(_())


def test_what_is_no_event_is_counted_and_passed() -> None:
    """A stray is acknowledged, counted, and moves the view's cutoff; a subject of no session is passed."""

    async def _() -> None:
        bench = Bench()
        await bench.append(*active())
        stray = await bench.stray()
        bench.server.publish(f"{bench.subjects.prefix}.evt.not!valid.x.y", b"x")
        runner = bench.runner()
        await bench.drain(runner)
        view = await bench.view()
        assert (view.position.sequence, view.events, runner.counts.strays) == (stray, 3, 2)
        await bench.append(ev.SessionStopping())
        await bench.drain(bench.runner())
        assert (await bench.view()).state is State.STOPPING

    asyncio.run(_())


def test_it_runs_until_it_is_stopped() -> None:
    """`run` waits out a lost server, goes on, and returns after `stop` with the batch in hand answered."""

    async def _() -> None:
        bench = Bench()
        bench.server.faults.fail_next("fetch")
        runner = bench.runner()
        running = asyncio.create_task(runner.run())
        await bench.clock.asleep()  # it pauses after the failure
        version = await bench.append(*active())
        await bench.clock.advance(60)
        view = await bench.reads.read(SID, min_position=version)
        runner.stop()
        await bench.clock.advance(60)
        async with asyncio.timeout(10):
            await running
        assert view.state is State.ACTIVE

    asyncio.run(_())


def test_an_event_that_names_another_session_is_a_stray() -> None:
    """Whoever reads judges alike: the live view passes over what a rebuild passes over."""

    async def _() -> None:
        bench = Bench()
        await bench.append(*active())
        another = SessionId("another")
        await bench.append(*active(), session=another)
        version = await bench.append(ev.SessionStopping(), session=another)
        stopping = bench.server.stream(bench.subjects.events_stream).get(version)
        assert stopping is not None
        headers = {**stopping.headers, "Nats-Msg-Id": "forged"}
        bench.server.publish(bench.subjects.event(SID, ev.SessionStopping.type), stopping.data, headers)
        runner = bench.runner()
        await bench.drain(runner)
        assert runner.counts.strays == 1
        fresh = StatusViews(bench.bucket(2))
        await Rebuild(bench.projection, bench.store, fresh, clock=bench.clock).run()
        assert (await compare(bench.projection, bench.store, bench.views, fresh)).same

    asyncio.run(_())


def test_the_highest_position_is_noted() -> None:
    """After each batch the checkpoint stands at the highest sequence applied."""

    async def _() -> None:
        bench = Bench()
        version = await bench.append(*active())
        await bench.drain(bench.runner())
        position = await bench.store.last_position()
        assert position.sequence == version
        await bench.checkpoints.check(ends_at(position))
        with pytest.raises(IntegrityError):
            await bench.checkpoints.check(ends_at(type(position)(position.stream, 1, version - 1)))

    asyncio.run(_())


def test_a_short_run_leaves_its_highest_position_noted() -> None:
    """What came since the last note is noted when nothing more comes for long enough, and at the stop."""

    async def noted(bench: Bench, version: int) -> bool:
        position = await bench.store.last_position()
        try:
            await bench.checkpoints.check(ends_at(msgspec.structs.replace(position, sequence=version - 1)))
        except IntegrityError:
            return True
        return False

    async def _() -> None:
        bench = Bench()
        runner = bench.runner(checkpoint_s=10.0)
        version = await bench.append(*active())
        await runner.step()
        assert not await noted(bench, version)
        await bench.clock.advance(10)
        assert await runner.step() == 0
        assert await noted(bench, version)
        version = await bench.append(ev.SessionStopping())
        await runner.step()
        assert not await noted(bench, version)
        runner.stop()
        await runner.run()
        assert await noted(bench, version)

    asyncio.run(_())


def test_a_bucket_that_is_away_stops_nobody() -> None:
    """A checkpoint that can't be written costs a warning, not a batch."""

    async def _() -> None:
        bench = Bench()
        await bench.append(created())
        bench.server.faults.fail_next("kv", StoreUnavailable("injected"), skip=1)
        await bench.runner().step()
        assert (await bench.view()).state is State.CREATED

    asyncio.run(_())


NEVER = 10**9
"""No checkpoint is noted: it is written to the bucket, too."""


def test_what_fails_time_and_again_is_set_aside() -> None:
    """After `attempts` deliveries our own fault holds up nobody; the next event brings in what it left."""

    async def _() -> None:
        bench = Bench()
        aside: list[tuple[int, str]] = []

        async def park(delivery: Delivery, reason: str) -> None:
            aside.append((delivery.attempt, reason))

        await bench.append(created())
        bench.server.faults.fail_next("kv", IntegrityError("injected"), times=DEFAULT_LIMITS.attempts)
        runner = bench.runner(park=park, checkpoint_s=NEVER)
        await bench.drain(runner)
        assert aside == [(DEFAULT_LIMITS.attempts, "IntegrityError: injected")]
        assert (runner.counts.failed, runner.counts.retried) == (1, DEFAULT_LIMITS.attempts - 1)
        assert (await bench.views.load(SID)).view is None
        await bench.append(ev.SessionStarted())
        await bench.drain(runner)
        assert (await bench.view()).events == 2

    asyncio.run(_())


@pytest.mark.parametrize("wrong", [ConfigError("no such bucket"), StoreUnavailable("no leader")])
def test_what_is_wrong_for_all_sets_nothing_aside(wrong: LucidError) -> None:
    """A topology to be mended, or a server that is away, is waited for, however long it takes."""

    async def _() -> None:
        bench = Bench()
        await bench.append(created())
        bench.server.faults.fail_next("kv", wrong, times=3 * DEFAULT_LIMITS.attempts)
        runner = bench.runner(checkpoint_s=NEVER)
        await bench.drain(runner)
        assert (runner.counts.failed, runner.counts.retried) == (0, 3 * DEFAULT_LIMITS.attempts)
        assert (await bench.view()).state is State.CREATED

    asyncio.run(_())


def test_what_can_not_be_set_aside_comes_again() -> None:
    """A pointer that is not stored leaves the message with the consumer."""

    async def _() -> None:
        bench = Bench()
        told: list[str] = []

        async def park(delivery: Delivery, reason: str) -> None:
            told.append(reason)
            raise StoreUnavailable("no responders (injected)")

        await bench.append(created())
        bench.server.faults.fail_next("kv", IntegrityError("injected"), times=DEFAULT_LIMITS.attempts)
        runner = bench.runner(park=park, checkpoint_s=NEVER)
        await bench.drain(runner)
        assert len(told) == 1
        assert runner.counts.failed == 0
        assert (await bench.view()).state is State.CREATED

    asyncio.run(_())
