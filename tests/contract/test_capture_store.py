"""The promises of `CaptureStore`."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from lucid_events.errors import Fenced, StoreFull
from lucid_events.ports import CapturePiece
from lucid_events.subjects import BALLAST_PARTS, FENCES
from tests.contract.bundle import OTHER, SID, Ports, Run, eventually, sha256

PROMPT_S = 10.0
"""A fence that waits for room would take 30 s and fail."""


async def put(ports: Ports, offset: int, data: bytes, *, epoch: int = 1, n: int = 0) -> int:
    """Publish one piece to `SID`."""
    ack = await ports.capture.publish(SID, epoch=epoch, n=n, offset=offset, data=data, sha256=sha256(data))
    return ack.sequence


async def pieces(
    ports: Ports, *, epoch: int = 1, n: int | None = None, first: int = 1, last: int | None = None
) -> list[CapturePiece]:
    """Read an epoch or a chunk of `SID`."""
    found = ports.capture.read(SID, epoch=epoch, n=n, first_seq=first, last_seq=last)
    return [piece async for piece in found]


def test_a_piece_is_read_as_published(run: Run) -> None:
    """A stored piece comes back with its place, bytes, digest, sequence and time."""

    @run
    async def _(ports: Ports) -> None:
        sequence = await put(ports, 4096, b"\x00\xffbytes\r\n", epoch=3, n=7)
        (piece,) = await pieces(ports, epoch=3, n=7)
        assert (piece.epoch, piece.n, piece.offset, piece.data) == (3, 7, 4096, b"\x00\xffbytes\r\n")
        assert (piece.sha256, piece.sequence) == (sha256(b"\x00\xffbytes\r\n"), sequence)
        assert abs(datetime.now(UTC) - piece.stored_at) < timedelta(minutes=5)


def test_the_order_of_calls_is_the_order_of_sends(run: Run) -> None:
    """Pipelined publishes are stored in the order they were called in."""

    @run
    async def _(ports: Ports) -> None:
        sequences = await asyncio.gather(*(put(ports, 10 * i, b"x" * 10) for i in range(50)))
        assert sequences == sorted(sequences)
        assert [piece.offset for piece in await pieces(ports, n=0)] == [10 * i for i in range(50)]


def test_the_largest_piece_fits(run: Run) -> None:
    """A piece of `max_piece_bytes` is accepted."""

    @run
    async def _(ports: Ports) -> None:
        data = b"z" * ports.capture.max_piece_bytes
        await put(ports, 0, data)
        assert [piece.data for piece in await pieces(ports)] == [data]


def test_a_fence_closes_its_epoch(run: Run) -> None:
    """After a fence no publish of the epoch is stored, not one of many at once; what was stored stays."""

    @run
    async def _(ports: Ports) -> None:
        await put(ports, 0, b"kept")
        await ports.capture.fence(SID, epoch=1)
        late = await asyncio.gather(
            *(put(ports, 4 + i, b"l") for i in range(2 * FENCES)), return_exceptions=True
        )
        assert {type(outcome) for outcome in late} == {Fenced}
        assert [piece.data for piece in await pieces(ports)] == [b"kept"]


def test_a_fence_touches_no_other_epoch_or_session(run: Run) -> None:
    """A fence of one epoch lets the next epoch and other sessions write, and may be repeated."""

    @run
    async def _(ports: Ports) -> None:
        await ports.capture.fence(SID, epoch=1)
        await ports.capture.fence(SID, epoch=1)
        await put(ports, 0, b"a", epoch=2)
        await ports.capture.publish(OTHER, epoch=1, n=0, offset=0, data=b"b", sha256=sha256(b"b"))
        with pytest.raises(Fenced):
            await put(ports, 0, b"c", epoch=1)


def test_fences_are_not_bytes(run: Run) -> None:
    """A fence is no piece: it is not read, counted, dated or purged."""

    @run
    async def _(ports: Ports) -> None:
        await ports.capture.fence(SID, epoch=1)
        await ports.capture.fence(SID, epoch=1)
        fences = await ports.sequences(ports.subjects.capture_stream, f"{ports.subjects.prefix}.cap.>")
        assert len(fences) == FENCES
        assert await pieces(ports) == []
        assert await ports.capture.count(SID, epoch=1, n=0) == 0
        assert await ports.capture.last_time(SID, epoch=1) is None
        assert await ports.capture.tail(SID, fences[0]) is None
        assert await ports.capture.erase(SID) == 0


def test_what_is_no_piece_is_left_out(run: Run) -> None:
    """A message without the headers of a piece, or with other bytes than they say, is not read."""

    @run
    async def _(ports: Ports) -> None:
        await put(ports, 0, b"a")
        subject = ports.subjects.capture(SID, 1, 0)
        await ports.publish(subject, b"forged")
        headers = {"Lucid-Offset": "1", "Lucid-Length": "3", "Lucid-Sha256": sha256(b"b")}
        await ports.publish(subject, b"b", headers)
        await ports.publish(subject, b"bbb", {**headers, "Lucid-Offset": "x"})
        await put(ports, 1, b"c")
        assert [piece.data for piece in await pieces(ports)] == [b"a", b"c"]
        assert await ports.capture.tail(SID, 2) is None


def test_duplicates_are_yielded(run: Run) -> None:
    """A piece sent again is stored and read again: the reader drops exact duplicates, not the store."""

    @run
    async def _(ports: Ports) -> None:
        for offset, data in [(0, b"aa"), (2, b"bb"), (0, b"aa"), (1, b"late")]:
            await put(ports, offset, data)
        assert [(p.offset, p.data) for p in await pieces(ports, n=0)] == [
            (0, b"aa"),
            (2, b"bb"),
            (0, b"aa"),
            (1, b"late"),
        ]


def test_reading_takes_a_chunk_or_an_epoch_between_sequences(run: Run) -> None:
    """A read is bounded by epoch, by chunk, and by first and last sequence, both included."""

    @run
    async def _(ports: Ports) -> None:
        a = await put(ports, 0, b"a", n=0)
        b = await put(ports, 1, b"b", n=1)
        c = await put(ports, 2, b"c", n=0)
        await put(ports, 3, b"d", epoch=2, n=0)
        e = await put(ports, 4, b"e", n=10)

        async def data(**bounds: int) -> bytes:
            return b"".join(piece.data for piece in await pieces(ports, **bounds))

        assert await data() == b"abce"
        assert await data(n=0) == b"ac"
        assert await data(n=1) == b"b"
        assert await data(epoch=2) == b"d"
        assert await data(first=b) == b"bce"
        assert await data(first=a + 1, last=c) == b"bc"
        assert await data(n=0, first=a, last=a) == b"a"
        assert await data(n=1, first=c, last=e) == b""
        assert await data(epoch=9) == b""


def test_many_pieces_are_read_whole(run: Run) -> None:
    """A chunk of many pages is yielded once each, in order."""

    @run
    async def _(ports: Ports) -> None:
        await asyncio.gather(*(put(ports, i * 1500, bytes([i % 251]) * 1500) for i in range(1200)))

        async def whole() -> bool:
            # A replica may answer that lags behind the acknowledgements: who needs all counts at the leader.
            return len(await pieces(ports, n=0)) == await ports.capture.count(SID, epoch=1, n=0)

        await eventually(whole)
        found = await pieces(ports, n=0)
        assert [piece.offset for piece in found] == [i * 1500 for i in range(1200)]
        assert all(piece.data == bytes([i % 251]) * 1500 for i, piece in enumerate(found))


def test_the_tail_is_one_session_s_piece(run: Run) -> None:
    """The piece at a sequence is returned only while it stands, and only to its session."""

    @run
    async def _(ports: Ports) -> None:
        sequence = await put(ports, 5, b"tail", epoch=2, n=3)
        piece = await ports.capture.tail(SID, sequence)
        assert piece is not None
        assert (piece.epoch, piece.n, piece.offset, piece.data) == (2, 3, 5, b"tail")
        assert await ports.capture.tail(OTHER, sequence) is None
        assert await ports.capture.tail(SID, sequence + 1) is None
        await ports.capture.purge(SID, epoch=2, n=3, upto_seq=sequence)
        assert await ports.capture.tail(SID, sequence) is None


def test_the_last_time_is_the_newest_piece_s(run: Run) -> None:
    """The epoch's last time is when its newest piece was stored, over all its chunks."""

    @run
    async def _(ports: Ports) -> None:
        assert await ports.capture.last_time(SID, epoch=1) is None
        await put(ports, 0, b"a", n=1)
        await put(ports, 1, b"b", n=0)
        await put(ports, 2, b"c", epoch=2)
        newest = (await pieces(ports, n=0))[-1].stored_at
        assert await ports.capture.last_time(SID, epoch=1) == newest


