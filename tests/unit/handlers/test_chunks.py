import asyncio
import hashlib
import random

import pytest

from lucid_events.domain import events as ev
from lucid_events.domain.values import Frames, SessionSettings
from lucid_events.errors import StoreFull
from lucid_events.handlers.base import Done, Retry, Skip
from lucid_events.handlers.chunks import quality_of
from lucid_events.handlers.runner import Limits
from tests.unit.handlers.rig import SID, Crash, Rig
from tests.unit.handlers.storing import TEXT, assert_ready, rig_with_consumer, through

STEPS = (
    "chunk.read",
    "chunk.compressed",
    "chunk.put",
    "chunk.confirmed",
    "chunk.appended",
    "chunk.purged",
    "message.handled",
    "message.acked",
)


def test_a_sealed_chunk_becomes_ready() -> None:
    """A sealed chunk is stored compressed, announced with everything a reader needs, and leaves capture."""

    async def scenario() -> None:
        rig = rig_with_consumer()
        await rig.session_with_recorder()
        await rig.seal(TEXT)
        async with rig.compressor() as compressor:
            runner = rig.runner(rig.chunks(compressor))
            await rig.run_until(runner, lambda: runner.progress.processed == 1)
        ready = await assert_ready(rig, TEXT)
        info = await rig.blobs.info(ready.object)
        assert info is not None
        assert info.metadata == {
            "session": SID,
            "index": "0",
            "offset": "0",
            "size": str(len(TEXT)),
            "sha256": hashlib.sha256(TEXT).hexdigest(),
            "codec": "gzip",
            "level": "6",
        }
        assert ready.object == f"{SID}/00000000-{hashlib.sha256(TEXT).hexdigest()[:16]}"
        assert ready.ratio == round(len(TEXT) / ready.stored_size, 4)
        assert ready.stored_sha256 == info.digest
        assert {"read", "hash", "probe", "compress", "put"} <= set(ready.timings_ms)
        assert ready.hash_by == "recorder"
        assert rig.captured() == 0

    asyncio.run(scenario())


@pytest.mark.parametrize("step", STEPS)
def test_a_crash_between_any_two_steps_repeats_to_the_same_state(step: str) -> None:
    """Whatever step a worker dies after, the redelivered chunk is ready once and capture is empty."""

    async def scenario() -> None:
        rig = rig_with_consumer()
        await rig.session_with_recorder()
        await rig.seal(TEXT)

        async def die(reached: str) -> None:
            if reached == step:
                raise Crash(step)

        async with rig.compressor() as compressor:
            doomed = rig.runner(rig.chunks(compressor, die), checkpoint=die)
            with pytest.raises(BaseExceptionGroup) as died:
                await rig.run_until(doomed, lambda: False, step_s=1)
            assert died.group_contains(Crash)
            runner = rig.runner(rig.chunks(compressor))
            pending = rig.server.consumer("chunks")
            await rig.run_until(runner, lambda: pending.lag().in_flight == 0, step_s=5)
        await assert_ready(rig, TEXT)
        assert rig.captured() == 0
        assert len([info async for info in rig.blobs.names()]) == 1
        assert rig.dead_letters() == 0

    asyncio.run(scenario())


@pytest.mark.parametrize("step", STEPS[:5])
def test_two_workers_on_one_chunk(step: str) -> None:
    """A worker overtaken at any step by another changes nothing: one `chunk.ready`, one object."""

    async def scenario() -> None:
        rig = Rig()
        await rig.session_with_recorder()
        sealed = await rig.seal(TEXT)
        async with rig.compressor() as compressor:
            other = rig.chunks(compressor)

            async def overtake(reached: str) -> None:
                if reached == step:
                    assert isinstance(await through(other, rig, sealed), Done)

            assert isinstance(await through(rig.chunks(compressor, overtake), rig, sealed), Done)
        await assert_ready(rig, TEXT)
        assert rig.captured() == 0
        assert len([info async for info in rig.blobs.names()]) == 1

    asyncio.run(scenario())


def test_the_loser_of_a_race_adopts_the_winners_object() -> None:
    """When another worker's object stands, with other codec settings, the event describes that object."""

    async def scenario() -> None:
        rig = Rig()
        await rig.session_with_recorder()
        sealed = await rig.seal(TEXT)
        event = sealed.event
        assert isinstance(event, ev.ChunkSealed)
        async with rig.compressor() as compressor:
            theirs = await compressor.compress_chunk(TEXT, "zstd", 5)
            name = f"{SID}/00000000-{event.sha256[:16]}"
            await rig.blobs.put(name, bytes(theirs.data), metadata={"codec": "zstd", "level": "5"})
            assert isinstance(await through(rig.chunks(compressor), rig, sealed), Done)
        ready = await assert_ready(rig, TEXT)
        assert (ready.codec, ready.level, ready.stored_size) == ("zstd", 5, theirs.stored_size)
        assert ready.stored_sha256 == theirs.sha256

    asyncio.run(scenario())


