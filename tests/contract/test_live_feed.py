"""The promises of `LiveFeed`."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from lucid_events.domain.events import SessionStarted
from lucid_events.errors import VersionConflict
from lucid_events.ports import LiveMessage
from tests.contract.bundle import OTHER, PATIENCE_S, SID, Ports, Run, events

NOTHING_S = 0.02
"""How long is waited for a message that does not come."""


async def hear(feed: AsyncIterator[LiveMessage], count: int) -> list[LiveMessage]:
    """Return the next `count` messages."""
    async with asyncio.timeout(PATIENCE_S):
        return [await anext(feed) for _ in range(count)]


def test_what_is_appended_is_heard(run: Run) -> None:
    """From when the context is entered every appended event is heard in order, with its sequence."""

    @run
    async def _(ports: Ports) -> None:
        await ports.append(events("c0", "before", session=OTHER))
        async with ports.live.listen(ports.subjects.live_history(SID)) as feed:
            appended = await ports.append(events("c1", "a", SessionStarted()))
            first, second = await hear(feed, 2)
        assert [first.sequence, second.sequence] == [r.sequence for r in appended.recorded]
        assert first.subject == ports.subjects.live(ports.subjects.event(SID, "session.marked.v1"))
        assert first.headers["ce-id"] == appended.recorded[0].id
        assert not [name for name in first.headers if name.startswith("Nats-S")]
        assert first.data == b'{"label":"a","offset":0}'
        assert second.subject.endswith(".session.started")


def test_only_what_fits_the_filter_is_heard(run: Run) -> None:
    """A filter for one kind of event of all sessions lets nothing else through."""

    @run
    async def _(ports: Ports) -> None:
        filter = ports.subjects.live(ports.subjects.events_of_type("session.started"))
        async with ports.live.listen(filter) as feed:
            await ports.append(events("c1", "a", SessionStarted(), "b"))
            await ports.append(events("c1", "c", SessionStarted(), session=OTHER))
            assert [message.sequence for message in await hear(feed, 2)] == [2, 5]


def test_a_refused_append_is_not_heard(run: Run) -> None:
    """The feed carries what was stored, never an attempt that the guard refused."""

    @run
    async def _(ports: Ports) -> None:
        async with ports.live.listen(ports.subjects.live(ports.subjects.all_events)) as feed:
            one = await ports.append(events("c1", "a"))
            with pytest.raises(VersionConflict):
                await ports.append(events("c2", "refused"))
            await ports.append(events("c3", "b"), expected=one.version, head=one.head)
            heard = await hear(feed, 2)
        assert [message.data for message in heard] == [
            b'{"label":"a","offset":0}',
            b'{"label":"b","offset":0}',
        ]


def test_every_listener_hears_everything(run: Run) -> None:
    """Two listeners both hear an event; leaving one context does not disturb the other."""

    @run
    async def _(ports: Ports) -> None:
        everything = ports.subjects.live(ports.subjects.all_events)
        async with ports.live.listen(everything) as one:
            async with ports.live.listen(everything) as two:
                first = await ports.append(events("c1", "a"))
                assert [m.sequence for m in await hear(one, 1) + await hear(two, 1)] == [1, 1]
            await ports.append(events("c2", "b"), expected=first.version, head=first.head)
            assert [m.sequence for m in await hear(one, 1)] == [2]


def test_a_wait_given_up_does_not_end_the_feed(run: Run) -> None:
    """Who waits in vain for a while and then waits again hears what comes."""

    @run
    async def _(ports: Ports) -> None:
        async with ports.live.listen(ports.subjects.live_history(SID)) as feed:
            for _ in range(2):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(NOTHING_S):
                        await anext(feed)
            await ports.append(events("c1", "a"))
            assert [message.sequence for message in await hear(feed, 1)] == [1]