def test_a_purge_ends_at_its_sequence(run: Run) -> None:
    """A purge deletes the chunk's pieces up to and including the sequence, and nothing else."""

    @run
    async def _(ports: Ports) -> None:
        await put(ports, 0, b"a", n=0)
        await put(ports, 1, b"b", n=1)
        c = await put(ports, 2, b"c", n=0)
        await put(ports, 3, b"d", n=0)
        await put(ports, 4, b"e", epoch=2, n=0)
        await ports.capture.publish(OTHER, epoch=1, n=0, offset=0, data=b"o", sha256=sha256(b"o"))
        assert await ports.capture.count(SID, epoch=1, n=0) == 3
        assert await ports.capture.purge(SID, epoch=1, n=0, upto_seq=c) == 2
        assert await ports.capture.count(SID, epoch=1, n=0) == 1
        assert [p.data for p in await pieces(ports)] == [b"b", b"d"]
        assert [p.data for p in await pieces(ports, epoch=2)] == [b"e"]
        assert await ports.capture.count(OTHER, epoch=1, n=0) == 1
        assert await ports.capture.purge(SID, epoch=1, n=0, upto_seq=c) == 0


def test_erasing_takes_all_bytes_and_leaves_fences(run: Run) -> None:
    """After an erasure nothing of the session's bytes is left, and its closed epochs stay closed."""

    @run
    async def _(ports: Ports) -> None:
        for epoch in (1, 2):
            for n in (0, 1):
                await put(ports, 0, b"x", epoch=epoch, n=n)
        await ports.capture.publish(OTHER, epoch=1, n=0, offset=0, data=b"o", sha256=sha256(b"o"))
        await ports.capture.fence(SID, epoch=1)
        assert await ports.capture.erase(SID) == 4
        assert await pieces(ports, epoch=1) == await pieces(ports, epoch=2) == []
        assert await ports.capture.count(OTHER, epoch=1, n=0) == 1
        with pytest.raises(Fenced):
            await put(ports, 0, b"late", epoch=1)
        assert await ports.capture.erase(SID) == 0


