import asyncio
import hashlib
import itertools
import logging
import random

import pytest

from lucid_events.domain import commands as cmd
from lucid_events.domain import events as ev
from lucid_events.domain.chunks import assemble
from lucid_events.domain.legality import violations
from lucid_events.domain.outside import Leftover, Salvage
from lucid_events.domain.values import SettingsAsked
from lucid_events.errors import Fenced, StoreFull, StoreUnavailable
from lucid_events.handlers.salvage import Salvager
from tests.unit.handlers.command_side import SID, CommandSide

CHUNK = bytes(range(256)) * 8


def sha(data: bytes) -> str:
    """SHA-256 as digits."""
    return hashlib.sha256(data).hexdigest()


async def salvaged(side: CommandSide) -> Salvage:
    """What the epoch left, as the rules would be told."""
    history = await side.histories.refresh(SID)
    return await Salvager(side.capture, side.clock).salvage(history.state, 1)


async def bytes_of(side: CommandSide, left: Leftover) -> bytes:
    """The leftover's bytes, read the way the chunk handler reads them."""
    reading = side.capture.read(SID, epoch=1, n=left.n, first_seq=left.first_seq, last_seq=left.last_seq)
    return assemble([piece async for piece in reading], left.offset, left.size).data


def test_an_epoch_that_left_nothing_is_fenced_all_the_same() -> None:
    """No bytes, no leftovers; and none can come later."""

    async def main() -> None:
        side = CommandSide()
        await side.start()
        assert await salvaged(side) == Salvage(epoch=1)
        with pytest.raises(Fenced):
            await side.piece(0, b"too late")

    asyncio.run(main())


def test_the_fence_stands_before_anything_is_read() -> None:
    """A piece acked until the last fence is salvaged; after it none is acked."""

    async def main() -> None:
        side = CommandSide()
        await side.start()

        async def just_before() -> None:
            await side.piece(0, CHUNK)

        side.faults.before_next("fence", just_before)
        (left,) = (await salvaged(side)).leftovers
        assert (left.offset, left.size, left.sha256) == (0, len(CHUNK), sha(CHUNK))

    asyncio.run(main())


def test_the_fence_is_tried_until_it_is_stored() -> None:
    """A server that is busy or full for a moment does not leave an epoch open."""

    async def main() -> None:
        side = CommandSide()
        await side.start()
        side.faults.fail_next("fence", StoreFull("full (injected)"), times=3)
        await salvaged(side)
        side.faults.fail_next("fence", times=100)
        with pytest.raises(StoreUnavailable):
            await salvaged(side)

    asyncio.run(main())


def test_every_order_of_resent_pieces_gives_the_same_leftover() -> None:
    """Duplicates are dropped, a hole that was resent late is filled, and the digest is the source's."""

    async def main() -> None:
        cuts = [0, 500, 1000, 1700, len(CHUNK)]
        bounds = list(itertools.pairwise(cuts))
        for order in itertools.permutations(range(4)):
            side = CommandSide()
            await side.start()
            for i in (*order, order[0], order[2]):
                a, b = bounds[i]
                await side.piece(a, CHUNK[a:b], before=CHUNK[:a])
            (left,) = (await salvaged(side)).leftovers
            assert (left.offset, left.size, left.sha256) == (0, len(CHUNK), sha(CHUNK))
            assert await bytes_of(side, left) == CHUNK

    asyncio.run(main())


def test_a_hole_cuts_and_both_sides_are_kept() -> None:
    """What never arrived is a gap; the bytes after it are sealed as a chunk of their own."""

    async def main() -> None:
        side = CommandSide()
        await side.start()
        await side.piece(0, CHUNK[:500])
        await side.piece(1000, CHUNK[1000:], before=CHUNK[:1000])
        first, second = (await salvaged(side)).leftovers
        assert (first.offset, first.size, first.sha256) == (0, 500, sha(CHUNK[:500]))
        assert (second.offset, second.size, second.sha256) == (1000, len(CHUNK) - 1000, sha(CHUNK[1000:]))
        await side.ask(cmd.Fail(reason="gone"), id="f1")
        assert (await side.types())[-5:] == [
            "recorder.lost",
            "chunk.sealed",
            "gap.declared",
            "chunk.sealed",
            "session.failed",
        ]

    asyncio.run(main())


def test_purging_one_leftover_spares_the_other_of_its_subject() -> None:
    """Runs of one subject share their range, in any order of storing, so only the last one purges."""

    async def main() -> None:
        side = CommandSide()
        await side.start()
        await side.piece(1000, CHUNK[1000:], before=CHUNK[:1000])
        await side.piece(0, CHUNK[:500])
        first, second = (await salvaged(side)).leftovers
        assert (first.first_seq, first.last_seq) == (second.first_seq, second.last_seq)
        assert await bytes_of(side, first) == CHUNK[:500]
        assert await bytes_of(side, second) == CHUNK[1000:]

    asyncio.run(main())


