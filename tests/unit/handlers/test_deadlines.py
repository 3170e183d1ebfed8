import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from lucid_events import codec
from lucid_events.domain import events as ev
from lucid_events.domain.ids import SessionId
from lucid_events.domain.transitions import State
from lucid_events.domain.values import Retention, SessionSettings
from lucid_events.errors import IntegrityError, StoreUnavailable
from lucid_events.handlers.base import Done, Message, Skip
from lucid_events.handlers.deadlines import Deadlines, Timeouts, TimerBody
from lucid_events.handlers.due import DueTimers
from lucid_events.handlers.reconcile import Reconciliation
from lucid_events.handlers.retention import Periods
from lucid_events.handlers.runner import Limits, Runner
from lucid_events.jetstream.definitions import load
from lucid_events.subjects import Subjects
from tests.unit.domain.specification import ready, sealed
from tests.unit.handlers.rig import BEAT_S, SID, Rig, Unreadable

ATTACHED = ev.RecorderAttached(epoch=1, recorder="r", offset=0)
LEFT = ev.RecorderDetached(epoch=1, offset=0)
PAUSED = (ev.SessionPausing(), ev.RecorderDrained(epoch=1, offset=0), ev.SessionPaused(offset=0))
TIMEOUTS = Timeouts(start_s=60, pause_s=60, stop_s=300, lease_s=30)


def due_timers(rig: Rig) -> DueTimers:
    """The reaction over the rig."""
    return DueTimers(
        rig.histories,
        rig.timers,
        rig.capture,
        rig.beats,
        rig.clock,
        rig.subjects,
        TIMEOUTS,
        Periods(rig.timers, rig.clock, Retention(), grace_days=7),
        beat_interval_s=BEAT_S,
    )


def runners(rig: Rig) -> tuple[Runner, Runner]:
    """Deadlines and due timers, as a service runs them."""
    rig.consumer("deadlines")
    rig.consumer("due", rig.subjects.all_due, stream=rig.subjects.timers_stream)
    return (
        rig.runner(Deadlines(rig.timers, TIMEOUTS)),
        rig.runner(due_timers(rig), stream=rig.subjects.timers_stream),
    )


async def live(rig: Rig, seconds: float, *, beats: bool = False) -> tuple[Runner, Runner]:
    """Run both for `seconds` of the clock, with a recorder that beats or one that is silent."""
    pair = runners(rig)
    tasks = [asyncio.ensure_future(runner.run()) for runner in pair]
    for _ in range(int(seconds)):
        await rig.clock.advance(1)
        if beats:
            rig.server.send(rig.subjects.beat(SID, 1), {}, b"{}")
    for runner in pair:
        runner.stop()
    await rig.until(lambda: all(task.done() for task in tasks), step_s=1)
    for task in tasks:
        task.result()
    return pair


@pytest.mark.parametrize(
    ("events", "seconds", "code"),
    [
        ((ev.SessionStarted(),), 60, "start_timeout"),
        ((ev.SessionStarted(), ATTACHED, ev.SessionPausing()), 60, "pause_timeout"),
        ((ev.SessionStarted(), ev.SessionStopping()), 300, "stop_timeout"),
        ((ev.SessionStarted(), ATTACHED, LEFT), 60, "attach_timeout"),
        ((ev.SessionStarted(), ATTACHED, *PAUSED, LEFT, ev.SessionResumed(offset=0)), 60, "attach_timeout"),
    ],
)
def test_a_state_that_lasts_too_long_becomes_error(
    events: tuple[ev.SessionEvent, ...], seconds: int, code: str
) -> None:
    """Nothing before the deadline, `error` with the timeout's code after it."""

    async def scenario(wait_s: float) -> tuple[State | None, str]:
        rig = Rig()
        await rig.append(ev.SessionCreated(settings=SessionSettings()), *events)
        await live(rig, wait_s, beats=True)
        state = await rig.state()
        return state.state, state.error_code

    assert asyncio.run(scenario(seconds - 5))[1] == ""
    assert asyncio.run(scenario(seconds + 15)) == (State.ERROR, code)


