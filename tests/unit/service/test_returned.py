"""Capture that nobody needs any more: which of it is taken, and which is left alone."""

import asyncio
import hashlib

from lucid_events.domain import events as ev
from lucid_events.domain.values import SessionSettings
from lucid_events.handlers.base import Done
from lucid_events.service.returned import SETTLED_S, ReturnedCapture
from tests.unit.handlers.rig import SID, Rig

DATA = b"bytes " * 100


async def piece(rig: Rig, offset: int, data: bytes, *, n: int = 0, epoch: int = 1) -> None:
    """A piece arrives in capture, whenever it was sent."""
    sha256 = hashlib.sha256(data).hexdigest()
    await rig.capture.publish(SID, epoch=epoch, n=n, offset=offset, data=data, sha256=sha256)


async def swept(rig: Rig) -> int:
    """Sweep, once everything is old enough; returns how many pieces went."""
    sweep = ReturnedCapture(rig.histories, rig.store, rig.capture, rig.clock)
    await rig.clock.advance(SETTLED_S + 1)
    return await sweep.sweep()


async def lost(rig: Rig, *, resumable: bool) -> None:
    """A recorder was lost that had sent pieces of a chunk nobody sealed."""
    await rig.append(
        ev.SessionCreated(settings=SessionSettings()),
        ev.SessionStarted(),
        ev.RecorderAttached(epoch=1, recorder="r", offset=0, resumable=resumable),
    )
    await piece(rig, 5000, DATA, n=3)
    await rig.append(ev.RecorderLost(epoch=1), ev.RecorderAttached(epoch=2, recorder="r", offset=0))


def test_a_piece_that_came_late_is_taken() -> None:
    """Sent twice, and stored behind the range of its chunk once that was ready and purged."""

    async def scenario() -> None:
        rig = Rig()
        await rig.session_with_recorder()
        sealed = await rig.seal(DATA)
        async with rig.compressor() as compressor:
            outcome = await rig.chunks(compressor).handle(rig.message(sealed))
            assert isinstance(outcome, Done)
            assert outcome.finish is not None
            await outcome.finish()
        assert rig.captured() == 0
        await piece(rig, 0, DATA)
        assert await swept(rig) == 1
        assert rig.captured() == 0

    asyncio.run(scenario())


def test_what_a_resumable_source_sends_again_is_taken() -> None:
    """Behind a hole, before its recorder was lost: no seal will ever name it."""

    async def scenario() -> None:
        rig = Rig()
        await lost(rig, resumable=True)
        assert await swept(rig) == 1
        assert rig.captured() == 0

    asyncio.run(scenario())


def test_what_another_source_has_no_more_stays() -> None:
    """Nobody can send it again, so a person may want to look at it."""

    async def scenario() -> None:
        rig = Rig()
        await lost(rig, resumable=False)
        assert await swept(rig) == 0
        assert rig.captured() == 1

    asyncio.run(scenario())


def test_what_is_being_recorded_stays() -> None:
    """Of the epoch that is attached, and of one that ended a moment ago, nothing is taken."""

    async def scenario() -> None:
        rig = Rig()
        await lost(rig, resumable=True)
        await piece(rig, 0, DATA, epoch=2)
        sweep = ReturnedCapture(rig.histories, rig.store, rig.capture, rig.clock)
        await rig.clock.advance(SETTLED_S / 2)
        assert await sweep.sweep() == 0
        assert await swept(rig) == 1
        assert rig.captured() == 1

    asyncio.run(scenario())
