"""Driving the chunk handler, and what must be true of a chunk that is ready."""

from lucid_events.compression import decompress
from lucid_events.domain import events as ev
from lucid_events.domain.envelope import Recorded
from lucid_events.domain.ids import SessionId
from lucid_events.handlers.base import Done, Outcome
from lucid_events.handlers.chunks import ChunkHandler, quality_of
from lucid_events.handlers.execution import Execution
from tests.unit.handlers.rig import SID, Rig

TEXT = b"".join(b"line %d of a terminal session\n" % i for i in range(400))


def rig_with_consumer() -> Rig:
    """A rig with the consumer of sealed chunks."""
    rig = Rig()
    rig.consumer("chunks", rig.subjects.events_of_type("chunk.sealed"))
    return rig


async def through(handler: ChunkHandler, rig: Rig, recorded: Recorded) -> Outcome:
    """Run one message through the handler and what it leaves to do before the ack."""
    execution = Execution(handler, rig.decisions)
    message = rig.message(recorded)
    outcome = await execution.run(message)
    return await execution.finish(message, outcome) if isinstance(outcome, Done) else outcome


async def raw_bytes(rig: Rig, ready: ev.ChunkReady) -> bytes:
    """What the stored object restores to."""
    stored = await rig.blobs.get(ready.object)
    return bytes(decompress(ready.codec, stored, size=ready.size))


async def assert_ready(rig: Rig, data: bytes, index: int = 0, session: SessionId = SID) -> ev.ChunkReady:
    """One `chunk.ready` of the index, whose object restores to `data`; capture is empty."""
    said = [r.event for r in await rig.events(ev.ChunkReady, session)]
    ready = [event for event in said if isinstance(event, ev.ChunkReady) and event.index == index]
    assert len(ready) == 1
    assert await raw_bytes(rig, ready[0]) == data
    return ready[0]


def ready_event(sealed: ev.ChunkSealed) -> ev.ChunkReady:
    """`chunk.ready` as another worker said it."""
    return ev.ChunkReady(
        index=sealed.index,
        offset=sealed.offset,
        size=sealed.size,
        stored_size=1,
        sha256=sealed.sha256,
        stored_sha256="0" * 64,
        codec="gzip",
        ratio=1.0,
        quality=quality_of(sealed),
        hash_by="recorder",
        bucket="b",
        object="o",
    )