def test_a_stop_has_its_time_again_while_chunks_become_ready() -> None:
    """A backlog that shrinks is no failure; one that stands still for a whole timeout is."""

    async def scenario(wait_s: float) -> State | None:
        rig = Rig()
        await rig.append(
            ev.SessionCreated(settings=SessionSettings()),
            ev.SessionStarted(),
            ATTACHED,
            sealed(0, 0, 10),
            sealed(1, 10, 10),
            ev.SessionStopping(),
            ready(0, 0, 10),
        )
        await live(rig, wait_s, beats=True)
        return (await rig.state()).state

    assert asyncio.run(scenario(TIMEOUTS.stop_s + 15)) is State.STOPPING
    assert asyncio.run(scenario(2 * TIMEOUTS.stop_s + 30)) is State.ERROR


def test_a_session_that_moved_on_is_left_alone() -> None:
    """A timer whose wait has ended does nothing."""

    async def scenario() -> None:
        rig = Rig()
        await rig.session_with_recorder()
        _, due = await live(rig, 70, beats=True)
        assert (await rig.state()).state is State.ACTIVE
        assert due.progress.skips["not needed any more"] == 1

    asyncio.run(scenario())


def test_a_silent_recorder_is_lost_after_a_look() -> None:
    """No byte for a lease and no beat for two intervals: the recorder is given up, the session fails."""

    async def scenario() -> None:
        rig = Rig()
        await rig.session_with_recorder()
        await rig.capture.publish(SID, epoch=1, n=0, offset=0, data=b"x", sha256="0" * 64)
        last = rig.clock.now()
        await live(rig, 60)
        lost = [r.event for r in await rig.events(ev.RecorderLost)]
        assert isinstance(lost[0], ev.RecorderLost)
        assert (lost[0].epoch, lost[0].last_seen) == (1, last)
        assert len(lost) == 1
        assert (await rig.state()).error_code == "recorder_lost"

    asyncio.run(scenario())


def test_a_beating_recorder_stays_however_silent_its_source() -> None:
    """A recorder that beats but sends no byte for hours is not lost, and its lease goes on being watched."""

    async def scenario() -> None:
        rig = Rig()
        await rig.session_with_recorder()
        await live(rig, 600, beats=True)
        assert await rig.events(ev.RecorderLost) == []
        assert await rig.timers.armed(SID, "lease")

    asyncio.run(scenario())


def test_bytes_keep_a_lease_without_beats() -> None:
    """A recorder whose bytes arrive is alive, even when none of its beats does."""

    async def scenario() -> None:
        rig = Rig()
        await rig.session_with_recorder()
        pair = runners(rig)
        tasks = [asyncio.ensure_future(runner.run()) for runner in pair]
        for i in range(120):
            await rig.capture.publish(SID, epoch=1, n=0, offset=i, data=b"x", sha256="0" * 64)
            await rig.clock.advance(1)
        assert await rig.events(ev.RecorderLost) == []
        for runner in pair:
            runner.stop()
        await rig.until(lambda: all(task.done() for task in tasks), step_s=1)

    asyncio.run(scenario())


def due_message(
    rig: Rig, body: bytes, *, session: str = SID, name: str = "start", scheduler: str | None = None
) -> Message:
    """A due message as the scheduler would deliver it, or somebody else."""
    return Message(
        subject=f"lucid.due.{session}.{name}",
        headers={"Nats-Scheduler": scheduler or f"lucid.timer.{session}.{name}"},
        data=body,
        sequence=1,
        stored_at=rig.clock.now(),
    )


