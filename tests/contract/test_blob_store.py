"""The promises of `BlobStore`."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from lucid_events.errors import IntegrityError, NotFound, VersionConflict
from lucid_events.subjects import object_pieces, object_stream
from tests.contract.bundle import Ports, Run, sha256

NAME = "s1/00000000-0123456789abcdef"
DATA = bytes(range(256)) * 12_000  # 3 MB: several pieces, whatever their size


async def orphans(ports: Ports) -> list[str]:
    """Return the nuids of pieces without metadata."""
    return [orphan.nuid for orphan in await ports.blobs.sweep(older_than_s=0, dry_run=True)]


async def pieces(ports: Ports, nuid: str) -> list[int]:
    """Return the sequences of an object's pieces."""
    bucket = ports.blobs.bucket
    return await ports.sequences(object_stream(bucket), object_pieces(bucket, nuid))


@pytest.mark.parametrize("data", [b"", b"x", DATA], ids=["empty", "byte", "pieces"])
def test_an_object_is_read_as_put(run: Run, data: bytes) -> None:
    """A stored object comes back byte for byte, whole and piece by piece, with its metadata."""

    @run
    async def _(ports: Ports) -> None:
        info, made = await ports.blobs.put(NAME, data, metadata={"codec": "gzip", "raw": "1"})
        assert made
        assert (info.name, info.bucket, info.size) == (NAME, ports.blobs.bucket, len(data))
        assert info.digest == sha256(data)
        assert info.metadata == {"codec": "gzip", "raw": "1"}
        assert await ports.blobs.get(NAME) == data
        assert b"".join([piece async for piece in ports.blobs.stream(NAME)]) == data
        found = await ports.blobs.info(NAME)
        assert found is not None
        assert (found.nuid, found.pieces, found.metadata) == (info.nuid, info.pieces, info.metadata)
        assert found.modified is not None
        assert abs(datetime.now(UTC) - found.modified) < timedelta(minutes=5)
        assert len(await pieces(ports, info.nuid)) == info.pieces


def test_a_name_is_written_once(run: Run) -> None:
    """A second put under a name changes nothing and returns the first writer's object."""

    @run
    async def _(ports: Ports) -> None:
        first, made = await ports.blobs.put(NAME, b"first", metadata={"codec": "gzip"})
        second, again = await ports.blobs.put(NAME, b"second, longer", metadata={"codec": "zstd"})
        assert (made, again) == (True, False)
        assert (second.nuid, second.digest, second.metadata) == (
            first.nuid,
            sha256(b"first"),
            {"codec": "gzip"},
        )
        assert await ports.blobs.get(NAME) == b"first"
        assert await orphans(ports) == []


def test_of_racing_puts_one_wins(run: Run) -> None:
    """Of puts that race on a name one makes the object; the others return it and leave no pieces behind."""

    @run
    async def _(ports: Ports) -> None:
        bodies = [bytes([i]) * 300_000 for i in range(5)]
        outcomes = await asyncio.gather(*(ports.blobs.put(NAME, body, metadata={}) for body in bodies))
        winners = [info for info, made in outcomes if made]
        assert len(winners) == 1
        assert {info.nuid for info, _ in outcomes} == {winners[0].nuid}
        assert {info.digest for info, _ in outcomes} == {winners[0].digest}
        assert sha256(await ports.blobs.get(NAME)) == winners[0].digest
        assert await orphans(ports) == []


def test_ranges(run: Run) -> None:
    """A range is cut as a slice cuts bytes: `start` included, `end` excluded, clipped to the object."""

    @run
    async def _(ports: Ports) -> None:
        await ports.blobs.put(NAME, DATA, metadata={})
        size = len(DATA)
        for start, end in [
            (0, 1),
            (0, size),
            (1, None),
            (size - 1, None),
            (131_071, 131_073),
            (1_048_575, 2_097_153),
            (5, 5),
            (100, size + 100),
            (size, None),
        ]:
            assert await ports.blobs.get(NAME, start=start, end=end) == DATA[start:end], (start, end)


