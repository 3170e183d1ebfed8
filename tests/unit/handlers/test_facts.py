import asyncio
import hashlib
import logging

import pytest

from lucid_events.domain import commands as cmd
from lucid_events.domain.decisions import Needs
from lucid_events.domain.ids import CommandId, Digest, SessionId
from lucid_events.domain.outside import CaptureTail
from lucid_events.domain.values import Manifest, Quality, Span
from lucid_events.errors import VersionConflict
from lucid_events.evidence.merkle import MerkleTree
from lucid_events.handlers import facts as facts_module
from lucid_events.handlers.facts import Facts
from tests.unit.handlers.command_side import SID, CommandSide

SIZE = 1000


def chunk(index: int) -> bytes:
    """The bytes of the chunk at `index`."""
    return index.to_bytes(2, "big") * (SIZE // 2)


def sha(data: bytes) -> str:
    """SHA-256 as digits."""
    return hashlib.sha256(data).hexdigest()


async def ready(side: CommandSide, index: int, offset: int, codec: str = "gzip") -> None:
    """Say that the chunk is stored."""
    stored = cmd.ChunkStored(
        index=index,
        offset=offset,
        size=SIZE,
        stored_size=100,
        sha256=sha(chunk(index)),
        stored_sha256="0" * 64,
        codec=codec,
        level=None,
        ratio=10.0,
        quality=Quality(score=1.0, complete=1.0),
        hash_by="recorder",
        bucket="b",
        object="o",
    )
    await side.handler.append_internal(SID, stored, cause=f"stored-{index}", reaction="chunks")


async def stopping_with(side: CommandSide, chunks: int, order: list[int]) -> None:
    """Bring a session of `chunks` sealed ones, stored in `order`, to where its manifest is due."""
    await side.start()
    for index in range(chunks):
        await side.seal(chunk(index), offset=index * SIZE, n=index)
    for index in order:
        await ready(side, index, index * SIZE, codec="gzip" if index % 2 else "store")
    await side.ask(cmd.Stop(), id="stop")
    await side.ask(cmd.Detach(epoch=1, offset=chunks * SIZE), id="detach")


async def finished(side: CommandSide) -> Manifest:
    """Ask for the manifest on behalf of the last event; returns it."""
    cause = (await side.events())[-1].id
    await side.handler.append_internal(SID, cmd.Finish(), cause=cause, reaction="finaliser")
    manifest = (await side.histories.refresh(SID)).state.manifest
    assert manifest is not None
    return manifest


def test_a_manifest_does_not_depend_on_the_order_chunks_became_ready_in() -> None:
    """Leaves are by index, sums are complete, and the chain ends at the event before the manifest."""

    async def main() -> None:
        side = CommandSide()
        await stopping_with(side, 5, [3, 0, 4, 2, 1])
        events = await side.events()
        manifest = await finished(side)
        tree = MerkleTree()
        for index in range(5):
            tree.add(Digest(sha(chunk(index))))
        assert manifest.merkle_root == tree.root
        assert (manifest.chunks, manifest.raw_bytes, manifest.stored_bytes) == (5, 5 * SIZE, 500)
        assert (manifest.end_offset, manifest.version) == (5 * SIZE, 1)
        assert (manifest.chain_head, manifest.events) == (events[-1].digest, len(events))
        assert {name: totals.chunks for name, totals in manifest.codecs.items()} == {"gzip": 2, "store": 3}

    asyncio.run(main())


def test_a_failed_chunk_is_named_and_is_no_leaf_until_it_is_redriven() -> None:
    """The manifest says which chunks failed; the next version has them once they are stored."""

    async def main() -> None:
        side = CommandSide()
        await stopping_with(side, 3, [0, 2])
        refused = cmd.ChunkRefused(index=1, code="wrong")
        await side.handler.append_internal(SID, refused, cause="x", reaction="chunks")
        first = await finished(side)
        assert (first.failed, first.chunks) == ((1,), 2)
        await ready(side, 1, SIZE)
        second = await finished(side)
        assert (second.failed, second.chunks, second.version) == ((), 3, 2)
        tree = MerkleTree()
        for index in range(3):
            tree.add(Digest(sha(chunk(index))))
        assert second.merkle_root == tree.root

    asyncio.run(main())


def test_gaps_are_merged_capped_and_all_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Adjacent gaps are one; beyond the cap they are counted in bytes only."""
    monkeypatch.setattr(facts_module, "MAX_GAPS", 2)

    async def main() -> None:
        side = CommandSide()
        await side.start()
        for number, (start, end) in enumerate([(0, 10), (10, 20)]):
            await side.ask(cmd.Gap(epoch=1, start=start, end=end, reason="test"), id=f"g{number}")
        offset = 20
        for n in range(3):
            await side.seal(chunk(n), offset=offset, n=n)
            await ready(side, n, offset)
            offset += SIZE + 5
            await side.ask(cmd.Gap(epoch=1, start=offset - 5, end=offset, reason="test"), id=f"h{n}")
        await side.ask(cmd.Stop(), id="stop")
        await side.ask(cmd.Detach(epoch=1, offset=offset), id="detach")
        manifest = await finished(side)
        assert manifest.gaps == (Span(start=0, end=20), Span(start=1020, end=1025))
        assert manifest.gap_bytes == 35

    asyncio.run(main())


def test_a_manifest_is_made_for_the_version_decided_on() -> None:
    """An event that comes between reading and appending makes it be made again."""

    async def main() -> None:
        side = CommandSide()
        await stopping_with(side, 1, [0])
        other = side.process()
        stale = await other.histories.load(SID)

        async def mark_first() -> None:
            await side.ask(cmd.Mark(label="late"), id="m1")

        other.faults.before_next("append", mark_first)
        manifest = await finished(other)
        events = await side.events()
        assert events[-2].type == "session.marked.v1"
        assert manifest.chain_head == events[-2].digest
        side.server.stream(side.subjects.events_stream).remove([stale.version])
        with pytest.raises(VersionConflict):
            await other.facts.manifest(stale)

    asyncio.run(main())


def test_a_broken_chain_does_not_keep_a_session_from_its_manifest(caplog: pytest.LogCaptureFixture) -> None:
    """A damaged session can be stopped; the log says what is wrong with its history."""

    async def main() -> None:
        side = CommandSide()
        await side.start()
        marked = await side.ask(cmd.Mark(label="lost"), id="m1")
        await side.ask(cmd.Stop(), id="stop")
        await side.ask(cmd.Detach(epoch=1, offset=0), id="detach")
        side.server.stream(side.subjects.events_stream).remove([marked.version])
        assert (await finished(side.process())).chunks == 0

    with caplog.at_level(logging.ERROR, logger="lucid_events"):
        asyncio.run(main())
    assert "manifest is made of a damaged history" in caplog.text


def test_a_manifest_is_signed_as_it_is_stored() -> None:
    """What the signer saw is what the event says, version included."""
    seen: list[Manifest] = []

    def sign(session: SessionId, manifest: Manifest) -> Manifest:
        assert session == SID
        seen.append(manifest)
        return manifest

    async def main() -> None:
        side = CommandSide()
        await stopping_with(side, 1, [0])
        signing = Facts(side.store, side.capture, side.beats, side.clock, beat_interval_s=5, sign=sign)
        side.handler._facts = signing  # the rig has no key
        assert await finished(side) == seen[-1]

    asyncio.run(main())


def test_a_tail_is_told_as_it_stands_in_capture() -> None:
    """The piece at a sequence, where it ends and what its digest is; or that there is none."""

    async def main() -> None:
        side = CommandSide()
        await side.start()
        sequence = await side.piece(0, b"abc", n=2)
        asked = cmd.Asked(
            session=SID,
            id=CommandId("c"),
            command=cmd.Start(),
            at=side.clock.now(),
            issued_at=side.clock.now(),
            actor="",
        )
        history = await side.histories.load(SID)
        found = await side.facts.gather(Needs(tail=sequence), asked, history)
        assert found.tail == CaptureTail(found=True, epoch=1, n=2, end=3, sha256=sha(b"abc"))
        gone = await side.facts.gather(Needs(tail=99), asked, history)
        assert gone.tail == CaptureTail(found=False)

    asyncio.run(main())
