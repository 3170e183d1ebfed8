import asyncio
from datetime import timedelta

import pytest

from lucid_events.domain.ids import NO_DIGEST, SessionId, Version
from lucid_events.errors import AppendUncertain, StoreFull, StoreUnavailable, VersionConflict
from lucid_events.memory import (
    ManualClock,
    MemoryBlobStore,
    MemoryCaptureStore,
    MemoryEventStore,
    MemoryInbox,
    MemoryLiveFeed,
    MemoryServer,
    MemoryTimers,
)
from lucid_events.memory.stream import DEDUPE_WINDOW_S
from tests.contract.bundle import SID, events, labels, sha256


async def history(store: MemoryEventStore) -> list[str]:
    """Return the labels of `SID`'s history."""
    return labels([one async for one in store.read(SID)])


@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize("count", [1, 3])
def test_a_lost_reply_is_settled(stored: bool, count: int) -> None:
    """A lost reply is settled inside the append, whether the events had landed or not, and they land once."""

    async def scenario() -> None:
        server = MemoryServer()
        store = MemoryEventStore(server)
        server.faults.lose_reply("append", stored=stored, times=2)
        wanted = events("c1", *"abc"[:count])
        appended = await store.append(SID, wanted, expected=Version(0), head=NO_DIGEST)
        assert [one.id for one in appended.recorded] == [one.id for one in wanted]
        assert await history(store) == list("abc"[:count])

    asyncio.run(scenario())


def test_a_lost_reply_behind_another_writer_is_a_conflict() -> None:
    """When another writer's event stands where ours might, the lost append is a conflict."""

    async def scenario() -> None:
        server = MemoryServer()
        store = MemoryEventStore(server)

        async def other() -> None:
            await store.append(SID, events("c2", "theirs"), expected=Version(0), head=NO_DIGEST)

        server.faults.lose_reply("append", stored=False)
        server.faults.before_next("settle", other)
        with pytest.raises(VersionConflict):
            await store.append(SID, events("c1", "ours"), expected=Version(0), head=NO_DIGEST)
        assert await history(store) == ["theirs"]

    asyncio.run(scenario())


def test_what_cannot_be_settled_is_uncertain() -> None:
    """A lost reply that can't be looked up is uncertain, never unavailable: it may have been written."""

    async def scenario() -> None:
        server = MemoryServer()
        store = MemoryEventStore(server)
        server.faults.lose_reply("append")
        server.faults.fail_next("append", times=20)
        server.faults.fail_next("settle", times=20)
        with pytest.raises(AppendUncertain):
            await store.append(SID, events("c1", "a"), expected=Version(0), head=NO_DIGEST)
        assert await history(store) == ["a"]

    asyncio.run(scenario())


def test_unavailable_wrote_nothing() -> None:
    """An append that never reached the store fails as unavailable; the next one works."""

    async def scenario() -> None:
        server = MemoryServer()
        store = MemoryEventStore(server)
        server.faults.fail_next("append", skip=1)
        one = await store.append(SID, events("c1", "a"), expected=Version(0), head=NO_DIGEST)
        with pytest.raises(StoreUnavailable):
            await store.append(SID, events("c2", "b"), expected=one.version, head=one.head)
        await store.append(SID, events("c2", "b"), expected=one.version, head=one.head)
        assert await history(store) == ["a", "b"]

    asyncio.run(scenario())


def test_a_full_log_pushes_back() -> None:
    """A log at its byte limit refuses an append whole."""

    async def scenario() -> None:
        store = MemoryEventStore(MemoryServer(events_max_bytes=1500))
        one = await store.append(SID, events("c1", "a"), expected=Version(0), head=NO_DIGEST)
        with pytest.raises(StoreFull):
            await store.append(SID, events("c2", *"bcdef"), expected=one.version, head=one.head)
        assert await history(store) == ["a"]

    asyncio.run(scenario())


def test_a_racing_writer_comes_first() -> None:
    """A hook before an append is another writer that wins the race."""

    async def scenario() -> None:
        server = MemoryServer()
        store = MemoryEventStore(server)

        async def other() -> None:
            await store.append(SID, events("c2", "theirs"), expected=Version(0), head=NO_DIGEST)

        server.faults.before_next("append", other)
        with pytest.raises(VersionConflict):
            await store.append(SID, events("c1", "ours"), expected=Version(0), head=NO_DIGEST)
        assert await history(store) == ["theirs"]

    asyncio.run(scenario())


