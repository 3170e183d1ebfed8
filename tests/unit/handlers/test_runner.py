import asyncio
import logging

import pytest

from lucid_events.domain import events as ev
from lucid_events.domain.ids import SessionId
from lucid_events.errors import StoreUnavailable
from lucid_events.handlers.base import Done, EventReaction, Outcome, Retry, Skip
from lucid_events.handlers.runner import Limits
from tests.unit.handlers.rig import SID, Rig, Scripted, conflict

OTHER = SessionId("s2")


async def marks(rig: Rig, count: int, session: SessionId = SID) -> list[int]:
    """Append a session with `count` marks; returns the sequences of all its events."""
    await rig.append(ev.SessionCreated(settings=(await rig.state()).settings), session=session)
    for i in range(count):
        await rig.append(ev.SessionMarked(label=str(i), offset=0), session=session)
    return [r.sequence async for r in rig.store.read(session)]


def test_every_message_is_handled_once_and_acknowledged() -> None:
    """Without trouble each message is handled exactly once and nothing is left in flight."""

    async def scenario() -> None:
        rig = Rig()
        rig.consumer("r")
        sequences = await marks(rig, 20)
        reaction = Scripted("r", [], Done())
        runner = rig.runner(reaction)
        await rig.run_until(runner, lambda: runner.progress.processed == len(sequences))
        assert reaction.done == sequences
        lag = await runner.lag()
        assert (lag.events_behind, lag.seconds_behind, lag.seconds_since_progress) == (0, 0, 0)
        figures = runner.progress.figures()
        assert (figures.processed, figures.failed, figures.parked, figures.in_flight) == (21, 0, 0, 0)
        assert figures.mean_ms > 0
        assert figures.p95_ms > 0

    asyncio.run(scenario())


def test_order_within_a_session_survives_retries() -> None:
    """While a message waits to be tried again, later ones of its session wait behind it; others don't."""

    async def scenario() -> None:
        rig = Rig()
        rig.consumer("r")
        sequences = await marks(rig, 3)
        others = await marks(rig, 2, OTHER)
        reaction = Scripted("r", [StoreUnavailable("gone"), conflict(), Retry("later")], Done())
        runner = rig.runner(reaction, limits=Limits(workers=3))
        await rig.run_until(runner, lambda: runner.progress.processed == 7, step_s=1)
        assert [s for s in reaction.done if s in sequences] == sequences
        assert [s for s in reaction.done if s in others] == others
        assert runner.progress.failed == 0
        assert runner.progress.retried == 3

    asyncio.run(scenario())


def test_sessions_are_served_in_turns() -> None:
    """A session with one message does not wait for all of another's hundred."""

    async def scenario() -> None:
        rig = Rig()
        rig.consumer("r")
        await marks(rig, 40)
        quiet = await marks(rig, 0, OTHER)
        reaction = Scripted("r", [], Done())
        runner = rig.runner(reaction, limits=Limits(workers=1, buffer=64))
        await rig.run_until(runner, lambda: runner.progress.processed == 42)
        assert reaction.done.index(quiet[0]) < 3

    asyncio.run(scenario())


def test_work_is_bounded_in_number_and_bytes() -> None:
    """No more than `workers` messages, and no more than the budget's bytes, are in work at once."""

    async def scenario(budget: int, expected: int) -> None:
        rig = Rig()
        rig.consumer("r")
        await marks(rig, 9)
        reaction = Scripted("r", [], Done(), ordered=False, cost=100)
        reaction.gate = asyncio.Event()
        runner = rig.runner(reaction, limits=Limits(workers=4), budget=budget)
        running = asyncio.ensure_future(runner.run())
        await rig.until(lambda: reaction.at_work == expected)
        await rig.clock.advance(1)
        assert reaction.most_at_work == expected
        reaction.gate.set()
        await rig.until(lambda: runner.progress.processed == 10)
        runner.stop()
        await running
        assert reaction.most_at_work == expected

    asyncio.run(scenario(1000, 4))
    asyncio.run(scenario(250, 2))
    asyncio.run(scenario(50, 1))  # larger than the budget: served alone, not never