def test_chunks_names_every_chunk_that_holds_pieces(run: Run) -> None:
    """Each n of the epoch with how many pieces it holds, however far apart; fences and others left out."""

    @run
    async def _(ports: Ports) -> None:
        assert await ports.capture.chunks(SID, epoch=1) == {}
        for n in (0, 0, 2, 70_000):
            await put(ports, 0, b"x", n=n)
        await put(ports, 0, b"x", epoch=2, n=1)
        last = await put(ports, 0, b"x", n=5)
        await ports.capture.fence(SID, epoch=1)
        await ports.capture.purge(SID, epoch=1, n=5, upto_seq=last)
        assert await ports.capture.chunks(SID, epoch=1) == {0: 2, 2: 1, 70_000: 1}
        assert await ports.capture.chunks(OTHER, epoch=1) == {}


def test_a_full_store_pushes_back(run: Run) -> None:
    """A full store refuses a piece, keeps every byte it acknowledged, and takes more after a purge."""

    @run
    async def _(ports: Ports) -> None:
        data = b"f" * (1024 * 1024)
        stored: list[int] = []

        async def fill() -> None:
            for i in range(20):
                stored.append(await put(ports, i * len(data), data, n=i))

        with pytest.raises(StoreFull):
            await fill()
        assert 1 < len(stored) < 20
        assert [piece.sequence for piece in await pieces(ports)] == stored
        await ports.capture.purge(SID, epoch=1, n=0, upto_seq=stored[0])
        await put(ports, len(stored) * len(data), data, n=len(stored))


