"""The promises of `Inbox` and `Delivery`."""

import asyncio

import pytest

from lucid_events.domain.envelope import Recorded
from lucid_events.domain.events import SessionStarted
from lucid_events.errors import ConfigError
from lucid_events.ports import Delivery, Inbox
from tests.contract.bundle import OTHER, PATIENCE_S, SID, Ports, Run, events, eventually

SHORT_WAIT_S = 0.5
"""An ack wait that passes within a test."""


async def take(inbox: Inbox, count: int) -> list[Delivery]:
    """Fetch until `count` messages have come."""
    found: list[Delivery] = []
    async with asyncio.timeout(PATIENCE_S):
        while len(found) < count:
            found += await inbox.fetch(count - len(found), wait_s=1.0)
    return found


async def nothing_left(inbox: Inbox) -> None:
    """Check by the server's count that nothing is to be delivered, in flight or again."""
    lag = await inbox.lag()
    assert (lag.pending, lag.in_flight) == (0, 0)
    assert list(await inbox.fetch(1, wait_s=0.05)) == []


def test_a_message_is_delivered_with_its_place(run: Run) -> None:
    """A delivery carries subject, headers, body, sequence and time of the stored message."""

    @run
    async def _(ports: Ports) -> None:
        inbox = await ports.add_consumer("c", [ports.subjects.all_events])
        appended = await ports.append(events("c1", "a", "b"))
        (one,) = await take(inbox, 1)
        first = (await ports.timed_history())[0]
        assert isinstance(first, Recorded)
        assert first.id == appended.recorded[0].id
        assert one.subject == ports.subjects.event(SID, "session.marked.v1")
        assert (one.headers["ce-id"], one.headers["ce-type"]) == (first.id, "session.marked.v1")
        assert one.data == b'{"label":"a","offset":0}'
        assert (one.sequence, one.stored_at, one.attempt, one.pending) == (1, first.stored_at, 1, 1)
        await one.ack()


def test_filters_choose_and_keep_the_order(run: Run) -> None:
    """A consumer gets what fits one of its filters, in log order, also what was there before it."""

    @run
    async def _(ports: Ports) -> None:
        await ports.append(events("c1", "a", SessionStarted()))
        subjects = ports.subjects
        # Filters that share a subject are counted twice by the server's `pending`: ours never do.
        filters = [
            subjects.events_of_type("session.started"),
            subjects.events_of_type("session.marked", OTHER),
        ]
        inbox = await ports.add_consumer("c", filters)
        await ports.append(events("c1", "x", SessionStarted(), session=OTHER))
        found = await take(inbox, 3)
        assert [(d.sequence, d.pending) for d in found] == [(2, 2), (3, 1), (4, 0)]
        await asyncio.gather(*(d.ack() for d in found))
        await nothing_left(inbox)


def test_a_fetch_waits_for_the_first_message(run: Run) -> None:
    """A fetch on an empty consumer returns as soon as a message is stored, not when its wait ends."""

    @run
    async def _(ports: Ports) -> None:
        inbox = await ports.add_consumer("c", [ports.subjects.all_events])
        async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as tasks:
            fetching = tasks.create_task(inbox.fetch(10, wait_s=10 * PATIENCE_S))
            await ports.append(events("c1", "a"))
        (one,) = fetching.result()
        await one.ack()


def test_a_fetch_returns_empty_after_its_wait(run: Run) -> None:
    """A fetch with nothing to deliver returns no messages when its wait has passed."""

    @run
    async def _(ports: Ports) -> None:
        inbox = await ports.add_consumer("c", [ports.subjects.all_events])
        async with asyncio.timeout(PATIENCE_S):
            assert list(await inbox.fetch(10, wait_s=0.05)) == []


def test_a_fetch_is_bounded(run: Run) -> None:
    """A fetch returns at most `limit` messages and leaves the others to the next one."""

    @run
    async def _(ports: Ports) -> None:
        inbox = await ports.add_consumer("c", [ports.subjects.all_events])
        await ports.append(events("c1", *"abcde"))
        first = await take(inbox, 2)
        rest = await take(inbox, 3)
        assert [d.sequence for d in first + rest] == [1, 2, 3, 4, 5]
        await asyncio.gather(*(d.ack() for d in first + rest))


def test_bound_inboxes_share_the_messages(run: Run) -> None:
    """Two inboxes bound to one consumer never hold the same message at a time."""

    @run
    async def _(ports: Ports) -> None:
        one = await ports.add_consumer("c", [ports.subjects.all_events])
        two = await ports.bind("c")
        await ports.append(events("c1", *"abcdef"))
        first, second = await take(one, 3), await take(two, 3)
        assert sorted(d.sequence for d in first + second) == [1, 2, 3, 4, 5, 6]
        await asyncio.gather(*(d.ack() for d in first + second))
        await nothing_left(one)


def test_an_acknowledged_message_does_not_come_again(run: Run) -> None:
    """After an ack the message is gone for the consumer, although its ack wait passes."""

    @run
    async def _(ports: Ports) -> None:
        inbox = await ports.add_consumer("c", [ports.subjects.all_events], ack_wait_s=SHORT_WAIT_S)
        await ports.append(events("c1", "a"))
        (one,) = await take(inbox, 1)
        await one.ack()
        await nothing_left(inbox)
        assert list(await inbox.fetch(1, wait_s=2 * SHORT_WAIT_S)) == []