def test_only_what_lies_behind_the_sealed_bytes_is_left() -> None:
    """Sealed chunks are not salvaged again; unsealed ones come in the order of their offsets."""

    async def main() -> None:
        side = CommandSide()
        await side.start()
        await side.seal(CHUNK)
        await side.pieces(CHUNK, [700], offset=len(CHUNK), n=1)
        await side.pieces(CHUNK[:100], [], offset=2 * len(CHUNK), n=2)
        lefts = (await salvaged(side)).leftovers
        assert [(left.n, left.offset, left.size) for left in lefts] == [
            (1, len(CHUNK), len(CHUNK)),
            (2, 2 * len(CHUNK), 100),
        ]

    asyncio.run(main())


def test_a_chunk_that_is_empty_does_not_hide_the_next() -> None:
    """All pieces of one chunk lost, the next one there: it is found, with a hole before it."""

    async def main() -> None:
        side = CommandSide()
        await side.start()
        await side.pieces(CHUNK, [], offset=5 * len(CHUNK), n=5)
        (left,) = (await salvaged(side)).leftovers
        assert (left.n, left.offset) == (5, 5 * len(CHUNK))

    asyncio.run(main())


def test_bytes_that_do_not_bear_out_their_digest_are_left_out_and_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What can be proven is sealed; the rest is an error in the log and a named gap in the history."""

    async def main() -> None:
        side = CommandSide()
        await side.start()
        await side.piece(0, CHUNK[:500])
        await side.piece(500, b"X" * 500, sha256=sha(CHUNK[:1000]))
        await side.piece(1000, CHUNK[1000:], before=CHUNK[:1000])
        salvage = await salvaged(side)
        (left,) = salvage.leftovers
        assert (left.offset, left.size, left.sha256) == (0, 500, sha(CHUNK[:500]))
        await side.ask(cmd.Fail(), id="f1")
        (gap,) = [e.event for e in await side.events() if isinstance(e.event, ev.GapDeclared)]
        assert (gap.start, gap.end) == (500, len(CHUNK))
        assert "digest" in gap.reason
        assert (await side.histories.load(SID)).state.offset == len(CHUNK)
        assert list(violations(await side.events())) == []

    with caplog.at_level(logging.ERROR, logger="lucid_events"):
        asyncio.run(main())
    assert "left out of salvage" in caplog.text


def test_a_recorder_that_takes_over_goes_on_behind_what_is_unproven() -> None:
    """The new epoch begins where the named gap ends, so no byte offset means two things."""

    async def main() -> None:
        side = CommandSide()
        await side.start()
        await side.piece(0, CHUNK, sha256="0" * 64)
        accepted = await side.ask(cmd.Attach(recorder="r2", takeover=True), id="a2")
        assert (accepted.offset, accepted.next_index) == (len(CHUNK), 0)
        attached = (await side.events())[-1].event
        assert isinstance(attached, ev.RecorderAttached)
        assert attached.offset == len(CHUNK)
        assert list(violations(await side.events())) == []

    asyncio.run(main())


def test_a_wrong_running_digest_in_between_is_outweighed_by_the_last() -> None:
    """When the last piece's digest covers everything, everything is proven."""

    async def main() -> None:
        side = CommandSide()
        await side.start()
        await side.piece(0, CHUNK[:500])
        await side.piece(500, CHUNK[500:1000], sha256="0" * 64)
        await side.piece(1000, CHUNK[1000:], before=CHUNK[:1000])
        (left,) = (await salvaged(side)).leftovers
        assert left.sha256 == sha(CHUNK)

    asyncio.run(main())


def test_bytes_before_the_sealed_offset_are_clipped() -> None:
    """A piece that straddles a declared gap contributes what lies behind it, and nothing twice."""

    async def main() -> None:
        side = CommandSide()
        await side.start()
        await side.piece(0, CHUNK)
        await side.ask(cmd.Gap(epoch=1, start=0, end=100, reason="test"), id="g1")
        (left,) = (await salvaged(side)).leftovers
        assert (left.offset, left.size, left.sha256) == (100, len(CHUNK) - 100, sha(CHUNK[100:]))
        assert await bytes_of(side, left) == CHUNK[100:]

    asyncio.run(main())


def test_one_subject_can_not_fill_the_memory() -> None:
    """More than a chunk's bytes under one number are not taken in, and named."""

    async def main() -> None:
        side = CommandSide()
        await side.start(SettingsAsked(chunk_bytes=1024))
        data = random.Random(7).randbytes(5000)
        await side.pieces(data, range(500, 5000, 500))
        salvage = await salvaged(side)
        assert sum(left.size for left in salvage.leftovers) <= 1024
        assert max(span.end for span in salvage.unproven) == 5000

    asyncio.run(main())


def test_messages_that_are_no_pieces_do_not_keep_a_session_from_ending() -> None:
    """What a port can't read as a piece is passed over once it is clear that it is no lag."""

    async def main() -> None:
        side = CommandSide()
        await side.start()
        await side.piece(0, CHUNK)
        count = side.capture.count

        async def one_more(*args: object, **kwargs: object) -> int:
            return 1 + await count(*args, **kwargs)  # type: ignore[arg-type] # passed through

        side.capture.count = one_more  # type: ignore[method-assign] # counts what can't be read
        (left,) = (await salvaged(side)).leftovers
        assert left.size == len(CHUNK)

    asyncio.run(main())