def test_a_lost_capture_reply_is_uncertain() -> None:
    """A capture publish without reply is uncertain; sent again it stands twice."""

    async def scenario() -> None:
        server = MemoryServer()
        capture = MemoryCaptureStore(server)
        server.faults.lose_reply("capture")
        with pytest.raises(AppendUncertain):
            await capture.publish(SID, epoch=1, n=0, offset=0, data=b"a", sha256=sha256(b"a"))
        await capture.publish(SID, epoch=1, n=0, offset=0, data=b"a", sha256=sha256(b"a"))
        assert [piece.data async for piece in capture.read(SID, epoch=1)] == [b"a", b"a"]

    asyncio.run(scenario())


def test_a_racing_put_is_adopted() -> None:
    """A writer whose pieces are in place and whose metadata comes second adopts the winner's object."""

    async def scenario() -> None:
        server = MemoryServer()
        blobs = MemoryBlobStore(server, server.subjects.chunks_bucket)

        async def other() -> None:
            await blobs.put("n", b"theirs", metadata={})

        server.faults.before_next("blob.meta", other)
        info, made = await blobs.put("n", b"ours", metadata={})
        assert (made, info.digest) == (False, sha256(b"theirs"))
        assert await blobs.sweep(older_than_s=0, dry_run=True) == []

    asyncio.run(scenario())


def test_a_swept_put_is_written_again() -> None:
    """A writer so slow that its pieces were swept before its metadata stood puts them again."""

    async def scenario() -> None:
        server = MemoryServer()
        blobs = MemoryBlobStore(server, server.subjects.chunks_bucket)

        async def sweep() -> None:
            assert len(await blobs.sweep(older_than_s=0, dry_run=False)) == 1

        server.faults.before_next("blob.meta", sweep)
        info, made = await blobs.put("n", b"slow", metadata={})
        assert made
        assert await blobs.get("n") == b"slow"
        assert info.nuid
        assert await blobs.sweep(older_than_s=0, dry_run=True) == []

    asyncio.run(scenario())


@pytest.mark.parametrize("stored", [True, False])
def test_a_lost_metadata_reply_is_settled(stored: bool) -> None:
    """A put whose metadata got no reply finds out, and says that it made the object."""

    async def scenario() -> None:
        server = MemoryServer()
        blobs = MemoryBlobStore(server, server.subjects.chunks_bucket)
        server.faults.lose_reply("blob.meta", stored=stored)
        _, made = await blobs.put("n", b"data", metadata={})
        assert made
        assert await blobs.get("n") == b"data"

    asyncio.run(scenario())


def test_ack_wait_by_a_manual_clock() -> None:
    """On a manual clock a message comes again exactly when the ack wait has passed."""

    async def scenario() -> None:
        clock = ManualClock()
        server = MemoryServer(clock=clock)
        server.add_consumer("c", [server.subjects.all_events], ack_wait_s=30)
        inbox = MemoryInbox(server, "c")
        await MemoryEventStore(server).append(SID, events("c1", "a"), expected=Version(0), head=NO_DIGEST)
        (first,) = await inbox.fetch(5, wait_s=0)
        async with asyncio.TaskGroup() as tasks:
            fetching = tasks.create_task(inbox.fetch(5, wait_s=100))
            await clock.asleep()
            await clock.advance(29)
            await first.working()
            await clock.advance(29)
            assert not fetching.done()
            await clock.advance(1)
            (second,) = fetching.result()
        assert (first.attempt, second.attempt) == (1, 2)
        await second.retry(60)
        assert list(await inbox.fetch(5, wait_s=0)) == []
        await clock.advance(60)
        (third,) = await inbox.fetch(5, wait_s=0)
        assert third.attempt == 3
        await third.terminate("enough")
        await clock.advance(1000)
        assert list(await inbox.fetch(5, wait_s=0)) == []
        assert server.consumer("c").terminated == {1: "enough"}

    asyncio.run(scenario())