def test_strays_are_skipped_and_named() -> None:
    """Malformed, forged, foreign and outdated due messages change nothing and are counted by reason."""

    async def scenario() -> None:
        rig = Rig()
        await rig.session_with_recorder()
        due = due_timers(rig)
        start = codec.encode(TimerBody(name="start", armed_at=2))
        cases = [
            (due_message(rig, b"not JSON"), "stray: malformed"),
            (due_message(rig, b'{"name":"dinner","armed_at":1}'), "stray: malformed"),
            (due_message(rig, start, scheduler="somebody"), "stray: not from the scheduler"),
            (due_message(rig, start, name="stop"), "stray: not from the scheduler"),
            (due_message(rig, start, session="nobody"), "stray: no such session"),
            (due_message(rig, start), "not needed any more"),
        ]
        for message, reason in cases:
            assert await due.handle(message) == Skip(reason)
        odd = Message(
            subject="lucid.due.a.b.c", headers={}, data=start, sequence=1, stored_at=rig.clock.now()
        )
        assert await due.handle(odd) == Skip("stray: malformed")
        assert (await rig.state()).state is State.ACTIVE

    asyncio.run(scenario())


def test_a_timer_that_comes_early_is_armed_again() -> None:
    """Whoever delivers a timer before its time only makes us arm it for when it is due."""

    async def scenario() -> None:
        rig = Rig()
        await rig.append(ev.SessionCreated(settings=SessionSettings()), ev.SessionStarted())
        due = due_timers(rig)
        early = due_message(rig, codec.encode(TimerBody(name="start", armed_at=2)))
        assert await due.handle(early) == Skip("early: armed again")
        assert await rig.timers.armed(SID, "start")
        await rig.clock.advance(60)
        outcome = await due.handle(early)
        assert isinstance(outcome, Done)
        assert len(outcome.commands) == 1

    asyncio.run(scenario())


def test_an_older_epochs_timer_watches_the_present_recorder() -> None:
    """A lease timer armed late for an old epoch does not leave the present recorder unwatched."""

    async def scenario() -> None:
        rig = Rig()
        await rig.session_with_recorder()
        await rig.append(
            ev.RecorderLost(epoch=1), ev.RecorderAttached(epoch=2, recorder="r2", offset=0, takeover=True)
        )
        due = due_timers(rig)
        body = codec.encode(TimerBody(name="lease", armed_at=3, epoch=1))
        assert await due.handle(due_message(rig, body, name="lease")) == Done()
        kept = rig.server.timers.last("lucid.timer.s1.lease")
        assert kept is not None
        assert codec.decode(kept.data, TimerBody).epoch == 2

    asyncio.run(scenario())


def test_a_pause_without_a_recorder_may_last() -> None:
    """A recorder may leave a paused session: nobody is given up for a pause, however long."""

    async def scenario() -> State | None:
        rig = Rig()
        await rig.append(
            ev.SessionCreated(settings=SessionSettings()), ev.SessionStarted(), ATTACHED, *PAUSED, LEFT
        )
        await live(rig, 300)
        return (await rig.state()).state

    assert asyncio.run(scenario()) is State.PAUSED


def test_reconciliation_arms_what_is_missing_and_only_that() -> None:
    """After a loss of all timers every open session has its deadlines again; those that stand stay."""

    async def scenario() -> None:
        rig = Rig()
        starting, active, alone = SessionId("a"), SessionId("b"), SessionId("c")
        await rig.append(ev.SessionCreated(settings=SessionSettings()), ev.SessionStarted(), session=starting)
        await rig.session_with_recorder(active)
        await rig.session_with_recorder(alone)
        await rig.append(LEFT, session=alone)
        reconciliation = Reconciliation(rig.histories, rig.timers, rig.clock, TIMEOUTS)

        async def sessions() -> AsyncIterator[SessionId]:
            yield starting
            yield active
            yield alone

        done = await reconciliation.run(sessions())
        assert done.sessions == 3
        assert done.armed == ((starting, "start"), (active, "lease"), (alone, "lease"))
        assert (await reconciliation.run(sessions())).armed == ()

    asyncio.run(scenario())


def test_a_history_that_can_not_be_read_keeps_no_other_from_its_timers() -> None:
    """The sessions behind it are armed, and it is named."""

    async def scenario() -> None:
        rig = Rig()
        broken, behind = SessionId("a"), SessionId("b")
        await rig.session_with_recorder(broken)
        await rig.session_with_recorder(behind)

        async def sessions() -> AsyncIterator[SessionId]:
            yield broken
            yield behind

        histories = Unreadable(rig.histories, broken, IntegrityError("the log was cut back"))
        done = await Reconciliation(histories, rig.timers, rig.clock, TIMEOUTS).run(sessions())
        assert (done.sessions, done.armed, done.unreadable) == (2, ((behind, "lease"),), (broken,))

    asyncio.run(scenario())