def test_an_unanswered_message_comes_again(run: Run) -> None:
    """A message nobody answers is delivered again after the ack wait, with a higher attempt."""

    @run
    async def _(ports: Ports) -> None:
        inbox = await ports.add_consumer("c", [ports.subjects.all_events], ack_wait_s=SHORT_WAIT_S)
        await ports.append(events("c1", "a"))
        (first,) = await take(inbox, 1)
        (second,) = await take(inbox, 1)
        assert (first.attempt, second.attempt) == (1, 2)
        assert (first.sequence, first.data) == (second.sequence, second.data)
        await second.ack()
        await nothing_left(inbox)


def test_retry_delivers_again_after_its_delay(run: Run) -> None:
    """A retried message comes again after the delay, long before the ack wait; others don't wait for it."""

    @run
    async def _(ports: Ports) -> None:
        inbox = await ports.add_consumer("c", [ports.subjects.all_events], ack_wait_s=10 * PATIENCE_S)
        await ports.append(events("c1", "a", "b"))
        (first,) = await take(inbox, 1)
        loop = asyncio.get_running_loop()
        before = loop.time()
        await first.retry(1.0)
        found = await take(inbox, 2)
        assert [(d.sequence, d.attempt) for d in found] == [(2, 1), (1, 2)]
        assert loop.time() - before >= 0.9  # the server rounds
        await asyncio.gather(*(d.ack() for d in found))
        await nothing_left(inbox)


def test_a_terminated_message_does_not_come_again(run: Run) -> None:
    """After terminate the message is never delivered again, and those behind it are."""

    @run
    async def _(ports: Ports) -> None:
        inbox = await ports.add_consumer("c", [ports.subjects.all_events], ack_wait_s=SHORT_WAIT_S)
        await ports.append(events("c1", "a", "b"))
        (first,) = await take(inbox, 1)
        await first.terminate("poison: can't be decoded")
        (second,) = await take(inbox, 1)
        assert second.sequence == 2
        await second.ack()

        async def answered() -> bool:
            return (await inbox.lag()).in_flight == 0

        await eventually(answered)
        assert list(await inbox.fetch(1, wait_s=2 * SHORT_WAIT_S)) == []


def test_working_extends_the_ack_wait(run: Run) -> None:
    """A message its holder keeps working on is not delivered to anybody else meanwhile."""

    @run
    async def _(ports: Ports) -> None:
        inbox = await ports.add_consumer("c", [ports.subjects.all_events], ack_wait_s=2.0)
        await ports.append(events("c1", "a"))
        (held,) = await take(inbox, 1)
        for _ in range(4):
            await held.working()
            assert list(await inbox.fetch(1, wait_s=0.75)) == []
        await held.ack()
        await nothing_left(inbox)


def test_messages_in_flight_are_bounded(run: Run) -> None:
    """Beyond `max_ack_pending` nothing new is delivered until an answer makes room."""

    @run
    async def _(ports: Ports) -> None:
        inbox = await ports.add_consumer("c", [ports.subjects.all_events], max_ack_pending=2)
        await ports.append(events("c1", "a", "b", "c"))
        held = await take(inbox, 2)
        loop = asyncio.get_running_loop()
        before = loop.time()
        assert list(await inbox.fetch(1, wait_s=0.1)) == []
        assert loop.time() - before < 2.0  # room to spare: the wait is a tenth of a second
        await held[0].ack()
        (third,) = await take(inbox, 1)
        assert third.sequence == 3


def test_lag_says_where_the_consumer_stands(run: Run) -> None:
    """The lag counts what is to be delivered, what is in flight, and what came again."""

    @run
    async def _(ports: Ports) -> None:
        inbox = await ports.add_consumer("c", [ports.subjects.all_events])
        await ports.append(events("c1", *"abcde"))
        found = await take(inbox, 3)
        lag = await inbox.lag()
        assert (lag.name, lag.pending, lag.in_flight, lag.redelivered) == ("c", 2, 3, 0)
        assert (lag.ack_floor, lag.delivered) == (0, 3)
        await found[0].ack()
        await found[1].ack()
        await found[2].retry(0.01)
        again = await take(inbox, 3)
        lag = await inbox.lag()
        assert sorted((d.sequence, d.attempt) for d in again) == [(3, 2), (4, 1), (5, 1)]
        assert (lag.pending, lag.in_flight, lag.redelivered, lag.ack_floor) == (0, 3, 1, 2)


def test_a_work_queue_is_emptied(run: Run) -> None:
    """An acknowledged durable command leaves its stream; an unanswered one stays."""

    @run
    async def _(ports: Ports) -> None:
        subjects = ports.subjects
        stream = subjects.commands_stream
        inbox = await ports.add_consumer("q", [f"{subjects.prefix}.cmdq.>"], stream=stream)
        for verb in ("start", "stop"):
            await ports.bus.enqueue(subjects.queued_command(SID, verb), b"{}", headers={"ce-id": verb})
        first, _ = await take(inbox, 2)
        assert subjects.parse_command(first.subject) == (SID, "start")
        assert first.headers["ce-id"] == "start"
        await first.ack()

        async def left() -> bool:
            return await ports.sequences(stream, ">") == [2]

        await eventually(left)  # replicas drop it after the acknowledgement is taken


def test_binding_to_no_consumer_is_an_error(run: Run) -> None:
    """An inbox on a consumer that does not exist is a configuration error that names it."""

    @run
    async def _(ports: Ports) -> None:
        with pytest.raises(ConfigError, match="nobody"):
            await (await ports.bind("nobody")).fetch(1, wait_s=0.1)
