import asyncio
from functools import partial

import pytest

from lucid_events.domain import events as ev
from lucid_events.domain.ids import SessionId
from lucid_events.domain.transitions import State
from lucid_events.errors import Fenced, IntegrityError, StoreUnavailable
from lucid_events.handlers.base import Skip
from lucid_events.handlers.eraser import Eraser
from lucid_events.handlers.execution import Execution
from lucid_events.handlers.runner import Limits
from lucid_events.memory import MemoryBlobStore
from tests.unit.handlers.rig import SID, Rig
from tests.unit.handlers.test_finaliser import settle

DATA = b"bytes " * 500


def eraser(rig: Rig, *, anywhere: bool = True) -> Eraser:
    """The reaction over the rig; with `anywhere` False it knows the bucket of now alone."""
    bucket = partial(MemoryBlobStore, rig.server) if anywhere else None
    return Eraser(rig.histories, rig.store, rig.capture, rig.blobs, rig.clock, bucket=bucket)


async def recorded_session(rig: Rig, chunks: int = 3) -> None:
    """A failed session with stored chunks, one sealed chunk in capture and some unsealed bytes."""
    rig.consumer("chunks", rig.subjects.events_of_type("chunk.sealed"))
    await rig.session_with_recorder()
    for n in range(chunks):
        await rig.seal(DATA, n=n, offset=n * len(DATA))
    async with rig.compressor() as compressor:
        await settle(rig, rig.runner(rig.chunks(compressor)))
    await rig.seal(DATA, n=chunks, offset=chunks * len(DATA))
    await rig.capture.publish(SID, epoch=1, n=chunks + 1, offset=9**9, data=b"rest", sha256="0" * 64)
    await rig.append(ev.RecorderLost(epoch=1), ev.SessionFailed(code="x"), ev.SessionCleanupStarted())


def objects(rig: Rig) -> int:
    """Pieces of objects that are stored."""
    metas = rig.server.stream(f"OBJ_{rig.blobs.bucket}").messages(f"$O.{rig.blobs.bucket}.C.>")
    return len(metas)


@pytest.mark.parametrize("faulty", [False, True])
def test_cleanup_leaves_the_history_and_nothing_else(faulty: bool) -> None:
    """After cleanup no object and no captured byte is left, counts are right, and the epoch is closed."""

    async def scenario() -> None:
        rig = Rig()
        await recorded_session(rig)
        other = SessionId("other")
        await rig.session_with_recorder(other)
        await rig.seal(DATA, session=other)
        stored = (await rig.state()).stored_bytes
        rig.consumer("eraser", rig.subjects.events_of_type("session.cleanup_started"))
        if faulty:
            rig.faults.fail_next("fence", StoreUnavailable("gone"), skip=3)
            rig.faults.fail_next("blob.meta", StoreUnavailable("gone"), skip=1)
            rig.faults.lose_reply("append")
            rig.faults.lose_reply("ack", stored=False)
        runner = rig.runner(eraser(rig))
        await settle(rig, runner)
        assert (await rig.state()).state is State.DESTROYED
        destroyed = [r.event for r in await rig.events(ev.SessionDestroyed)]
        assert destroyed == [ev.SessionDestroyed(objects=3, stored_bytes=stored)]
        assert rig.captured() == 0
        assert rig.captured(other) > 0
        assert objects(rig) == 0
        with pytest.raises(Fenced):
            await rig.capture.publish(SID, epoch=1, n=9, offset=0, data=b"x", sha256="0" * 64)
        assert runner.progress.failed == 0

    asyncio.run(scenario())


def test_a_chunk_in_work_while_its_session_is_erased_leaves_nothing() -> None:
    """An object put while the eraser is at work is gone in the end, whoever deletes it."""

    async def scenario() -> None:
        rig = Rig()
        await recorded_session(rig)
        rig.consumer("eraser", rig.subjects.events_of_type("session.cleanup_started"))
        sealed = (await rig.events(ev.ChunkSealed))[-1]
        erasing = rig.runner(eraser(rig))

        async def erase_now(step: str) -> None:
            if step == "chunk.confirmed":
                await settle(rig, erasing)

        async with rig.compressor() as compressor:
            handler = rig.chunks(compressor, erase_now)
            slow = handler._store  # a worker that looked before the cleanup began
            session = await rig.state()
            event = sealed.event
            assert isinstance(event, ev.ChunkSealed)
            assert await slow(sealed, event, session) == Skip("erased")
        assert (await rig.state()).state is State.DESTROYED
        assert objects(rig) == 0

    asyncio.run(scenario())