def test_an_absent_object(run: Run) -> None:
    """What was never put has no metadata, can't be read, and deleting it is nothing."""

    @run
    async def _(ports: Ports) -> None:
        assert await ports.blobs.info(NAME) is None
        with pytest.raises(NotFound):
            await ports.blobs.get(NAME)
        with pytest.raises(NotFound):
            _ = [piece async for piece in ports.blobs.stream(NAME)]
        assert await ports.blobs.delete(NAME) is False


def test_a_deleted_object_is_gone(run: Run) -> None:
    """A deleted object and its pieces are gone; its name may be put again."""

    @run
    async def _(ports: Ports) -> None:
        info, _ = await ports.blobs.put(NAME, b"first", metadata={})
        assert await ports.blobs.delete(NAME) is True
        assert await ports.blobs.delete(NAME) is False
        assert await ports.blobs.info(NAME) is None
        assert await pieces(ports, info.nuid) == []
        with pytest.raises(NotFound):
            await ports.blobs.get(NAME)
        assert [info async for info in ports.blobs.names()] == []
        again, made = await ports.blobs.put(NAME, b"second", metadata={})
        assert made
        assert again.nuid != info.nuid
        assert await ports.blobs.get(NAME) == b"second"


def test_a_missing_piece_is_noticed(run: Run) -> None:
    """An object that lost a piece is an error to read, never shorter bytes."""

    @run
    async def _(ports: Ports) -> None:
        info, _ = await ports.blobs.put(NAME, DATA, metadata={})
        stream = object_stream(ports.blobs.bucket)
        await ports.delete(stream, (await pieces(ports, info.nuid))[1])
        with pytest.raises(IntegrityError):
            await ports.blobs.get(NAME)
        with pytest.raises(IntegrityError):
            _ = [piece async for piece in ports.blobs.stream(NAME)]
        with pytest.raises(IntegrityError):
            await ports.blobs.get(NAME, start=len(DATA) - 10)


def test_changed_bytes_are_noticed(run: Run) -> None:
    """An object whose bytes differ from its digest is an error to read, even when the size is right."""

    @run
    async def _(ports: Ports) -> None:
        info, _ = await ports.blobs.put(NAME, b"the true bytes", metadata={})
        (sequence,) = await pieces(ports, info.nuid)
        await ports.delete(object_stream(ports.blobs.bucket), sequence)
        await ports.publish(object_pieces(ports.blobs.bucket, info.nuid), b"the fake bytes")
        with pytest.raises(IntegrityError):
            await ports.blobs.get(NAME)
        with pytest.raises(IntegrityError):
            _ = [piece async for piece in ports.blobs.stream(NAME)]


def test_an_unverified_stream_yields_what_is_there(run: Run) -> None:
    """Unverified, changed bytes and a piece too many are handed out; a piece too few is an error."""

    @run
    async def _(ports: Ports) -> None:
        async def read() -> bytes:
            return b"".join([piece async for piece in ports.blobs.stream(NAME, verify=False)])

        info, _ = await ports.blobs.put(NAME, DATA, metadata={})
        stream, subject = object_stream(ports.blobs.bucket), object_pieces(ports.blobs.bucket, info.nuid)
        assert await read() == DATA
        await ports.publish(subject, b"more")
        assert await read() == DATA + b"more"
        found = await pieces(ports, info.nuid)
        await ports.delete(stream, found[0])
        assert await read() != DATA
        for sequence in found[1:-1]:
            await ports.delete(stream, sequence)
        with pytest.raises(IntegrityError):
            await read()


