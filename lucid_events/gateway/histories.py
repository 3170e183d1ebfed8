"""A session's history over HTTP: in pages, and as it grows.

The stream is server-sent events: `id` is the event's sequence, so a client that comes back with
`Last-Event-ID` misses none and sees none twice.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Annotated, Any

import msgspec
from litestar import Controller, Response, get
from litestar.params import FromQuery, HeaderParameter, QueryParameter
from litestar.response import Stream

from lucid_events import codec
from lucid_events.domain.envelope import Recorded, Stray
from lucid_events.domain.ids import SessionId, Version, session_id
from lucid_events.domain.transitions import State
from lucid_events.domain.values import MAX_OFFSET
from lucid_events.errors import ContractError, LucidError
from lucid_events.gateway import answers
from lucid_events.gateway.bodies import AnyRequest
from lucid_events.gateway.context import Cursor, Gateway, Limit, Sid, gateway_of
from lucid_events.gateway.documenting import also, failures
from lucid_events.gateway.paging import cursor, place

KEEP_ALIVE_S = 15.0
"""Between comments on a silent stream: proxies cut off at 30 or 60 s of silence."""
_LIST = "history"

Item = Recorded | Stray


class Histories(Controller):
    """`/pipelines/{sid}/history` and `/pipelines/{sid}/events`."""

    path = "/pipelines"
    tags = ["history"]

    @get("/{sid:str}/history", responses=failures(404))
    async def history(
        self,
        request: AnyRequest,
        sid: Sid,
        cursor_: Cursor = None,
        limit: Limit = 100,
    ) -> answers.HistoryPage:
        """List a session's events as they are stored, oldest first."""
        gateway, session = gateway_of(request), session_id(sid)
        await gateway.client.status_now(session)
        found: list[answers.HistoryEvent] = []
        last = None
        after = Version(place(_LIST, cursor_))
        async with aclosing(gateway.client.store.read(session, after=after)) as history:
            async for item in history:
                if len(found) == limit:
                    last = found[-1].sequence
                    break
                if isinstance(item, Recorded):
                    found.append(_event(item))
        return answers.HistoryPage(session_id=session, events=found, cursor=cursor(_LIST, last))

    @get(
        "/{sid:str}/events",
        media_type="text/event-stream",
        responses={
            200: also(answers.StreamedEvent, "The events.", "text/event-stream"),
            204: also(None, "The session is destroyed and all of it told: do not come back."),
            **failures(404),
        },
    )
    async def events(
        self,
        request: AnyRequest,
        sid: Sid,
        after: Annotated[int | None, QueryParameter(ge=0, le=MAX_OFFSET)] = None,
        last_event_id: Annotated[str | None, HeaderParameter(name="Last-Event-ID", max_length=20)] = None,
        follow: FromQuery[bool] = True,
    ) -> Response[Any]:
        """Stream a session's history from behind `Last-Event-ID` (or `after`) and go on as it grows.

        It ends once the session is destroyed; without `follow`, once everything stored is told. Who comes
        back behind the end is answered with 204, which is how a browser is told to stop doing so.
        """
        gateway, session = gateway_of(request), session_id(sid)
        view = await gateway.client.status_now(session)
        begin = _position(last_event_id) if last_event_id is not None else after or 0
        if follow and view.state is State.DESTROYED and begin >= view.position.sequence:
            return Response(None, status_code=204)
        lines = _lines(gateway, session, begin, follow=follow)
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return Stream(lines, media_type="text/event-stream", headers=headers)


async def _lines(gateway: Gateway, session: SessionId, after: int, *, follow: bool) -> AsyncIterator[bytes]:
    events = gateway.client.events(session=session, after=after, follow=follow)
    async with aclosing(events), aclosing(_or_silence(events, gateway.stopping)) as items:
        try:
            async for item in items:
                yield b": still here\n\n" if item is None else _sse(item)
                if isinstance(item, Recorded) and item.type.startswith("session.destroyed"):
                    return
        except LucidError as exc:
            # The answer has begun: the client is told in its own language, and may come back.
            told = codec.encode({"code": exc.code, "message": exc.message})
            yield b"event: error\ndata: " + told + b"\n\n"


async def _or_silence(
    events: AsyncGenerator[Item, None], stopping: asyncio.Event
) -> AsyncGenerator[Item | None, None]:
    """Yield events, None after `KEEP_ALIVE_S` without one; end when the service stops."""
    ending: asyncio.Future[Any] = asyncio.ensure_future(stopping.wait())
    following: asyncio.Future[Any] | None = None
    try:
        while not stopping.is_set():
            following = following or asyncio.ensure_future(anext(events))
            await asyncio.wait({following, ending}, timeout=KEEP_ALIVE_S, return_when=asyncio.FIRST_COMPLETED)
            if not following.done():
                if not ending.done():
                    yield None
                continue
            done, following = following, None
            try:
                item = done.result()
            except StopAsyncIteration:
                return
            yield item
    finally:
        for task in (following, ending):
            if task is not None:
                task.cancel()
                # Not awaited itself: that would take our own cancellation for the task's.
                await asyncio.gather(task, return_exceptions=True)


def _sse(item: Item) -> bytes:
    if isinstance(item, Stray):
        told = codec.encode({"subject": item.subject, "reason": item.reason})
        return b"id: %d\nevent: stray\ndata: %b\n\n" % (item.sequence, told)
    event = codec.encode(_event(item))
    return b"id: %d\nevent: %b\ndata: %b\n\n" % (item.sequence, item.type.encode(), event)


def _event(recorded: Recorded) -> answers.HistoryEvent:
    return answers.HistoryEvent(
        sequence=int(recorded.sequence),
        type=recorded.type,
        id=recorded.id,
        time=recorded.time,
        actor=recorded.actor,
        cause=recorded.cause,
        correlation=recorded.correlation,
        prev=recorded.prev,
        digest=recorded.digest,
        data=_plain(recorded.event),
    )


def _plain(event: Any) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(event)
    return plain


def _position(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) <= MAX_OFFSET):
        raise ContractError(
            f"Last-Event-ID {text[:40]!r} is no id of ours: leave it out to begin at the first event",
            field="Last-Event-ID",
        )
    return int(text)
