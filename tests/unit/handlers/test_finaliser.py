import asyncio

from lucid_events.domain import events as ev
from lucid_events.domain.transitions import State
from lucid_events.handlers.dead_letters import DeadLetters
from lucid_events.handlers.execution import Execution
from lucid_events.handlers.finaliser import Finaliser
from lucid_events.handlers.runner import Limits, Runner
from tests.unit.handlers.rig import SID, Rig

DATA = b"bytes " * 500


def finaliser(rig: Rig) -> Runner:
    """A runner over the consumer as deployed."""
    names = ("session.stopping", "chunk.ready", "chunk.failed", "recorder.detached", "recorder.lost")
    rig.consumer("finaliser", *(rig.subjects.events_of_type(name) for name in names))
    return rig.runner(Finaliser(rig.histories))


async def settle(rig: Rig, *runners: Runner) -> None:
    """Run until no consumer has anything left."""
    tasks = [asyncio.ensure_future(runner.run()) for runner in runners]
    idle = 0
    while idle < 5:
        await rig.clock.advance(1)
        lags = [await runner.lag() for runner in runners]
        idle = 0 if any(lag.events_behind for lag in lags) else idle + 1
    for runner in runners:
        runner.stop()
    await rig.until(lambda: all(task.done() for task in tasks), step_s=1)
    for task in tasks:
        task.result()


def test_whatever_comes_last_ends_the_session() -> None:
    """A stopping session ends when its recorder has gone and its last chunk is ready, in either order."""

    async def scenario(detach_first: bool) -> None:
        rig = Rig()
        rig.consumer("chunks", rig.subjects.events_of_type("chunk.sealed"))
        runner = finaliser(rig)
        await rig.session_with_recorder()
        await rig.seal(DATA)
        await rig.append(ev.SessionStopping())
        detached = ev.RecorderDetached(epoch=1, offset=len(DATA))
        if detach_first:
            await rig.append(detached)
        async with rig.compressor() as compressor:
            chunks = rig.runner(rig.chunks(compressor))
            await settle(rig, chunks, runner)
        if not detach_first:
            assert (await rig.state()).state is State.STOPPING
            await rig.append(detached)
            second = rig.runner(Finaliser(rig.histories))
            await settle(rig, second)
        stopped = [r.event for r in await rig.events(ev.SessionStopped)]
        assert len(stopped) == 1
        assert isinstance(stopped[0], ev.SessionStopped)
        assert (stopped[0].manifest.chunks, stopped[0].manifest.raw_bytes) == (1, len(DATA))

    asyncio.run(scenario(True))
    asyncio.run(scenario(False))


def test_a_failed_chunk_does_not_block_the_stop_and_a_redrive_renews_the_manifest() -> None:
    """A poisoned chunk is named in the first manifest; redriven with good bytes it is in the second."""

    async def scenario() -> None:
        rig = Rig()
        rig.consumer("chunks", rig.subjects.events_of_type("chunk.sealed"))
        runner = finaliser(rig)
        await rig.session_with_recorder()
        await rig.seal(DATA)
        sealed = await rig.seal(DATA, n=1, offset=len(DATA), stored=bytes(len(DATA)))
        await rig.append(ev.SessionStopping(), ev.RecorderDetached(epoch=1, offset=2 * len(DATA)))
        async with rig.compressor() as compressor:
            handler = rig.chunks(compressor)
            await settle(rig, rig.runner(handler, limits=Limits(max_failures=2)), runner)
            first = (await rig.state()).manifest
            assert first is not None
            assert (first.chunks, first.failed) == (1, (1,))

            event = sealed.event
            assert isinstance(event, ev.ChunkSealed)
            stream = rig.server.stream(rig.subjects.capture_stream)
            for sequence in stream.select([rig.subjects.capture(SID, 1, 1)]):
                kept = stream.get(sequence)
                assert kept is not None
                at = int(kept.headers["Lucid-Offset"]) - len(DATA)
                object.__setattr__(kept, "data", DATA[at : at + len(kept.data)])  # the disk is mended
            letters = DeadLetters(rig.dead, {"chunks": Execution(handler, rig.decisions)})
            listed = [letter async for letter in letters.list("chunks")]
            assert [letter.pointer.code for letter in listed] == ["digest_mismatch"]
            await letters.redrive(listed[0].sequence)
            await settle(rig, rig.runner(Finaliser(rig.histories)))
        second = (await rig.state()).manifest
        assert second is not None
        assert (second.version, second.chunks, second.failed) == (2, 2, ())
        assert [letter async for letter in letters.list()] == []
        assert rig.captured() == 0

    asyncio.run(scenario())
