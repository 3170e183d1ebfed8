"""The promises of `Timers`."""

import asyncio
from datetime import UTC, datetime, timedelta

from lucid_events.ports import Delivery, Inbox
from tests.contract.bundle import OTHER, PATIENCE_S, SID, Ports, Run, eventually


def soon(seconds: float = 0.0) -> datetime:
    """Return an instant `seconds` from now."""
    return datetime.now(UTC) + timedelta(seconds=seconds)


async def due(ports: Ports) -> Inbox:
    """Bind to a consumer of due timers."""
    subjects = ports.subjects
    return await ports.add_consumer("due", [subjects.all_due], stream=subjects.timers_stream)


async def next_due(inbox: Inbox) -> Delivery:
    """Return the next due message, acknowledged."""
    async with asyncio.timeout(PATIENCE_S):
        while not (found := await inbox.fetch(1, wait_s=1.0)):
            pass
    await found[0].ack()
    return found[0]


def test_a_timer_is_delivered_when_it_is_due(run: Run) -> None:
    """A timer delivers its payload on its due subject, not before its time."""

    @run
    async def _(ports: Ports) -> None:
        inbox = await due(ports)
        at = soon(1.0)
        await ports.timers.arm(SID, "stop", at=at, payload=b'{"armed_at":7}')
        found = await next_due(inbox)
        assert ports.subjects.parse_due(found.subject) == (SID, "stop")
        assert found.data == b'{"armed_at":7}'
        assert found.stored_at >= at - timedelta(milliseconds=100)  # clocks of client and server are one


def test_a_past_due_timer_is_delivered_at_once(run: Run) -> None:
    """A timer armed for an instant that has passed is delivered now."""

    @run
    async def _(ports: Ports) -> None:
        inbox = await due(ports)
        await ports.timers.arm(SID, "stop", at=soon(-3600), payload=b"late")
        assert (await next_due(inbox)).data == b"late"


def test_arming_again_replaces(run: Run) -> None:
    """Of two timers under one name only the later armed one is delivered."""

    @run
    async def _(ports: Ports) -> None:
        inbox = await due(ports)
        await ports.timers.arm(SID, "stop", at=soon(1.0), payload=b"first")
        await ports.timers.arm(SID, "stop", at=soon(3600), payload=b"second")
        await ports.timers.arm(OTHER, "watch", at=soon(2.0), payload=b"watch")
        assert (await next_due(inbox)).data == b"watch"
        await ports.timers.arm(SID, "stop", at=soon(), payload=b"third")
        assert (await next_due(inbox)).data == b"third"


def test_names_and_sessions_do_not_collide(run: Run) -> None:
    """Timers of other names or sessions stand beside each other, each due in its own time."""

    @run
    async def _(ports: Ports) -> None:
        inbox = await due(ports)
        await ports.timers.arm(SID, "a", at=soon(2.0), payload=b"3")
        await ports.timers.arm(SID, "b", at=soon(-1), payload=b"1")
        await ports.timers.arm(OTHER, "a", at=soon(1.0), payload=b"2")
        assert [(await next_due(inbox)).data for _ in range(3)] == [b"1", b"2", b"3"]


def test_a_cancelled_timer_is_forgotten(run: Run) -> None:
    """A cancelled timer is not delivered; cancelling what is not armed is harmless."""

    @run
    async def _(ports: Ports) -> None:
        inbox = await due(ports)
        await ports.timers.cancel(SID, "stop")
        await ports.timers.arm(SID, "stop", at=soon(1.0), payload=b"cancelled")
        await ports.timers.cancel(SID, "stop")
        await ports.timers.cancel(SID, "stop")
        assert await ports.timers.armed(SID, "stop") is False
        await ports.timers.arm(SID, "watch", at=soon(2.0), payload=b"watch")
        assert (await next_due(inbox)).data == b"watch"


def test_armed_until_delivered(run: Run) -> None:
    """A timer is armed from when `arm` returns until it is delivered, and can be armed anew then."""

    @run
    async def _(ports: Ports) -> None:
        inbox = await due(ports)
        assert await ports.timers.armed(SID, "stop") is False
        await ports.timers.arm(SID, "stop", at=soon(3600), payload=b"a")
        assert await ports.timers.armed(SID, "stop") is True
        assert await ports.timers.armed(SID, "other") is False
        assert await ports.timers.armed(OTHER, "stop") is False
        await ports.timers.arm(SID, "stop", at=soon(), payload=b"b")
        assert (await next_due(inbox)).data == b"b"

        async def delivered() -> bool:
            return not await ports.timers.armed(SID, "stop")

        await eventually(delivered)
        await ports.timers.arm(SID, "stop", at=soon(), payload=b"c")
        assert (await next_due(inbox)).data == b"c"
