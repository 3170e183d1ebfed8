"""The time of ended sessions, kept: proposals, what withdraws them, and the cleanup at their end."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta

import pytest

from lucid_events.domain import commands as cmd
from lucid_events.domain import events as ev
from lucid_events.domain.ids import Digest, SessionId, command_id
from lucid_events.domain.transitions import State
from lucid_events.domain.values import Retention
from lucid_events.errors import IntegrityError, StoreUnavailable
from lucid_events.handlers.due import DueTimers
from lucid_events.handlers.eraser import Eraser
from lucid_events.handlers.requests import Request
from lucid_events.handlers.retention import TIMER, Periods, RetentionTimes, arm_missing
from tests.unit.handlers.rig import SID, Rig, Unreadable
from tests.unit.handlers.test_deadlines import TIMEOUTS

DATA = b"bytes " * 50
DAY_S = 86_400
PAYLOAD_S, GRACE_S = 30, 10
SHORT = Retention(payload_days=PAYLOAD_S / DAY_S, metadata_days=1)


async def ended(rig: Rig, session: SessionId = SID) -> datetime:
    """A session that failed with a sealed chunk; returns when."""
    await rig.session_with_recorder(session)
    await rig.seal(DATA, session=session)
    await rig.append(ev.RecorderLost(epoch=1), ev.SessionFailed(code="x"), session=session)
    return rig.clock.now()


@asynccontextmanager
async def working(rig: Rig, default: Retention = SHORT) -> AsyncIterator[None]:
    """Everything that keeps time and erases, at work for the time of the context."""
    names = ("session.stopped", "session.failed", "session.released", "session.cleanup_proposed")
    rig.consumer("retention", *(rig.subjects.events_of_type(name) for name in names))
    rig.consumer("due", rig.subjects.all_due, stream=rig.subjects.timers_stream)
    rig.consumer("eraser", rig.subjects.events_of_type("session.cleanup_started"))
    periods = Periods(rig.timers, rig.clock, default, grace_days=GRACE_S / DAY_S)
    due = DueTimers(
        rig.histories, rig.timers, rig.capture, rig.beats, rig.clock, rig.subjects, TIMEOUTS, periods
    )
    eraser = Eraser(rig.histories, rig.store, rig.capture, rig.blobs, rig.clock)
    runners = [
        rig.runner(RetentionTimes(rig.histories, rig.timers, default)),
        rig.runner(due, stream=rig.subjects.timers_stream),
        rig.runner(eraser),
    ]
    tasks = [asyncio.ensure_future(runner.run()) for runner in runners]
    yield
    for runner in runners:
        runner.stop()
    await rig.until(lambda: all(task.done() for task in tasks), step_s=1)
    for task in tasks:
        task.result()


async def ask(rig: Rig, command: cmd.SessionCommand, id: str) -> None:
    """Ask as a client does."""
    request = Request(
        session=SID,
        id=command_id(id),
        command=command,
        issued_at=rig.clock.now(),
        actor="test",
        correlation=id,
        traceparent="",
    )
    await rig.commands.handle(request)


@pytest.mark.parametrize("faulty", [False, True])
def test_an_ended_session_is_proposed_then_erased(faulty: bool) -> None:
    """Its bytes stay their time and the grace, to the second; then nothing but its history is left.

    Timers that can't be armed at first and replies that are lost on the way change nothing of it.
    """

    async def scenario() -> None:
        rig = Rig()
        at = await ended(rig)
        if faulty:
            rig.faults.fail_next("timer", StoreUnavailable("gone"))
            rig.faults.fail_next("timer", StoreUnavailable("gone"), skip=1)
            rig.faults.lose_reply("append")
            rig.faults.lose_reply("append", skip=1)
            rig.faults.lose_reply("ack", stored=False)
        async with working(rig):
            await rig.clock.advance(PAYLOAD_S - 2)
            assert await rig.events(ev.SessionCleanupProposed) == []
            await rig.clock.advance(4)
            (proposed,) = await rig.events(ev.SessionCleanupProposed)
            assert isinstance(proposed.event, ev.SessionCleanupProposed)
            assert proposed.time >= at + timedelta(seconds=PAYLOAD_S)
            assert (proposed.event.ended_at, proposed.event.source) == (at, "service")
            await rig.clock.advance(GRACE_S - 4)
            assert (await rig.state()).state is State.ERROR
            await rig.clock.advance(8)
        state = await rig.state()
        assert state.state is State.DESTROYED
        assert state.erasure is not None
        assert state.erasure.proposal is not None
        assert state.erasure.proposal.version == int(proposed.sequence)
        assert state.erasure.started_at >= proposed.event.due
        assert rig.captured() == 0

    asyncio.run(scenario())


@pytest.mark.parametrize("held_s", [0, 10 * (PAYLOAD_S + GRACE_S)])
def test_a_hold_withdraws_and_a_release_proposes_anew(held_s: int) -> None:
    """While it is held nothing happens, however long; after the release the whole grace begins again.

    Held for a moment, too: the second proposal must not be taken for the first one sent again.
    """

    async def scenario() -> None:
        rig = Rig()
        await ended(rig)
        async with working(rig):
            await rig.clock.advance(PAYLOAD_S + 2)
            assert len(await rig.events(ev.SessionCleanupProposed)) == 1
            await ask(rig, cmd.Hold(hold="case"), "h1")
            await rig.clock.advance(held_s)
            assert (await rig.state()).state is State.ERROR
            await ask(rig, cmd.Release(hold="case"), "r1")
            await rig.clock.advance(GRACE_S - 2)
            assert (await rig.state()).state is State.ERROR
            assert len(await rig.events(ev.SessionCleanupProposed)) == 2
            await rig.clock.advance(6)
        assert (await rig.state()).state is State.DESTROYED

    asyncio.run(scenario())


def test_a_reminder_that_comes_early_or_for_nothing_changes_nothing() -> None:
    """Whoever could publish one makes us look, and look again when it is time."""

    async def scenario() -> None:
        rig = Rig()
        await ended(rig)
        async with working(rig):
            await rig.timers.arm(SID, TIMER, at=rig.clock.now(), payload=b'{"name":"retention","armed_at":1}')
            await rig.timers.arm(
                SessionId("nobody"), TIMER, at=rig.clock.now(), payload=b'{"name":"retention","armed_at":1}'
            )
            await rig.clock.advance(PAYLOAD_S - 2)
            assert (await rig.events(ev.SessionCleanupProposed)) == []
            await rig.clock.advance(PAYLOAD_S)
            assert len(await rig.events(ev.SessionCleanupProposed)) == 1

    asyncio.run(scenario())


def test_a_damaged_history_is_not_erased_by_itself() -> None:
    """What may be evidence of damage is left to a person."""

    async def scenario() -> None:
        rig = Rig()
        await rig.session_with_recorder()
        await rig.seal(DATA)
        history = await rig.histories.refresh(SID)
        failed = (
            rig.new(SID, ev.RecorderLost(epoch=1), "c1"),
            rig.new(SID, ev.SessionFailed(code="x"), "c1", 1),
        )
        await rig.store.append(SID, failed, expected=history.version, head=Digest("0" * 64))
        assert (await rig.histories.refresh(SID)).damage
        async with working(rig):
            await rig.clock.advance(3 * (PAYLOAD_S + GRACE_S))
            assert (await rig.state()).state is State.ERROR
            assert await rig.events(ev.SessionCleanupProposed) == []

    asyncio.run(scenario())


def test_what_is_missing_is_armed() -> None:
    """A timer that got lost is armed from the history, one that stands is left, and no other is made."""

    async def scenario() -> None:
        rig = Rig()
        late, armed, held = SessionId("late"), SessionId("armed"), SessionId("held")
        for session in (late, armed, held):
            await ended(rig, session)
        await rig.append(ev.SessionHeld(hold="h"), session=held)
        await rig.timers.arm(armed, TIMER, at=rig.clock.now() + timedelta(days=9), payload=b"{}")

        async def sessions() -> AsyncIterator[SessionId]:
            for session in (late, armed, held, late):
                yield session

        assert await arm_missing(sessions(), rig.histories, rig.timers, SHORT) == 1
        assert [await rig.timers.armed(s, TIMER) for s in (late, armed, held)] == [True, True, False]

    asyncio.run(scenario())


def test_a_history_that_can_not_be_read_keeps_no_other_from_its_timer() -> None:
    """The session behind it is armed; a server that does not answer is the caller's to wait for."""

    async def scenario() -> None:
        rig = Rig()
        broken, behind = SessionId("broken"), SessionId("behind")
        await ended(rig, broken)
        await ended(rig, behind)

        async def sessions() -> AsyncIterator[SessionId]:
            yield broken
            yield behind

        damaged = Unreadable(rig.histories, broken, IntegrityError("the log was cut back"))
        assert await arm_missing(sessions(), damaged, rig.timers, SHORT) == 1
        assert await rig.timers.armed(behind, TIMER)
        away = Unreadable(rig.histories, broken, StoreUnavailable("no answer"))
        with pytest.raises(StoreUnavailable):
            await arm_missing(sessions(), away, rig.timers, SHORT)

    asyncio.run(scenario())