@pytest.mark.parametrize("anywhere", [True, False])
def test_a_chunk_in_another_bucket_is_erased_there(anywhere: bool) -> None:
    """An object is erased in the bucket that the history names; who can't does not say that it is gone."""

    async def scenario() -> None:
        rig = Rig()
        await rig.session_with_recorder()
        here, moved = rig.blobs, MemoryBlobStore(rig.server, "older-chunks")
        rig.consumer("chunks", rig.subjects.events_of_type("chunk.sealed"))
        await rig.seal(DATA)
        rig.blobs = moved
        async with rig.compressor() as compressor:
            await settle(rig, rig.runner(rig.chunks(compressor)))
        (ready,) = await rig.events(ev.ChunkReady)
        assert isinstance(ready.event, ev.ChunkReady)
        assert ready.event.bucket == "older-chunks"
        rig.blobs = here
        await rig.append(ev.RecorderLost(epoch=1), ev.SessionFailed(code="x"), ev.SessionCleanupStarted())
        rig.consumer("eraser", rig.subjects.events_of_type("session.cleanup_started"))
        await settle(rig, rig.runner(eraser(rig, anywhere=anywhere), limits=Limits(max_failures=2)))
        there = await moved.info(ready.event.object)
        assert ((await rig.state()).state, there is None) == (
            (State.DESTROYED, True) if anywhere else (State.ERROR, False)
        )

    asyncio.run(scenario())


def test_erasing_that_does_not_succeed_is_said_and_waits_for_a_person() -> None:
    """After the attempts allowed the session goes to `error`; there is a dead letter, and bytes remain."""

    async def scenario() -> None:
        rig = Rig()
        await recorded_session(rig)
        rig.consumer("eraser", rig.subjects.events_of_type("session.cleanup_started"))
        rig.faults.fail_next("blob.meta", IntegrityError("rot"), times=100)
        runner = rig.runner(eraser(rig), limits=Limits(max_failures=5))
        await settle(rig, runner)
        assert (runner.progress.failed, runner.progress.parked) == (5, 1)
        state = await rig.state()
        assert (state.state, state.error_code) == (State.ERROR, "cleanup_failed")
        assert rig.dead_letters() == 1

    asyncio.run(scenario())


def test_a_cleanup_that_is_over_is_not_repeated() -> None:
    """A redelivered cleanup of a destroyed session touches nothing."""

    async def scenario() -> None:
        rig = Rig()
        await recorded_session(rig)
        rig.consumer("eraser", rig.subjects.events_of_type("session.cleanup_started"))
        await settle(rig, rig.runner(eraser(rig)))
        started = (await rig.events(ev.SessionCleanupStarted))[0]
        execution = Execution(eraser(rig), rig.decisions)
        assert await execution.run(rig.message(started)) == Skip("moved on")
        assert len(await rig.events(ev.SessionDestroyed)) == 1

    asyncio.run(scenario())


def test_a_chunk_outlives_a_cleanup_that_failed() -> None:
    """A chunk on its way while erasing fails is stored once the session is out of cleanup."""

    async def scenario() -> None:
        rig = Rig()
        rig.consumer("chunks", rig.subjects.events_of_type("chunk.sealed"))
        await rig.session_with_recorder()
        await rig.seal(DATA)
        await rig.append(ev.RecorderLost(epoch=1), ev.SessionFailed(code="x"), ev.SessionCleanupStarted())
        async with rig.compressor() as compressor:
            runner = rig.runner(rig.chunks(compressor))
            running = asyncio.ensure_future(runner.run())
            await rig.until(lambda: runner.progress.retried >= 2, step_s=1)
            await rig.append(ev.SessionFailed(code="cleanup_failed"))
            await rig.until(lambda: runner.progress.processed == 1, step_s=1)
            runner.stop()
            await rig.until(running.done)
        assert (await rig.state()).ready_chunks == 1
        assert runner.progress.failed == 0

    asyncio.run(scenario())
