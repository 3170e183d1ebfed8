"""Reading a range of a stream in bulk: pages of a direct get, completed by the leader.

A direct get may be answered by a replica that lags. So a reader says up to which sequence it
knows that messages exist; what a replica does not show up to there is asked of the leader.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any, Final

from lucid_events.jetstream.connection import Connection, StoredMessage

Page = tuple[StoredMessage, ...]

PAGE_MESSAGES: Final = 1000
PAGE_BYTES: Final = 4 * 1024 * 1024
"""Bound of one page. Twice as much gains nothing (the next is on its way while one is worked on); half
costs round trips."""

END_OF_TIME: Final = datetime(2262, 1, 1, tzinfo=UTC)
"""The server counts nanoseconds since 1970 in 63 bits, which end in this year."""


async def pages(
    connection: Connection,
    stream: str,
    subject: str | None,
    *,
    first: int = 1,
    last: int | None = None,
    known: int = 0,
    since: datetime | None = None,
    page_messages: int = PAGE_MESSAGES,
    page_bytes: int = PAGE_BYTES,
    ahead: int = 1,
) -> AsyncGenerator[Page, None]:
    """Yield the messages on filter `subject` (None: all) from sequence `first` to `last`, page by page.

    Everything the leader held up to sequence `known` when it became known is among them; beyond
    that, what the server that answers has. The next `ahead` pages are fetched, one after the other,
    while one is worked on: so many are in memory beside it. With one, the server has nothing to do from
    when it has sent a page until the reader is done with the page before.

    Raises:
        StoreUnavailable: not answered; what was yielded so far is right.
    """
    if since is not None and since >= END_OF_TIME:
        return  # the server's clock would wrap, and everything be later than that
    body: dict[str, Any] = {"batch": page_messages, "max_bytes": page_bytes}
    if subject is not None:
        body["next_by_subj"] = subject
    found = _fetched(connection, stream, body, first=first, last=last, known=known, since=since)
    async with aclosing(_ahead(found, ahead)) as fetched:
        async for messages in fetched:
            yield messages


async def _fetched(
    connection: Connection,
    stream: str,
    body: dict[str, Any],
    *,
    first: int,
    last: int | None,
    known: int,
    since: datetime | None,
) -> AsyncGenerator[Page, None]:
    """Yield the pages of `pages`, one after the other."""
    if last is not None:
        known = min(known, last)
    start: dict[str, Any] | None = {"seq": max(first, 1)}
    if since is not None:
        start = {"start_time": since.astimezone(UTC).isoformat(timespec="microseconds")}
    seen = first - 1
    while start is not None:
        page = await connection.direct_get(stream, {**body, **start})
        messages, start = page.messages, None
        if messages:
            seen = page.last_sequence
            if page.pending and (last is None or seen < last):
                start = {"seq": seen + 1}
        if start is None and seen < known and (since is None or seen >= first):
            # A lagging replica, or a gap up to `known`: only the leader can tell.
            missed = await connection.leader_get(
                stream, seq=seen + 1, next_by_subj=body.get("next_by_subj", ">")
            )
            if missed is not None and missed.sequence <= known:
                messages = (*messages, missed)
                seen = missed.sequence
                start = {"seq": seen + 1}
        if messages and last is not None and messages[-1].sequence > last:
            messages = tuple(message for message in messages if message.sequence <= last)
        if messages and first > 1 and since is not None:
            messages = tuple(message for message in messages if message.sequence >= first)
        if messages:
            yield messages


async def _ahead(source: AsyncGenerator[Page, None], ahead: int) -> AsyncGenerator[Page, None]:
    """Yield what `source` yields, which is up to `ahead` pages further on; what it raises comes last."""
    ready: deque[Page] = deque()
    room, changed = asyncio.Semaphore(ahead), asyncio.Event()

    async def fill() -> None:
        async with aclosing(source):
            while await room.acquire():
                page = await anext(source, None)
                if page is None:
                    return
                ready.append(page)
                changed.set()

    filling = asyncio.create_task(fill())
    filling.add_done_callback(lambda _: changed.set())
    try:
        while ready or not filling.done():
            if ready:
                page = ready.popleft()
                room.release()
                yield page
            else:
                changed.clear()
                await changed.wait()
        await filling
    finally:
        filling.cancel()
        await asyncio.gather(filling, return_exceptions=True)
