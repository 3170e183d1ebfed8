"""Bytes pushed over HTTP: into the recording as they come, and what the answer may promise of them.

Nothing is answered with 202 that is not durable. A client that loses its answer, or its gateway, asks
for the offset and goes on there; `offset` then makes sure that no byte is recorded twice.
"""

import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec

from lucid_events.domain.ids import SessionId
from lucid_events.domain.values import MIB
from lucid_events.errors import LucidError
from lucid_events.gateway.bodies import AnyRequest, Body, Envelope, json_body, media_type
from lucid_events.gateway.chunk_answers import Receipt, receipts_of
from lucid_events.gateway.context import actor_of, gateway_of
from lucid_events.gateway.errors import HttpError
from lucid_events.playback import Chunk
from lucid_events.service.receipts import receipts
from lucid_events.service.recorders import Upload

MAX_SLICE_BYTES = 256 * 1024
"""Bytes handed to the recorder at once: what it holds of a slow server's backlog is counted in these."""


_log = logging.getLogger(__name__)


class Pushed(msgspec.Struct, frozen=True, kw_only=True):
    """Durable bytes of a session: from `begin` up to `end`, the last one in chunk `index`."""

    begin: int
    end: int
    index: int
    chunks: tuple[Chunk, ...] = ()
    complete: bool = True

    @property
    def failed(self) -> bool:
        """Whether a chunk was set aside: its bytes are kept, and a person has to look."""
        return any(chunk.state == "failed" for chunk in self.chunks)

    def receipts(self, session: SessionId) -> list[Receipt]:
        """Return the receipts of the chunks that are stored."""
        return receipts_of(session, self.chunks)


async def push(
    request: AnyRequest,
    session: SessionId,
    *,
    offset: int | None,
    wait_s: float = 0.0,
    end_chunk: bool = False,
    for_chunks: bool = False,
) -> Pushed:
    """Record the request's body; return once all of it is durable.

    Args:
        offset: what the first byte has to be in the session.
        wait_s: how long to wait for receipts, when they are wanted.
        end_chunk: end a chunk behind the body, so that all of it gets a receipt soon.
        for_chunks: wait for the receipts of the chunks that the body completed.

    Raises:
        LucidError: the session takes no bytes, or not these; `details.offset` says where it goes on.
        HttpError: the body is too large, too slow or broke off; what was read is part of the recording.
    """
    gateway = gateway_of(request)
    wanted = end_chunk or for_chunks
    version = int(await gateway.client.store.version(session)) if wanted else 0
    async with gateway.recorders.upload(
        session, actor=actor_of(request), offset=offset, content_type=_content_type(request)
    ) as upload:
        try:
            async with aclosing(_parts(request)) as parts:
                async for part in parts:
                    await _write(upload, part)
        except HttpError as exc:
            await _settle(upload)
            exc.details.setdefault("offset", min(upload.end, upload.durable_upto))
            raise
        index = await upload.durable(end_chunk=end_chunk)
        begin, end, upto = upload.begin, upload.end, upload.ended_upto
    if not wanted or upto <= begin:
        return Pushed(begin=begin, end=end, index=index)
    found = await receipts(gateway.client, session, after=version, begin=begin, end=upto, timeout_s=wait_s)
    return Pushed(
        begin=begin, end=end, index=index, chunks=found.chunks, complete=found.complete and upto == end
    )


async def offset_of(request: AnyRequest, session: SessionId) -> int:
    """Return the offset that pushed bytes go on at, once everything before it is durable.

    A session whose recorder is gone is taken over first, because what that one had captured and not
    sealed is part of the recording: only then is the offset one that can't move.

    Raises:
        LucidError: the session is written elsewhere, takes no bytes in its state, or nobody can tell now.
    """
    async with gateway_of(request).recorders.upload(session, actor=actor_of(request)) as upload:
        await upload.confirm()
        return upload.begin


def _content_type(request: AnyRequest) -> str:
    """Return what the client says its bytes are; empty when it says nothing of them."""
    told = media_type(request)
    return "" if told in ("application/json", "application/octet-stream") else told[:200]


async def _parts(request: AnyRequest) -> AsyncGenerator[bytes, None]:
    gateway = gateway_of(request)
    if media_type(request) == "application/json":
        envelope = await json_body(request, Envelope, stopping=gateway.stopping)
        yield envelope.chunk_data
        return
    limit = gateway.settings.http.max_body_mib * MIB
    body = Body(request, limit=limit, stopping=gateway.stopping)
    async with aclosing(body.parts()) as parts:
        async for part in parts:
            yield part


async def _write(upload: Upload, part: bytes) -> None:
    if len(part) <= MAX_SLICE_BYTES:
        await upload.write(part)
        return
    view = memoryview(part)
    for at in range(0, len(part), MAX_SLICE_BYTES):
        await upload.write(bytes(view[at : at + MAX_SLICE_BYTES]))


async def _settle(upload: Upload) -> None:
    """Make what was read durable before the client is told that the rest was not."""
    try:
        await upload.durable()
    except LucidError as exc:
        # What broke off the body is the answer; that its bytes are not safe yet shows at the next offset.
        _log.warning("an upload that broke off is not durable yet", extra={"reason": exc.message})