def test_no_more_than_the_buffer_is_held() -> None:
    """Messages beyond `buffer` stay with the server."""

    async def scenario() -> None:
        rig = Rig()
        rig.consumer("r")
        await marks(rig, 30)
        reaction = Scripted("r", [], Done())
        reaction.gate = asyncio.Event()
        runner = rig.runner(reaction, limits=Limits(buffer=5))
        running = asyncio.ensure_future(runner.run())
        await rig.until(lambda: reaction.at_work == 1)
        await rig.clock.advance(1)
        assert rig.server.consumer("r").lag().in_flight == 5
        reaction.gate.set()
        await rig.until(lambda: runner.progress.processed == 31)
        runner.stop()
        await running

    asyncio.run(scenario())


def test_long_work_keeps_its_message() -> None:
    """Work that takes many ack waits, and what waits behind it, is delivered once."""

    async def scenario() -> None:
        rig = Rig()
        rig.consumer("r", ack_wait_s=30)
        await marks(rig, 2)
        reaction = Scripted("r", [], Done())
        reaction.gate = asyncio.Event()
        runner = rig.runner(reaction)
        running = asyncio.ensure_future(runner.run())
        await rig.until(lambda: reaction.at_work == 1)
        await rig.clock.advance(300)
        assert rig.server.consumer("r").lag().redelivered == 0
        reaction.gate.set()
        await rig.until(lambda: runner.progress.processed == 3)
        runner.stop()
        await running
        assert len(reaction.seen) == 3

    asyncio.run(scenario())


class _Echo(EventReaction):
    name = "echo"

    async def react(self, recorded: object) -> Outcome:
        return Done()


def test_what_is_not_an_event_is_skipped_and_counted() -> None:
    """A message without our headers on a history is acknowledged, counted, and stops nobody."""

    async def scenario() -> None:
        rig = Rig()
        rig.consumer("echo")
        await marks(rig, 1)
        rig.server.publish(f"lucid.evt.{SID}.session.forged", b'{"stream":"X","seq":1}')
        future = {"ce-type": "session.dreamt.v9", "ce-id": "x"}
        kept = rig.server.stream(rig.subjects.events_stream).get(1)
        assert kept is not None
        rig.server.publish(
            f"lucid.evt.{SID}.session.dreamt", b"{}", {**kept.headers, **future, "Nats-Msg-Id": "x"}
        )
        runner = rig.runner(_Echo())
        await rig.run_until(runner, lambda: runner.progress.processed == 2 and runner.progress.parked == 1)
        assert runner.progress.figures().skips == {"not an event": 1}

    asyncio.run(scenario())


def test_a_stop_finishes_what_is_in_hand_and_returns_the_rest() -> None:
    """A stopped runner acknowledges what is in work and gives the waiting messages back at once."""

    async def scenario() -> None:
        rig = Rig()
        rig.consumer("r")
        sequences = await marks(rig, 5)
        reaction = Scripted("r", [], Done())
        reaction.gate = asyncio.Event()
        runner = rig.runner(reaction)
        running = asyncio.ensure_future(runner.run())
        await rig.until(lambda: reaction.at_work == 1)
        runner.stop()
        await rig.clock.advance(0)
        assert not running.done()
        reaction.gate.set()
        await rig.until(running.done)
        running.result()
        assert reaction.done == sequences[:1]
        heir = Scripted("r", [], Done())
        second = rig.runner(heir)
        await rig.run_until(second, lambda: second.progress.processed == 5, step_s=0.2)
        assert sorted(heir.done) == sequences[1:]
        assert (rig.clock.now() - rig.clock.now().replace(minute=0, second=0, microsecond=0)).seconds < 20

    asyncio.run(scenario())


