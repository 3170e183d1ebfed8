"""Bodies of requests: read part by part against a limit, never as a whole unless they are small.

What a body is follows from its content type: `application/json` is an envelope, everything else the
recording's bytes as they are.
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from typing import Annotated, Any, TypeVar

import msgspec
from litestar import Request
from msgspec import Meta

from lucid_events import codec
from lucid_events.domain.values import MIB
from lucid_events.errors import ContractError
from lucid_events.gateway.errors import HttpError

MAX_JSON_BYTES = 256 * 1024
"""A command with the most metadata it may have is half of that."""
MAX_ENVELOPE_BYTES = 16 * MIB
"""A chunk in base64 is held whole, so this is memory per request; larger ones are sent as they are."""
WHOLE_BYTES = MIB
"""Bodies up to this size are read whole first, so a client that breaks off has sent all of it or nothing."""
READ_STALL_S = 30.0
"""How long a client may send no byte of a body. Half cuts off a source that pauses for a moment, twice
keeps the session's turn from a client that has come back on another connection."""

_FORM = "application/x-www-form-urlencoded"
_REFUSED = ("multipart/", _FORM)
_BY_ITSELF = " (curl calls any body a form unless `-H 'Content-Type: …'` says what it is)"

T = TypeVar("T")
AnyRequest = Request[Any, Any, Any]


class Envelope(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Bytes as older clients send them: base64 in JSON; what they say about them is checked, not kept."""

    chunk_data: bytes
    chunk_metadata: Annotated[dict[str, object], Meta(max_length=64)] = {}


class Body:
    """The body of one request, at most `limit` bytes of it.

    Attributes:
        read: bytes read so far.
    """

    def __init__(self, request: AnyRequest, *, limit: int, stopping: asyncio.Event) -> None:
        self._receive, self._limit, self._stopping = request.receive, limit, stopping
        self.read = 0
        self.declared = _length(request.headers)
        if request.headers.get("content-encoding", "identity").lower() != "identity":
            raise HttpError(415, "encoded", "the body is encoded: send it as it is, it is compressed here")
        if self.declared is not None and self.declared > limit:
            raise self._too_large()

    async def parts(self) -> AsyncGenerator[bytes, None]:
        """Yield the body as it comes; a small one of known length in one piece.

        Raises:
            HttpError: 413, more than `limit`; 408, nothing came for `READ_STALL_S`; 503, this process
                is about to end; 400, the client has gone.
        """
        if self.declared is not None and self.declared <= WHOLE_BYTES:
            whole = b"".join([part async for part in self._parts()])
            if whole:
                yield whole
            return
        async for part in self._parts():
            yield part

    async def _parts(self) -> AsyncGenerator[bytes, None]:
        ending = asyncio.ensure_future(self._stopping.wait())
        try:
            more = True
            while more:
                part, more = await self._next(ending)
                self.read += len(part)
                if self.read > self._limit:
                    raise self._too_large()
                if part:
                    yield part
        finally:
            ending.cancel()

    async def _next(self, ending: "asyncio.Future[Any]") -> tuple[bytes, bool]:
        # No task for each part: two of them cost a small body more than reading it does.
        on, waiting = "ask for the offset and go on from there", True
        try:
            async with asyncio.timeout(READ_STALL_S) as patience:

                def end(_: object) -> None:
                    if waiting:
                        patience.reschedule(0)

                ending.add_done_callback(end)
                try:
                    message = await self._receive()
                finally:
                    waiting = False
                    ending.remove_done_callback(end)
        except TimeoutError:
            if ending.done():
                raise HttpError(503, "stopping", f"this service is about to end: {on}", retry=True) from None
            stalled = f"no byte of the body came for {READ_STALL_S:g} s: {on}"
            raise HttpError(408, "too_slow", stalled, headers={"Connection": "close"}) from None
        if message["type"] != "http.request":
            raise HttpError(400, "disconnected", f"the client has gone: {on}")
        return message["body"], message["more_body"]

    def _too_large(self) -> HttpError:
        return HttpError(
            413,
            "too_large",
            f"the body has more than {self._limit} bytes: send the rest in further requests",
            headers={"Connection": "close"},
        )


def media_type(request: AnyRequest) -> str:
    """Return the media type of a recording's bytes, without parameters; empty when the client says none.

    Raises:
        HttpError: 415, a form: nobody records one on purpose.
    """
    told = _told(request)
    if told.startswith(_REFUSED):
        raise HttpError(
            415,
            "form",
            f"{told[:100]} is not taken here: send the recording's bytes with "
            f"`Content-Type: application/octet-stream`, whatever they are{_hint(told)}",
        )
    return told


async def json_body(
    request: AnyRequest, kind: type[T], *, stopping: asyncio.Event, empty: T | None = None
) -> T:
    """Return the JSON body as a `kind`; `empty` stands for no body at all.

    Raises:
        HttpError: 415, it says that it is something else; 413.
        ContractError: it does not fit `kind`.
    """
    body = Body(request, limit=MAX_ENVELOPE_BYTES if kind is Envelope else MAX_JSON_BYTES, stopping=stopping)
    data = b"".join([part async for part in body.parts()])
    if not data and empty is not None:
        return empty
    told = _told(request)
    if told not in ("", "application/json"):
        raise HttpError(
            415,
            "not_json",
            f"{told[:100]} is not taken here: send JSON with `Content-Type: application/json`{_hint(told)}",
        )
    return codec.decode(data, kind)


def _hint(told: str) -> str:
    return _BY_ITSELF if told == _FORM else ""


def _told(request: AnyRequest) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _length(headers: Mapping[str, str]) -> int | None:
    text = headers.get("content-length")
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise ContractError(f"Content-Length {text[:40]!r} is no size in bytes", field="Content-Length")
    return int(text)