async def fill(ports: Ports, *, epoch: int = 1) -> list[int]:
    """Publish ever smaller pieces to `OTHER` until not one byte fits; returns their sequences."""
    stored: list[int] = []
    offset = 0
    for size in (1024 * 1024, 64 * 1024, 4096, 256, 16, 1):
        while True:
            data = b"f" * size
            try:
                ack = await ports.capture.publish(
                    OTHER, epoch=epoch, n=0, offset=offset, data=data, sha256=sha256(data)
                )
            except StoreFull:
                break
            stored.append(ack.sequence)
            offset += size
    return stored


async def parts(ports: Ports) -> int:
    """Return how many parts of the room for fences stand."""
    return len(await ports.sequences(ports.subjects.capture_stream, ports.subjects.all_ballast))


def test_a_store_full_to_the_last_byte_takes_fences(run: Run) -> None:
    """With room kept, many epochs are closed on a full store at once; a purge brings the room back."""

    @run
    async def _(ports: Ports) -> None:
        await put(ports, 0, b"kept")
        assert await ports.capture.reserve()
        assert await ports.capture.reserve()
        assert await parts(ports) == BALLAST_PARTS
        stored = await fill(ports)
        async with asyncio.timeout(PROMPT_S):
            await ports.capture.fence(SID, epoch=1)
            await asyncio.gather(*(ports.capture.fence(SID, epoch=epoch) for epoch in range(2, 12)))
        for epoch in (1, 2, 11):
            with pytest.raises(Fenced):
                await put(ports, 4, b"late", epoch=epoch)
        assert [piece.data for piece in await pieces(ports)] == [b"kept"]
        left = await parts(ports)
        assert 0 < left < BALLAST_PARTS
        assert await ports.capture.purge(OTHER, epoch=1, n=0, upto_seq=stored[0]) == 1
        assert await parts(ports) == BALLAST_PARTS


def test_room_for_fences_is_kept_as_soon_as_there_is_some(run: Run) -> None:
    """A store that was full before room was kept keeps it after a purge, and takes fences when full again."""

    @run
    async def _(ports: Ports) -> None:
        stored = await fill(ports)
        assert not await ports.capture.reserve()
        await ports.capture.purge(OTHER, epoch=1, n=0, upto_seq=stored[0])
        assert await parts(ports) == BALLAST_PARTS
        await fill(ports, epoch=2)
        async with asyncio.timeout(PROMPT_S):
            await ports.capture.fence(OTHER, epoch=2)


def test_room_for_fences_is_no_session_s(run: Run) -> None:
    """The room is neither read, counted nor erased with any session's bytes."""

    @run
    async def _(ports: Ports) -> None:
        assert await ports.capture.reserve()
        kept = await ports.sequences(ports.subjects.capture_stream, ports.subjects.all_ballast)
        sequence = await put(ports, 0, b"a")
        assert [piece.sequence for piece in await pieces(ports)] == [sequence]
        assert await ports.capture.tail(SID, kept[0]) is None
        assert await ports.capture.chunks(SID, epoch=1) == {0: 1}
        assert await ports.capture.erase(SID) == 1
        assert await ports.capture.erase(SID) == 0
        assert await parts(ports) == BALLAST_PARTS