def test_a_stop_does_not_wait_for_ever() -> None:
    """Work that does not end within `shutdown_s` is left to the next process."""

    async def scenario() -> None:
        rig = Rig()
        rig.consumer("r")
        await marks(rig, 0)
        reaction = Scripted("r", [], Done())
        reaction.gate = asyncio.Event()
        runner = rig.runner(reaction, limits=Limits(shutdown_s=0.01))
        running = asyncio.ensure_future(runner.run())
        await rig.until(lambda: reaction.at_work == 1)
        runner.stop()
        await rig.until(running.done)
        running.result()
        assert rig.server.consumer("r").lag().in_flight == 1

    asyncio.run(scenario())


def test_a_redelivery_of_what_is_in_hand_is_not_handled_beside_it() -> None:
    """A message delivered again while it is in work is handled once; the newest delivery is answered."""

    async def scenario() -> None:
        rig = Rig()
        rig.consumer("r")
        rig.faults.duplicate_next("r")
        await marks(rig, 1)
        reaction = Scripted("r", [], Done(), ordered=False)
        reaction.gate = asyncio.Event()
        runner = rig.runner(reaction)
        running = asyncio.ensure_future(runner.run())
        await rig.until(lambda: reaction.at_work == 2)
        await rig.clock.advance(1)
        reaction.gate.set()
        await rig.until(lambda: runner.progress.processed == 2)
        runner.stop()
        await running
        assert len(reaction.seen) == 2
        assert rig.server.consumer("r").lag().in_flight == 0

    asyncio.run(scenario())


def test_a_server_that_cannot_be_asked_is_asked_again() -> None:
    """Failing fetches are repeated with growing pauses; nothing is lost meanwhile."""

    async def scenario() -> None:
        rig = Rig()
        rig.consumer("r")
        await marks(rig, 2)
        rig.faults.fail_next("fetch", times=6)
        runner = rig.runner(Scripted("r", [], Done()))
        await rig.run_until(runner, lambda: runner.progress.processed == 3, step_s=1)

    asyncio.run(scenario())


def test_the_three_numbers_of_lag() -> None:
    """A consumer that does not move says how many events, how old, and for how long."""

    async def scenario() -> None:
        rig = Rig()
        rig.consumer("r")
        await marks(rig, 0)
        reaction = Scripted("r", [], Done())
        runner = rig.runner(reaction)
        await rig.run_until(runner, lambda: runner.progress.processed == 1)
        await rig.clock.advance(10)
        assert (await runner.lag()).seconds_since_progress == 0
        await rig.append(ev.SessionMarked(label="x", offset=0), ev.SessionMarked(label="y", offset=0))
        await rig.clock.advance(60)
        lag = await runner.lag()
        assert (lag.events_behind, lag.seconds_since_progress) == (2, 60)
        assert lag.seconds_behind == 70

    asyncio.run(scenario())


def test_one_line_per_message(caplog: pytest.LogCaptureFixture) -> None:
    """Each message leaves one line with subject, sequence, attempt, outcome and time.

    What nothing came of is told only to who asks for detail: it looks like trouble and is none.
    """

    async def scenario() -> None:
        rig = Rig()
        rig.consumer("r")
        await marks(rig, 1)
        runner = rig.runner(Scripted("r", [Skip("no concern")], Done()))
        await rig.run_until(runner, lambda: runner.progress.processed == 1)

    with caplog.at_level(logging.DEBUG, "lucid_events.handlers.runner"):
        asyncio.run(scenario())
    lines = [record.__dict__ for record in caplog.records if record.message == "handled"]
    assert [(line["sequence"], line["attempt"], line["outcome"], line["levelname"]) for line in lines] == [
        (1, 1, "skip", "DEBUG"),
        (2, 1, "done", "INFO"),
    ]
    assert lines[0]["subject"] == "lucid.evt.s1.session.created"
    assert lines[0]["reason"] == "no concern"
    assert lines[0]["elapsed_ms"] >= 0