def test_a_server_that_does_not_answer_is_told_to_the_caller() -> None:
    """It says nothing about any session, so the reconciliation is to be run again."""

    async def scenario() -> None:
        rig = Rig()
        away = SessionId("a")
        await rig.session_with_recorder(away)

        async def sessions() -> AsyncIterator[SessionId]:
            yield away

        histories = Unreadable(rig.histories, away, StoreUnavailable("no answer"))
        with pytest.raises(StoreUnavailable):
            await Reconciliation(histories, rig.timers, rig.clock, TIMEOUTS).run(sessions())

    asyncio.run(scenario())


def test_arming_does_not_depend_on_when_it_happens() -> None:
    """A deadline counts from the server's time of its event, however late the reaction comes."""

    async def scenario() -> None:
        rig = Rig()
        recorded = await rig.append(ev.SessionCreated(settings=SessionSettings()), ev.SessionStarted())
        await rig.clock.advance(50)
        deadlines = Deadlines(rig.timers, TIMEOUTS)
        assert await deadlines.handle(rig.message(recorded[1])) == Done()
        assert rig.server.timers.due() == recorded[1].stored_at + timedelta(seconds=60)

    asyncio.run(scenario())


def test_replaying_arms_nothing() -> None:
    """A reaction with effects outside does nothing while the past is run through once more."""

    async def scenario() -> None:
        rig = Rig()
        recorded = await rig.append(ev.SessionCreated(settings=SessionSettings()), ev.SessionStarted())
        message = rig.message(recorded[1])
        replayed = Message(
            subject=message.subject,
            headers=message.headers,
            data=message.data,
            sequence=message.sequence,
            stored_at=message.stored_at,
            replaying=True,
        )
        assert await Deadlines(rig.timers, TIMEOUTS).handle(replayed) == Skip("replaying")
        assert not await rig.timers.armed(SID, "start")

    asyncio.run(scenario())


def test_many_lost_recorders_are_looked_at_beside_each_other() -> None:
    """Listening for one silent recorder does not hold up the look at another."""

    async def scenario() -> None:
        rig = Rig()
        ids = [SessionId(f"s{i}") for i in range(20)]
        for session in ids:
            await rig.session_with_recorder(session)
        rig.consumer("deadlines")
        rig.consumer("due", rig.subjects.all_due, stream=rig.subjects.timers_stream)
        pair = (
            rig.runner(Deadlines(rig.timers, TIMEOUTS)),
            rig.runner(due_timers(rig), stream=rig.subjects.timers_stream, limits=Limits(workers=32)),
        )
        tasks = [asyncio.ensure_future(runner.run()) for runner in pair]
        for _ in range(50):
            await rig.clock.advance(1)
        for session in ids:
            assert (await rig.state(session)).state is State.ERROR
        for runner in pair:
            runner.stop()
        await rig.until(lambda: all(task.done() for task in tasks), step_s=1)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("consumer", "kinds"),
    [
        (
            "deadlines",
            (
                ev.SessionStarted,
                ev.SessionPausing,
                ev.SessionResumed,
                ev.SessionStopping,
                ev.RecorderAttached,
            ),
        ),
        (
            "retention",
            (ev.SessionStopped, ev.SessionFailed, ev.SessionReleased, ev.SessionCleanupProposed),
        ),
    ],
)
def test_a_consumer_brings_every_event_that_begins_a_wait(
    consumer: str, kinds: tuple[type[ev.SessionEvent], ...]
) -> None:
    """What the reaction is there for, and nothing else: an event left out would arm no timer."""
    subjects = Subjects()
    (found,) = [one for one in load(subjects) if one.name == consumer]
    assert set(found.config["filter_subjects"]) == {subjects.events_of_type(kind.type) for kind in kinds}
