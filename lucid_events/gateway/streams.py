"""Bytes of recordings as answers: whole or by range, a chunk at a time, never all of it in memory.

The bytes of a recording are those of its ready chunks in order; what is missing is left out and counted
in `Lucid-Gap-Bytes`. While it is being recorded it ends before the first chunk that is not stored yet.
"""

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Any

import msgspec
from litestar import Response
from litestar.response import Stream

from lucid_events.errors import IntegrityError, NotFound
from lucid_events.gateway.bodies import AnyRequest
from lucid_events.gateway.ranges import Span, applies, parse_range, unchanged
from lucid_events.playback import Bytes, Chunk, Contents, Player

SLICE_BYTES = 256 * 1024
"""Bytes written at once: what a client that reads slowly keeps waiting is one of these, and its chunk."""
OCTETS = "application/octet-stream"

Note = Callable[[int, int], Awaitable[None]]
"""Has it in the history that the bytes from an offset to another are about to be handed out."""


class Media(msgspec.Struct, frozen=True):
    """What a recording consists of now: runs of its bytes, each `(offset in the session, length)`."""

    runs: tuple[tuple[int, int], ...]
    size: int
    gap_bytes: int
    etag: str
    content_type: str


def media_of(contents: Contents) -> Media:
    """Return the bytes of a recording as they are known by its history."""
    digest = hashlib.sha256()
    runs: list[tuple[int, int]] = []
    size = missing = 0
    for chunk in _stored(contents):
        sealed = chunk.sealed
        if chunk.state != "ready":
            missing += sealed.size
            continue
        digest.update(f"{sealed.index} {sealed.sha256}\n".encode())
        size += sealed.size
        if runs and runs[-1][0] + runs[-1][1] == sealed.offset:
            runs[-1] = (runs[-1][0], runs[-1][1] + sealed.size)
        else:
            runs.append((sealed.offset, sealed.size))
    missing += sum(gap.end - gap.start for gap in contents.gaps)
    tag = f'"{digest.hexdigest()[:32]}"'
    return Media(tuple(runs), size, missing, tag, contents.content_type or OCTETS)


def _stored(contents: Contents) -> list[Chunk]:
    """Return the chunks up to the first one that is still on its way."""
    found = []
    for index in sorted(contents.chunks):
        chunk = contents.chunks[index]
        if chunk.state == "sealed":
            break
        found.append(chunk)
    return found


async def answer_media(
    request: AnyRequest, player: Player, contents: Contents, *, note: Note
) -> Response[Any]:
    """Answer with a recording, or the range of it that is asked for, once it is noted who looks."""
    media = media_of(contents)
    headers = _media_headers(media)
    span = _span(request, media.etag, media.size, headers)
    if span is None:
        return Response(None, status_code=304, headers=headers)
    if pieces := _pieces(media.runs, span):
        await note(pieces[0][0], pieces[-1][1])
    return _stream(_media_bytes(player, contents, pieces), span, headers, media.content_type)


def head_media(request: AnyRequest, contents: Contents) -> Response[None]:
    """Answer as `answer_media` would, without the bytes."""
    media = media_of(contents)
    headers = _media_headers(media)
    span = _span(request, media.etag, media.size, headers)
    if span is None:
        return Response(None, status_code=304, headers=headers)
    return _head(span, headers, media.content_type)


def _media_headers(media: Media) -> dict[str, str]:
    return {"Accept-Ranges": "bytes", "ETag": media.etag, "Lucid-Gap-Bytes": str(media.gap_bytes)}


def answer_bytes(
    request: AnyRequest, data: memoryview, *, tag: str, content_type: str = OCTETS, **extra: str
) -> Response[Any]:
    """Answer with bytes that are here, or the range of them that is asked for."""
    headers = {"Accept-Ranges": "bytes", "ETag": tag, **extra}
    span = _span(request, tag, len(data), headers)
    if span is None:
        return Response(None, status_code=304, headers=headers)
    return _stream(_slices(data[span.start : span.end]), span, headers, content_type)


def answer_head(
    request: AnyRequest, size: int, *, tag: str, content_type: str = OCTETS, **extra: str
) -> Response[None]:
    """Answer as `answer_bytes` would, without the bytes."""
    headers = {"Accept-Ranges": "bytes", "ETag": tag, **extra}
    span = _span(request, tag, size, headers)
    if span is None:
        return Response(None, status_code=304, headers=headers)
    return _head(span, headers, content_type)


def _span(request: AnyRequest, tag: str, size: int, headers: dict[str, str]) -> Span | None:
    """Return what to send, None when the client has it; sizes go into `headers`."""
    if unchanged(request.headers.get("if-none-match"), tag):
        return None
    asked = request.headers.get("range") if applies(request.headers.get("if-range"), tag) else None
    span = parse_range(asked, size)
    if span.partial:
        headers["Content-Range"] = f"bytes {span.start}-{span.end - 1}/{size}"
    return span


def _head(span: Span, headers: dict[str, str], content_type: str) -> Response[Any]:
    headers["Content-Length"] = str(span.end - span.start)
    status = 206 if span.partial else 200
    return Response(b"", status_code=status, headers=headers, media_type=content_type)


def _stream(
    body: AsyncIterator[bytes], span: Span, headers: dict[str, str], content_type: str
) -> Response[Any]:
    headers["Content-Length"] = str(span.end - span.start)
    return Stream(body, status_code=206 if span.partial else 200, headers=headers, media_type=content_type)


async def _slices(data: memoryview) -> AsyncIterator[bytes]:
    for at in range(0, len(data), SLICE_BYTES):
        yield bytes(data[at : at + SLICE_BYTES])


async def _media_bytes(
    player: Player, contents: Contents, pieces: Sequence[tuple[int, int]]
) -> AsyncIterator[bytes]:
    for start, end in pieces:
        position = start
        async with aclosing(player.play(contents.session, start=start, end=end, contents=contents)) as items:
            async for item in items:
                if not isinstance(item, Bytes) or item.offset != position:
                    break  # erased or set aside since: the answer ends short, which the client can tell
                position += len(item.data)
                async for block in _slices(item.data):
                    yield block
        if position != end:
            raise IntegrityError(
                f"bytes {position} to {end} of {contents.session} are gone since the answer began",
                session=contents.session,
            )


def _pieces(runs: Sequence[tuple[int, int]], span: Span) -> list[tuple[int, int]]:
    """Return which bytes of the session the range of its media is, as `(start, end)` in order."""
    found, at = [], 0
    for offset, length in runs:
        start, end = max(span.start, at), min(span.end, at + length)
        if start < end:
            found.append((offset + start - at, offset + end - at))
        at += length
    return found


def ready_chunk(contents: Contents, index: int) -> Chunk:
    """Return the chunk of that index.

    Raises:
        NotFound: it does not exist, or is not ready.
    """
    chunk = contents.chunks.get(index)
    if chunk is None or chunk.state != "ready":
        why = f"is {chunk.state}, not ready" if chunk else "does not exist"
        raise NotFound(f"chunk {index} of {contents.session} {why}", session=contents.session, index=index)
    return chunk