def test_a_session_erased_meanwhile_leaves_no_object() -> None:
    """A chunk refused because its session is being erased takes its object with it."""

    async def scenario() -> None:
        rig = Rig()
        await rig.session_with_recorder()
        sealed = await rig.seal(TEXT)

        async def erase() -> None:
            await rig.append(ev.RecorderLost(epoch=1), ev.SessionFailed(code="x"), ev.SessionCleanupStarted())

        rig.decisions.before.append(erase)
        async with rig.compressor() as compressor:
            handler = rig.chunks(compressor)
            assert isinstance(await through(handler, rig, sealed), Retry), "erasing may still fail"
            assert [info async for info in rig.blobs.names()] == []
            await rig.append(ev.SessionDestroyed())
            assert await through(handler, rig, sealed) == Skip("erased")
        assert await rig.events(ev.ChunkReady) == []

    asyncio.run(scenario())


def test_lost_replies_full_disks_and_lost_acks_do_not_repeat_effects() -> None:
    """A lost reply, a full bucket and a lost ack end in one `chunk.ready` and no dead letter."""

    async def scenario() -> None:
        rig = rig_with_consumer()
        await rig.session_with_recorder()
        await rig.seal(TEXT)
        rig.faults.lose_reply("append")
        rig.faults.fail_next("blob.pieces", StoreFull("full"), times=12)
        rig.faults.lose_reply("ack", stored=False, skip=12)
        async with rig.compressor() as compressor:
            runner = rig.runner(rig.chunks(compressor), limits=Limits(max_failures=2, max_deaths=2))
            lag = rig.server.consumer("chunks").lag
            await rig.run_until(
                runner, lambda: runner.progress.processed >= 2 and lag().in_flight == 0, step_s=5
            )
        await assert_ready(rig, TEXT)
        assert (runner.progress.failed, runner.progress.parked) == (0, 0)
        assert runner.progress.retried >= 12
        assert rig.captured() == 0

    asyncio.run(scenario())


def test_quality_is_the_product_of_what_is_known() -> None:
    """Frames count only when the recorder reported some; a gap before the chunk lowers its completeness."""
    sealed = ev.ChunkSealed(
        index=0,
        epoch=1,
        n=0,
        offset=0,
        size=75,
        sha256="0" * 64,
        first_seq=1,
        last_seq=1,
        started_at=Rig().clock.now(),
        ended_at=Rig().clock.now(),
        cut="size",
        gap_before=25,
        frames=Frames(delivered=90, dropped=10),
    )
    quality = quality_of(sealed)
    assert (quality.complete, quality.frames, quality.score) == (0.75, 0.9, 0.675)


def test_incompressible_chunks_are_stored_as_they_are(rng: random.Random) -> None:
    """A chunk that does not compress is announced as `store`, without a level, at a ratio of 1."""

    async def scenario() -> None:
        rig = Rig()
        await rig.session_with_recorder(settings=SessionSettings(codec="auto"))
        data = rng.randbytes(20_000)
        sealed = await rig.seal(data)
        async with rig.compressor() as compressor:
            assert isinstance(await through(rig.chunks(compressor), rig, sealed), Done)
        ready = await assert_ready(rig, data)
        assert (ready.codec, ready.level, ready.ratio) == ("store", None, 1.0)

    asyncio.run(scenario())


def test_a_ready_chunk_is_only_purged() -> None:
    """A worker that died between `chunk.ready` and the purge costs a purge, not a second compression."""

    async def scenario() -> None:
        rig = Rig()
        await rig.session_with_recorder()
        sealed = await rig.seal(TEXT)

        async def die(step: str) -> None:
            if step == "chunk.appended":
                raise Crash(step)

        async with rig.compressor() as compressor:
            with pytest.raises(Crash):
                await through(rig.chunks(compressor, die), rig, sealed)
            assert isinstance(await through(rig.chunks(compressor), rig, sealed), Done)
            assert compressor.statistics.snapshot()["total_compressions"] == 1
        assert rig.captured() == 0

    asyncio.run(scenario())
