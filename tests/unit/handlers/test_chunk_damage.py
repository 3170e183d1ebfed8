import asyncio
import hashlib

import pytest

from lucid_events.domain import events as ev
from lucid_events.domain.envelope import Recorded
from lucid_events.handlers.base import Done, Retry
from lucid_events.handlers.runner import Limits
from tests.unit.handlers.rig import SID, Rig
from tests.unit.handlers.storing import TEXT, assert_ready, ready_event, rig_with_consumer, through


@pytest.mark.parametrize("damage", ["bytes", "codec", "metadata", "pieces", "content"])
def test_a_damaged_object_is_replaced(damage: str) -> None:
    """An object that does not restore to the chunk's bytes is written anew under its own sequence."""

    async def scenario() -> None:
        rig = Rig()
        await rig.session_with_recorder()
        sealed = await rig.seal(TEXT)
        event = sealed.event
        assert isinstance(event, ev.ChunkSealed)
        name = f"{SID}/00000000-{event.sha256[:16]}"
        metadata = {"codec": "gzip", "level": "6"}
        if damage == "codec":
            metadata["codec"] = "brotli"
        if damage == "metadata":
            metadata = {}
        async with rig.compressor() as compressor:
            raw = TEXT[::-1] if damage == "content" else TEXT
            good = bytes((await compressor.compress_chunk(raw, "gzip")).data)
            info, _ = await rig.blobs.put(name, b"rot" if damage == "bytes" else good, metadata=metadata)
            if damage == "pieces":
                stream = rig.blobs._stream  # a piece is lost on disk, past every port
                stream.remove(stream.select([f"$O.{rig.blobs.bucket}.C.{info.nuid}"]))
            assert isinstance(await through(rig.chunks(compressor), rig, sealed), Done)
        await assert_ready(rig, TEXT)

    asyncio.run(scenario())


def test_a_deleted_object_is_written_again() -> None:
    """Metadata that says deleted does not stop the chunk from being stored."""

    async def scenario() -> None:
        rig = Rig()
        await rig.session_with_recorder()
        sealed = await rig.seal(TEXT)
        event = sealed.event
        assert isinstance(event, ev.ChunkSealed)
        name = f"{SID}/00000000-{event.sha256[:16]}"
        await rig.blobs.put(name, b"x", metadata={})
        await rig.blobs.delete(name)
        async with rig.compressor() as compressor:
            assert isinstance(await through(rig.chunks(compressor), rig, sealed), Done)
        await assert_ready(rig, TEXT)

    asyncio.run(scenario())


def test_a_purge_that_wins_against_a_slow_reader_is_no_mismatch() -> None:
    """A reader that finds capture purged by another worker sees the chunk ready and fails nothing."""

    async def scenario() -> None:
        rig = Rig()
        await rig.session_with_recorder()
        sealed = await rig.seal(TEXT)
        await rig.state()  # the slow reader has the session as it was: not ready
        async with rig.compressor() as compressor:
            slow, fast = rig.chunks(compressor), rig.chunks(compressor)
            read = slow._read  # the race is between deciding to read and reading

            async def read_late(*args: object, **kwargs: object) -> object:
                slow._read = read  # type: ignore[method-assign] # once only
                assert isinstance(await through(fast, rig, sealed), Done)
                return await read(*args, **kwargs)  # type: ignore[arg-type] # passed on as they came

            slow._read = read_late  # type: ignore[method-assign, assignment] # see above
            assert isinstance(await through(slow, rig, sealed), Done)
        await assert_ready(rig, TEXT)
        assert await rig.events(ev.ChunkFailed) == []

    asyncio.run(scenario())


def test_missing_bytes_are_retried_and_said_only_when_the_leader_confirms_it_for_good() -> None:
    """Bytes that can't be read are looked for again; only a leader without them, again and again, ends it."""

    async def scenario() -> None:
        rig = rig_with_consumer()
        await rig.session_with_recorder()
        sealed = await rig.seal(TEXT)
        await rig.capture.purge(SID, epoch=1, n=0, upto_seq=1)
        async with rig.compressor() as compressor:
            outcome = await through(rig.chunks(compressor), rig, sealed)
            assert isinstance(outcome, Retry)
            assert outcome.own_failure
            assert await rig.events(ev.ChunkFailed) == []
            runner = rig.runner(rig.chunks(compressor), limits=Limits(max_failures=3))
            await rig.run_until(runner, lambda: runner.progress.parked == 1, step_s=5)
        assert runner.progress.failed == 3
        assert [
            r.event.code for r in await rig.events(ev.ChunkFailed) if isinstance(r.event, ev.ChunkFailed)
        ] == ["failed"]

    asyncio.run(scenario())


