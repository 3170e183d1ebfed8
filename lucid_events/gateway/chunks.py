"""Chunks one by one: listed, fetched, verified; and bytes pushed as older clients push them."""

from typing import Annotated, Any

from litestar import Controller, Response, get, head, post
from litestar.params import PathParameter, QueryParameter

from lucid_events.domain.events import ChunkReady
from lucid_events.domain.ids import session_id
from lucid_events.domain.values import MAX_OFFSET
from lucid_events.gateway import answers
from lucid_events.gateway.bodies import AnyRequest
from lucid_events.gateway.chunk_answers import chunk_of, statistics_of
from lucid_events.gateway.context import At, Cursor, Limit, Sid, Wait, gateway_of, noting
from lucid_events.gateway.documenting import PushedBytes, failures, octets
from lucid_events.gateway.paging import cursor, place
from lucid_events.gateway.streams import answer_bytes, answer_head, ready_chunk
from lucid_events.gateway.uploads import push

PROCESS_WAIT_S = 30.0
"""How long `process` waits for the chunks it completed: older clients read their ratios from the answer."""

_LIST = "chunks"

Index = Annotated[int, PathParameter(ge=0, le=MAX_OFFSET, description="Which chunk, from 0.")]
Stored = Annotated[bool, QueryParameter(description="The stored bytes as they are, still compressed.")]


class Chunks(Controller):
    """`/chunks/{sid}`."""

    path = "/chunks"
    tags = ["chunks"]

    @get("/{sid:str}", responses=failures(404))
    async def list_chunks(
        self,
        request: AnyRequest,
        sid: Sid,
        cursor_: Cursor = None,
        limit: Limit = 100,
    ) -> answers.ChunkList:
        """List a session's chunks by index, with its statistics."""
        client, session = gateway_of(request).client, session_id(sid)
        view = await client.status_now(session)
        contents = await client.player.contents(session)
        first = place(_LIST, cursor_)
        page = [index for index in sorted(contents.chunks) if index >= first][: limit + 1]
        following = page[limit] if len(page) > limit else None
        return answers.ChunkList(
            session_id=session,
            chunk_statistics=statistics_of(view),
            chunks=[chunk_of(session, contents.chunks[index]) for index in page[:limit]],
            cursor=cursor(_LIST, following),
        )

    @get(
        "/{sid:str}/{index:int}",
        responses={**octets("The chunk."), **failures(404, 416)},
    )
    async def chunk(
        self, request: AnyRequest, sid: Sid, index: Index, stored: Stored = False
    ) -> Response[Any]:
        """Fetch a chunk, or a `Range` of it: decompressed and verified, or as it is stored."""
        session, player = session_id(sid), gateway_of(request).client.player
        contents = await player.playable(session)
        ready = ready_chunk(contents, index).ready
        assert ready is not None  # noqa: S101 - that is what a ready chunk is
        await noting(request, session, "chunk")(ready.offset, ready.offset + ready.size)
        if stored:
            data = memoryview(await player.stored(session, index))
            return answer_bytes(request, data, tag=f'"{ready.stored_sha256}"', **_said_of(ready, stored))
        data = await player.chunk(session, index, contents=contents)
        return answer_bytes(request, data, tag=f'"{ready.sha256}"', **_said_of(ready, stored))

    @head("/{sid:str}/{index:int}", responses={**octets("Its size."), **failures(404, 416)})
    async def chunk_head(
        self, request: AnyRequest, sid: Sid, index: Index, stored: Stored = False
    ) -> Response[None]:
        """Say how long a chunk is, and its digest."""
        contents = await gateway_of(request).client.player.playable(session_id(sid))
        ready = ready_chunk(contents, index).ready
        assert ready is not None  # noqa: S101 - that is what a ready chunk is
        size, tag = (ready.stored_size, ready.stored_sha256) if stored else (ready.size, ready.sha256)
        return answer_head(request, size, tag=f'"{tag}"', **_said_of(ready, stored))

    @post(
        "/{sid:str}/process",
        operation_class=PushedBytes,
        status_code=200,
        responses=failures(400, 404, 408, 409, 413, 415),
    )
    async def process(
        self, request: AnyRequest, sid: Sid, offset: At = None, wait: Wait = PROCESS_WAIT_S
    ) -> answers.Processed:
        """Record bytes, and tell the chunks that they completed once these are stored."""
        session = session_id(sid)
        done = await push(request, session, offset=offset, wait_s=wait, for_chunks=True)
        return answers.Processed(
            session_id=session,
            processed_bytes=done.end - done.begin,
            completed_chunks=len(done.chunks),
            chunk_metadata=done.receipts(session),
            offset=done.begin,
            next_offset=done.end,
        )


def _said_of(ready: ChunkReady, stored: bool) -> dict[str, str]:
    if stored:
        return {"Lucid-Codec": ready.codec, "Lucid-SHA256": ready.stored_sha256}
    return {"Lucid-SHA256": ready.sha256}
