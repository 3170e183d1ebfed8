import asyncio

import pytest

from lucid_events.domain import commands as cmd
from lucid_events.errors import (
    CommandRejected,
    Fenced,
)
from lucid_events.memory import ManualClock
from tests.unit.handlers.command_side import BEAT_S, SID, CommandSide


def mark(label: str) -> cmd.Mark:
    """A bookmark."""
    return cmd.Mark(label=label)


def test_an_epoch_that_is_over_is_fenced() -> None:
    """A recorder that was replaced hears so, not that it made a mistake."""

    async def main() -> None:
        side = CommandSide()
        await side.start()
        await side.ask(cmd.Attach(recorder="r2", takeover=True), id="a2")
        with pytest.raises(Fenced):
            await side.ask(cmd.Drained(epoch=1, offset=0), id="d1")

    asyncio.run(main())


def test_a_silent_recorder_is_replaced() -> None:
    """Nobody beats: the old epoch is fenced, lost, and the new one goes on."""

    async def main() -> None:
        side = CommandSide()
        await side.start()
        await side.piece(0, b"abc")
        accepted = await side.ask(cmd.Attach(recorder="r2"), id="a2")
        assert (accepted.epoch, accepted.offset) == (2, 3)
        assert (await side.types())[-3:] == ["recorder.lost", "chunk.sealed", "recorder.attached"]
        with pytest.raises(Fenced):
            await side.piece(3, b"def", before=b"abc")

    asyncio.run(main())


def test_a_living_recorder_is_in_the_way_and_not_fenced() -> None:
    """A beat while it is listened for refuses the newcomer and leaves the recorder its epoch."""

    async def main() -> None:
        side = CommandSide(ManualClock())
        await side.start()
        asked = asyncio.ensure_future(side.ask(cmd.Attach(recorder="r2"), id="a2"))
        await side.clock.asleep()
        # While it is listened for, nobody else has to wait.
        assert (await side.ask(mark("meanwhile"), id="m1")).events
        side.server.send(side.subjects.beat(SID, 1), {}, b"{}")
        with pytest.raises(CommandRejected) as caught:
            await asked
        assert caught.value.fields["reason"] == "recorder_alive"
        await side.piece(0, b"still mine")

    asyncio.run(main())


def test_listening_ends_after_one_and_a_half_intervals() -> None:
    """The newcomer waits that long and no longer for a sign of life."""

    async def main() -> None:
        side = CommandSide(ManualClock())
        await side.start()
        asked = asyncio.ensure_future(side.ask(cmd.Attach(recorder="r2"), id="a2"))
        await side.clock.asleep()
        await side.clock.advance(1.5 * BEAT_S - 0.1)
        assert not asked.done()
        await side.clock.advance(0.2)
        assert (await asked).epoch == 2

    asyncio.run(main())


def test_a_takeover_that_is_refused_anyway_fences_nobody() -> None:
    """A state that has moved on is noticed before the fence is set."""

    async def main() -> None:
        side = CommandSide()
        await side.start()
        other = side.process()
        await other.histories.load(SID)
        await side.ask(cmd.Stop(), id="s1")
        with pytest.raises(CommandRejected):
            await other.ask(cmd.Attach(recorder="r2", takeover=True), id="a2")
        await side.piece(0, b"the last bytes")

    asyncio.run(main())


def test_a_seal_that_lands_during_salvage_is_not_sealed_twice() -> None:
    """Facts are gathered anew after a conflict: what was sealed meanwhile is no leftover."""

    async def main() -> None:
        side = CommandSide()
        other = side.process()
        await side.start()
        await side.pieces(b"abcdef", [3])
        await other.histories.load(SID)

        async def seal_first() -> None:
            await side.seal(b"abcdef")

        # The sealed chunk's own piece is published by the hook as well: an exact duplicate in offset.
        other.faults.before_next("fence", seal_first)
        accepted = await other.ask(cmd.Attach(recorder="r2", takeover=True), id="a2")
        assert (accepted.offset, accepted.next_index) == (6, 1)
        assert (await side.types()).count("chunk.sealed") == 1

    asyncio.run(main())