def test_a_lost_ack_delivers_again() -> None:
    """An ack that never arrives leaves the message in flight until its ack wait passes."""

    async def scenario() -> None:
        clock = ManualClock()
        server = MemoryServer(clock=clock)
        server.add_consumer("c", [server.subjects.all_events], ack_wait_s=30)
        inbox = MemoryInbox(server, "c")
        await MemoryEventStore(server).append(SID, events("c1", "a"), expected=Version(0), head=NO_DIGEST)
        (first,) = await inbox.fetch(1, wait_s=0)
        server.faults.lose_reply("ack", stored=False)
        await first.ack()
        await clock.advance(30)
        (second,) = await inbox.fetch(1, wait_s=0)
        assert second.attempt == 2

    asyncio.run(scenario())


def test_deliveries_are_delayed_and_doubled() -> None:
    """A delayed message is overtaken by the next one; a doubled one comes while its first copy is in work."""

    async def scenario() -> None:
        clock = ManualClock()
        server = MemoryServer(clock=clock)
        server.add_consumer("c", [server.subjects.all_events], ack_wait_s=300)
        inbox = MemoryInbox(server, "c")
        store = MemoryEventStore(server)
        await store.append(SID, events("c1", "a", "b"), expected=Version(0), head=NO_DIGEST)
        server.faults.delay_next("c", 10)
        (overtaking,) = await inbox.fetch(5, wait_s=0)
        assert overtaking.sequence == 2
        await clock.advance(10)
        (delayed,) = await inbox.fetch(5, wait_s=0)
        assert (delayed.sequence, delayed.attempt) == (1, 1)
        server.faults.duplicate_next("c")
        await store.append(
            SessionId("s2"), events("c1", "x", session=SessionId("s2")), expected=Version(0), head=NO_DIGEST
        )
        one = await inbox.fetch(5, wait_s=0)
        two = await inbox.fetch(5, wait_s=0)
        assert [(d.sequence, d.attempt) for d in [*one, *two]] == [(3, 1), (3, 2)]

    asyncio.run(scenario())


def test_a_lost_live_message_is_lost_for_everyone() -> None:
    """A live message may get lost; the log and what follows are not touched."""

    async def scenario() -> None:
        server = MemoryServer()
        store = MemoryEventStore(server)
        async with MemoryLiveFeed(server).listen(server.subjects.live_history(SID)) as feed:
            server.faults.lose_reply("live")
            await store.append(SID, events("c1", "a", "b"), expected=Version(0), head=NO_DIGEST)
            assert (await anext(feed)).sequence == 2
        assert await history(store) == ["a", "b"]

    asyncio.run(scenario())


def test_timers_by_a_manual_clock() -> None:
    """On a manual clock a timer is delivered when the clock reaches it, to a waiting fetch too."""

    async def scenario() -> None:
        clock = ManualClock()
        server = MemoryServer(clock=clock)
        timers = MemoryTimers(server)
        server.add_consumer("due", [server.subjects.all_due], stream=server.subjects.timers_stream)
        inbox = MemoryInbox(server, "due")
        async with asyncio.TaskGroup() as tasks:
            fetching = tasks.create_task(inbox.fetch(5, wait_s=1000))
            await clock.asleep()
            await timers.arm(SID, "stop", at=clock.now() + timedelta(seconds=60), payload=b"x")
            await clock.advance(59)
            assert not fetching.done()
            assert await timers.armed(SID, "stop")
            await clock.advance(1)
            (due,) = fetching.result()
        assert due.data == b"x"
        assert not await timers.armed(SID, "stop")

    asyncio.run(scenario())


def test_ids_are_forgotten_after_the_window() -> None:
    """A message id suppresses a second message only within the dedupe window."""
    clock = ManualClock()
    server = MemoryServer(clock=clock)
    headers = {"Nats-Msg-Id": "x"}
    assert server.publish("lucid.dlq.c", b"1", headers).duplicate is False
    assert server.publish("lucid.dlq.c", b"2", headers) == (1, True)
    asyncio.run(clock.advance(DEDUPE_WINDOW_S + 1))
    assert server.publish("lucid.dlq.c", b"3", headers) == (2, False)


def test_unknown_places_are_refused() -> None:
    """A fault at a place that does not exist is an error, not a test that tests nothing."""
    with pytest.raises(ValueError, match="use one of"):
        MemoryServer().faults.fail_next("nowhere")  # type: ignore[arg-type] # what the test is about
