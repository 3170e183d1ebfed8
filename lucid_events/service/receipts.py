"""Waiting for what becomes of bytes: the chunks that hold them, stored or set aside."""

import asyncio
from collections.abc import Mapping

import msgspec

from lucid_events.domain import events as ev
from lucid_events.domain.envelope import Recorded
from lucid_events.domain.ids import SessionId, Version
from lucid_events.playback import FOLLOW_POLL_S, Chunk
from lucid_events.service.client import Client


class Receipts(msgspec.Struct, frozen=True):
    """Chunks by index, and whether every one of them is ready or failed and no byte is left out."""

    chunks: tuple[Chunk, ...]
    complete: bool


async def receipts(
    client: Client, session: SessionId, *, after: int, begin: int, end: int, timeout_s: float
) -> Receipts:
    """Return the chunks that hold the bytes from `begin` to `end`, waiting until they are settled.

    Reads the history behind version `after` only, so these bytes must not have been sealed by then.
    After `timeout_s` it returns what is known so far.
    """
    chunks: dict[int, Chunk] = {}
    version = after
    try:
        async with (
            asyncio.timeout(timeout_s),
            client.live.listen(client.subjects.live_history(session)) as feed,
        ):
            while True:
                async for recorded in client.store.read(session, after=Version(version)):
                    version = int(recorded.sequence)
                    if isinstance(recorded, Recorded):
                        _note(chunks, recorded.event, begin, end)
                if _settled(chunks, begin, end):
                    break
                try:
                    # The feed only wakes us: a lost message costs time, never a receipt.
                    async with asyncio.timeout(FOLLOW_POLL_S):
                        await anext(feed)
                except TimeoutError:
                    continue
    except TimeoutError:
        pass  # as far as it is known, which `complete` says
    return Receipts(tuple(chunks[index] for index in sorted(chunks)), _settled(chunks, begin, end))


def _note(chunks: dict[int, Chunk], event: ev.SessionEvent, begin: int, end: int) -> None:
    match event:
        case ev.ChunkSealed() if event.offset < end and event.offset + event.size > begin:
            chunks[event.index] = Chunk(sealed=event)
        case ev.ChunkReady() if event.index in chunks:
            chunks[event.index] = Chunk(sealed=chunks[event.index].sealed, ready=event)
        case ev.ChunkFailed() if event.index in chunks:
            chunks[event.index] = Chunk(sealed=chunks[event.index].sealed, failed=event)
        case _:
            pass


def _settled(chunks: Mapping[int, Chunk], begin: int, end: int) -> bool:
    sealed = max((one.sealed.offset + one.sealed.size for one in chunks.values()), default=begin)
    return sealed >= end and all(one.state != "sealed" for one in chunks.values())