@pytest.mark.parametrize("content", [TEXT, TEXT[::-1]], ids=["the chunk", "something else"])
def test_a_chunk_gone_from_capture_is_ready_by_its_object(content: bytes) -> None:
    """Without capture, an object that restores to the sealed bytes makes the chunk ready, no other does."""

    async def scenario() -> None:
        rig = Rig()
        await rig.session_with_recorder()
        sealed = await rig.seal(TEXT)
        event = sealed.event
        assert isinstance(event, ev.ChunkSealed)
        await rig.capture.purge(SID, epoch=1, n=0, upto_seq=event.last_seq)
        async with rig.compressor() as compressor:
            stored = await compressor.compress_chunk(content, "zstd", 5)
            name = f"{SID}/00000000-{event.sha256[:16]}"
            await rig.blobs.put(name, bytes(stored.data), metadata={"codec": "zstd", "level": "5"})
            outcome = await through(rig.chunks(compressor), rig, sealed)
        if content != TEXT:
            assert isinstance(outcome, Retry)
            assert await rig.events(ev.ChunkReady) == []
            return
        ready = await assert_ready(rig, TEXT)
        assert (ready.codec, ready.level, ready.stored_sha256) == ("zstd", 5, stored.sha256)

    asyncio.run(scenario())


def test_corrupted_capture_fails_its_chunk_and_nothing_else() -> None:
    """Bytes that are complete and wrong make `chunk.failed` and a dead letter; the neighbours are stored."""

    async def scenario() -> None:
        rig = rig_with_consumer()
        await rig.session_with_recorder()
        bad = bytearray(TEXT)
        bad[7] ^= 1
        await rig.seal(TEXT)
        await rig.seal(TEXT, n=1, offset=len(TEXT), stored=bytes(bad))
        await rig.seal(TEXT, n=2, offset=2 * len(TEXT))
        async with rig.compressor() as compressor:
            runner = rig.runner(rig.chunks(compressor))
            await rig.run_until(
                runner, lambda: runner.progress.processed == 2 and runner.progress.parked == 1, step_s=1
            )
        failed = [r.event for r in await rig.events(ev.ChunkFailed)]
        assert [(e.index, e.code) for e in failed if isinstance(e, ev.ChunkFailed)] == [
            (1, "digest_mismatch")
        ]
        state = await rig.state()
        assert (state.ready_chunks, set(state.failed), set(state.pending)) == (2, {1}, set())
        assert rig.dead_letters() == 1
        assert rig.captured() > 0, "the bytes of a failed chunk stay"

    asyncio.run(scenario())


def test_chunks_salvaged_from_one_subject_are_purged_only_together() -> None:
    """The purge of one leftover never takes another's bytes, in whatever order they become ready."""

    async def scenario() -> None:
        rig = rig_with_consumer()
        await rig.session_with_recorder()
        sequences = [
            (await rig.capture.publish(SID, epoch=1, n=0, offset=at, data=b"ab", sha256="0" * 64)).sequence
            for at in (0, 10)
        ]
        digest = hashlib.sha256(b"ab").hexdigest()
        now = rig.clock.now()
        for index, (at, sequence) in enumerate(zip((0, 10), sequences, strict=True)):
            sealed = ev.ChunkSealed(
                index=index,
                epoch=1,
                n=0,
                offset=at,
                size=2,
                sha256=digest,
                first_seq=sequence,
                last_seq=sequence,
                started_at=now,
                ended_at=now,
                cut="salvage",
                recovered=True,
                gap_before=8 * index,
            )
            await rig.append(sealed)
        second = [r async for r in rig.store.read(SID)][-1]
        assert isinstance(second, Recorded)
        async with rig.compressor() as compressor:
            handler = rig.chunks(compressor)
            assert isinstance(await through(handler, rig, second), Retry)
            assert rig.captured() == 2
            runner = rig.runner(handler)
            await rig.run_until(runner, lambda: runner.progress.processed == 2, step_s=1)
        assert rig.captured() == 0
        ready = await assert_ready(rig, b"ab", index=1)
        assert ready.hash_by == "salvage"
        assert ready.quality.complete == 0.2

    asyncio.run(scenario())


def test_damage_is_not_said_of_a_chunk_that_is_ready() -> None:
    """A worker that reads rotten bytes of a chunk made ready meanwhile fails nothing."""

    async def scenario() -> None:
        rig = Rig()
        await rig.session_with_recorder()
        sealed = await rig.seal(TEXT, stored=bytes(len(TEXT)))
        event = sealed.event
        assert isinstance(event, ev.ChunkSealed)

        async def make_ready(step: str) -> None:
            if step == "chunk.read":
                await rig.append(ready_event(event))

        async with rig.compressor() as compressor:
            assert isinstance(await through(rig.chunks(compressor, make_ready), rig, sealed), Done)
        assert await rig.events(ev.ChunkFailed) == []

    asyncio.run(scenario())
