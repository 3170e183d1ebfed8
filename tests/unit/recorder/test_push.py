"""Pushed bytes as a source, and what a recorder of them may be asked: send now, end a chunk, leave."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from msgspec.structs import replace

from lucid_events.domain.commands import Pause, Resume, Stop
from lucid_events.domain.transitions import State
from lucid_events.errors import NotFound
from lucid_events.recorder import PushSource, Recording, Refused
from tests.unit.recorder.rig import FAST, PATIENCE_S, Service, eventually

SLOW = replace(FAST, flush_interval_s=600.0)
"""Nothing is sent by the clock: what goes was asked to go."""


def _run(work: Callable[[Service, PushSource, Recording, "asyncio.Task[object]"], Awaitable[None]]) -> None:
    async def main() -> None:
        async with Service().running() as service:
            source = PushSource("push")
            recording = service.recording(source, options=SLOW)
            task: asyncio.Task[object] = asyncio.create_task(recording.run())
            try:
                await eventually(lambda: recording.opened)
                await work(service, source, recording, task)
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    asyncio.run(main())


def test_what_is_written_is_taken_in_order() -> None:
    """Blocks come out as one stream, and the offset after each write counts all of it."""

    async def work(
        service: Service, source: PushSource, recording: Recording, task: "asyncio.Task[object]"
    ) -> None:
        for block in (b"one ", b"two ", b"three"):
            await source.write(block)
        assert recording.taken_upto == 13
        recording.stop()
        await task
        assert service.played() == b"one two three"

    _run(work)


def test_send_now_does_not_wait_for_the_clock() -> None:
    """What was written is durable soon after `send_now`, in a chunk that goes on."""

    async def work(
        service: Service, source: PushSource, recording: Recording, task: "asyncio.Task[object]"
    ) -> None:
        await source.write(b"abc")
        recording.send_now()
        await asyncio.wait_for(recording.until(lambda: recording.acked_upto == 3), PATIENCE_S)
        assert (recording.ended_upto, recording.open_index) == (0, 0)
        recording.send_now(end_chunk=True)
        await asyncio.wait_for(recording.until(lambda: recording.ended_upto == 3), PATIENCE_S)
        assert recording.open_index == 1
        await eventually(lambda: service.stored == {0: b"abc"})

    _run(work)


def test_a_recorder_leaves_its_session_to_the_next() -> None:
    """`leave` seals what was read and detaches; the session stays active, and its bytes go on elsewhere."""

    async def work(
        service: Service, source: PushSource, recording: Recording, task: "asyncio.Task[object]"
    ) -> None:
        await source.write(b"first ")
        recording.leave()
        await asyncio.wait_for(task, PATIENCE_S)
        assert await service.state() is State.ACTIVE
        later = PushSource("push")
        options = replace(FAST, attach_only=True)
        second = service.recording(later, options=options)
        following = asyncio.create_task(second.run())
        await eventually(lambda: second.opened)
        assert second.taken_upto == 6
        await later.write(b"second")
        second.stop()
        await following
        assert service.played() == b"first second"

    _run(work)


def test_a_pause_refuses_and_a_resume_takes_again() -> None:
    """A writer in a paused session is refused with nothing of its block taken; after `resume` it goes on."""

    async def work(
        service: Service, source: PushSource, recording: Recording, task: "asyncio.Task[object]"
    ) -> None:
        await source.write(b"before ")
        await service.ask(Pause())
        await service.until(State.PAUSED)
        with pytest.raises(Refused):
            await source.write(b"never")
        assert recording.taken_upto == 7
        await service.ask(Resume())
        await eventually(lambda: source.taking)
        await source.write(b"after")
        await service.ask(Stop())
        await task
        assert service.played() == b"before after"

    _run(work)


def test_a_writer_is_told_when_the_session_ends() -> None:
    """A stop while nobody reads refuses the writer that waits, and every later one."""

    async def work(
        service: Service, source: PushSource, recording: Recording, task: "asyncio.Task[object]"
    ) -> None:
        await service.ask(Stop())
        await task
        with pytest.raises(Refused):
            await source.write(b"late")

    _run(work)


def test_attach_only_brings_nothing_into_being() -> None:
    """A recorder that may only attach does not create the session it is pointed at, nor start it."""

    async def main() -> None:
        async with Service().running() as service:
            options = replace(FAST, attach_only=True)
            with pytest.raises(NotFound):
                await service.recording(PushSource("push"), options=options).run()
            assert await service.state() is None

    asyncio.run(main())


def test_a_block_whose_writer_was_cancelled_is_waited_for() -> None:
    """Taken and not yet held, it is still on its way: `settled` returns once the recorder holds it."""

    async def main() -> None:
        source = PushSource("push")
        await source.resume()
        writing = asyncio.create_task(source.write(b"block"))
        assert await source.read() == b"block"
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
        settled = asyncio.create_task(source.settled())
        await asyncio.sleep(0)
        assert not settled.done()
        reading = asyncio.create_task(source.read())
        await asyncio.wait_for(settled, PATIENCE_S)
        assert not reading.done()
        await source.stop()
        assert await reading == b""

    asyncio.run(main())


def test_a_block_nobody_took_is_withdrawn() -> None:
    """A writer that is cancelled before its block was taken leaves nothing behind."""

    async def main() -> None:
        source = PushSource("push")
        await source.resume()
        writing = asyncio.create_task(source.write(b"block"))
        await asyncio.sleep(0)
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
        await asyncio.wait_for(source.settled(), PATIENCE_S)
        await source.stop()
        assert await source.read() == b""

    asyncio.run(main())