def test_a_damaged_object_is_replaced(run: Run) -> None:
    """Replacing a damaged object puts the new bytes under its name and removes the old pieces."""

    @run
    async def _(ports: Ports) -> None:
        old, _ = await ports.blobs.put(NAME, b"damaged", metadata={})
        new = await ports.blobs.replace(NAME, b"whole again", metadata={"codec": "store"}, damaged=old)
        assert new.nuid != old.nuid
        assert await ports.blobs.get(NAME) == b"whole again"
        info = await ports.blobs.info(NAME)
        assert info is not None
        assert (info.nuid, info.metadata) == (new.nuid, {"codec": "store"})
        assert await pieces(ports, old.nuid) == []
        assert await orphans(ports) == []


def test_a_replacement_is_guarded(run: Run) -> None:
    """Replacing what has changed since it was looked at is a conflict and leaves nothing behind."""

    @run
    async def _(ports: Ports) -> None:
        old, _ = await ports.blobs.put(NAME, b"one", metadata={})
        await ports.blobs.replace(NAME, b"two", metadata={}, damaged=old)
        with pytest.raises(VersionConflict):
            await ports.blobs.replace(NAME, b"three", metadata={}, damaged=old)
        with pytest.raises(VersionConflict):
            await ports.blobs.replace(NAME, b"three", metadata={}, damaged=None)
        assert await ports.blobs.get(NAME) == b"two"
        assert await orphans(ports) == []


def test_a_deleted_object_is_replaced(run: Run) -> None:
    """A deleted name is replaced by saying that nothing was seen under it."""

    @run
    async def _(ports: Ports) -> None:
        await ports.blobs.put(NAME, b"one", metadata={})
        await ports.blobs.delete(NAME)
        await ports.blobs.replace(NAME, b"two", metadata={}, damaged=None)
        assert await ports.blobs.get(NAME) == b"two"


def test_names_are_listed_by_prefix_oldest_first(run: Run) -> None:
    """Listing yields the live objects under a prefix in the order they were put."""

    @run
    async def _(ports: Ports) -> None:
        for name in ("s1/b", "s2/a", "s1/a", "s1/c", "s10/a"):
            await ports.blobs.put(name, name.encode(), metadata={"n": name})
        await ports.blobs.delete("s1/b")
        assert [info.name async for info in ports.blobs.names("s1/")] == ["s1/a", "s1/c"]
        found = [info async for info in ports.blobs.names()]
        assert [info.name for info in found] == ["s2/a", "s1/a", "s1/c", "s10/a"]
        assert found[0].metadata == {"n": "s2/a"}
        assert [info async for info in ports.blobs.names("s3/")] == []


def test_a_sweep_finds_pieces_without_metadata(run: Run) -> None:
    """A sweep reports and removes pieces without metadata, and touches no object."""

    @run
    async def _(ports: Ports) -> None:
        info, _ = await ports.blobs.put(NAME, DATA, metadata={})
        subject = object_pieces(ports.blobs.bucket, "ORPHAN0000000000000000")
        for _ in range(3):
            await ports.publish(subject, b"left behind")
        (seen,) = await ports.blobs.sweep(older_than_s=0, dry_run=True)
        assert (seen.nuid, seen.pieces) == ("ORPHAN0000000000000000", 3)
        assert abs(datetime.now(UTC) - seen.newest) < timedelta(minutes=5)
        assert len(await pieces(ports, seen.nuid)) == 3
        (swept,) = await ports.blobs.sweep(older_than_s=0, dry_run=False)
        assert swept == seen
        assert await pieces(ports, seen.nuid) == []
        assert await ports.blobs.sweep(older_than_s=0, dry_run=False) == []
        assert await ports.blobs.get(NAME) == DATA
        assert len(await pieces(ports, info.nuid)) == info.pieces


def test_a_sweep_spares_the_young(run: Run) -> None:
    """Pieces younger than the grace period are left alone: their writer may still come."""

    @run
    async def _(ports: Ports) -> None:
        await ports.publish(object_pieces(ports.blobs.bucket, "YOUNG00000000000000000"), b"in flight")
        assert await ports.blobs.sweep(older_than_s=3600, dry_run=False) == []
        assert len(await pieces(ports, "YOUNG00000000000000000")) == 1
