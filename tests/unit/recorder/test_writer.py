"""Capture under faults: nothing acknowledged is forgotten, nothing sent is out of bounds."""

import asyncio
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from lucid_events.domain.ids import SessionId
from lucid_events.errors import StoreFull, StoreUnavailable
from lucid_events.memory import MemoryCaptureStore, MemoryServer
from lucid_events.ports import CaptureAck
from tests.unit.recorder.rig import FAST, Bytes, Service, eventually, finished


class Counting(MemoryCaptureStore):
    """Counts the bytes that are out at one time, and the order in which pieces set out."""

    def __init__(self, server: MemoryServer) -> None:
        super().__init__(server)
        self.out = self.most_out = 0
        self.sent: list[int] = []

    async def publish(
        self, session: SessionId, *, epoch: int, n: int, offset: int, data: bytes | memoryview, sha256: str
    ) -> CaptureAck:
        self.out += len(data)
        self.most_out = max(self.most_out, self.out)
        self.sent.append(offset)
        try:
            return await super().publish(session, epoch=epoch, n=n, offset=offset, data=data, sha256=sha256)
        finally:
            self.out -= len(data)


def test_the_window_bounds_what_is_out() -> None:
    """Never more than the window and one piece is under way, and pieces set out in order."""

    async def scenario() -> None:
        async with Service(MemoryServer(max_payload=4096)).running() as service:
            capture = service.capture = Counting(service.server)
            options = replace(FAST, window_bytes=10_000)
            await finished(service.recording(Bytes([b"x" * 100_000]), options=options, chunk_bytes=40_000))
            assert 5_000 < capture.most_out <= 10_000 + capture.max_piece_bytes
            assert capture.sent == sorted(capture.sent)

    asyncio.run(scenario())


def test_acknowledged_offsets_only_advance_over_what_is_stored() -> None:
    """`on_acked` tells strictly rising offsets, each with every byte below it in capture or in a chunk."""
    told: list[int] = []

    async def scenario() -> None:
        async with Service(MemoryServer(max_payload=2048)).running() as service:
            service.server.faults.fail_next("capture", StoreUnavailable("away"), times=2, skip=5)
            service.server.faults.lose_reply("capture", stored=True, times=3, skip=4)
            await finished(service.recording(Bytes([b"y" * 60_000]), on_acked=told.append))

    asyncio.run(scenario())
    assert told == sorted(set(told))
    assert told[-1] == 60_000


def test_every_step_can_be_watched() -> None:
    """Checkpoints are passed in the order of the steps, so that a test can kill between any two."""
    steps: list[str] = []

    async def note(step: str) -> None:
        steps.append(step)

    async def scenario() -> None:
        async with Service().running() as service:
            await finished(service.recording(Bytes([b"abc"]), checkpoint=note))

    asyncio.run(scenario())
    assert steps == [
        "session.started",
        "recorder.attached",
        "capture.acked",
        "seal.sending",
        "seal.accepted",
        "stop.sending",
        "stop.accepted",
        "drained.sending",
        "drained.accepted",
        "detach.sending",
        "detach.accepted",
    ]


def test_a_seal_names_the_last_message_of_its_chunk() -> None:
    """After resends the seal's range still holds every byte, and ends at the chunk's last one."""

    async def scenario() -> None:
        async with Service(MemoryServer(max_payload=2048)).running() as service:
            service.server.faults.fail_next("capture", StoreUnavailable("away"), times=1, skip=1)
            await finished(service.recording(Bytes([b"a" * 4096])))
            assert service.played() == b"a" * 4096

    asyncio.run(scenario())


def test_seals_wait_for_nobody_but_each_other() -> None:
    """Pieces of the next chunk flow while the seal of the one before is unanswered."""

    async def scenario() -> None:
        async with Service().running() as service:
            held = asyncio.Event()

            async def note(step: str) -> None:
                if step == "seal.sending":
                    await held.wait()

            recording = service.recording(Bytes([b"b" * 20_000]), checkpoint=note)
            running = asyncio.create_task(finished(recording))
            await eventually(lambda: recording.acked_upto == 20_000)
            assert await service.sealed() == []
            held.set()
            await running
            assert [s.n for s in await service.sealed()] == [0, 1, 2, 3, 4]

    asyncio.run(scenario())


FAULT = st.sampled_from(["ok", "stored, reply lost", "lost", "away", "full"])


@settings(max_examples=60)
@given(
    blocks=st.lists(st.binary(min_size=1, max_size=6000), max_size=12),
    faults=st.lists(FAULT, max_size=25),
    requests=st.lists(st.sampled_from(["ok", "reply lost", "away"]), max_size=6),
    chunk=st.integers(1024, 9000),
)
def test_any_reads_and_any_faults_give_the_bytes_read(
    blocks: Sequence[bytes], faults: Sequence[str], requests: Sequence[str], chunk: int
) -> None:
    """Whatever is read and whatever goes wrong on the way, the stored bytes are the bytes read."""

    async def scenario() -> None:
        async with Service(MemoryServer(max_payload=2048)).running() as service:
            order = service.server.faults
            for fault in faults:
                match fault:
                    case "ok":
                        order.fail_next("capture", times=0, skip=1)
                    case "stored, reply lost":
                        order.lose_reply("capture", stored=True)
                    case "lost":
                        order.lose_reply("capture", stored=False)
                    case "away":
                        order.fail_next("capture", StoreUnavailable("away"))
                    case "full":
                        order.fail_next("capture", StoreFull("full"))
            for fault in requests:
                if fault == "away":
                    order.fail_next("request", StoreUnavailable("away"))
                else:
                    order.fail_next("request", times=0, skip=1)
            options = replace(FAST, window_bytes=4000, read_ahead_bytes=4000)
            totals = await finished(service.recording(Bytes(blocks), options=options, chunk_bytes=chunk))
            assert service.played() == b"".join(blocks)
            assert totals.bytes == totals.raw_bytes == sum(map(len, blocks))
            assert all(s.size <= chunk for s in await service.sealed())

    asyncio.run(scenario())
