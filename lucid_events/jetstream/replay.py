"""Reading the whole log, or what fits several filters, in the order of the log."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack, aclosing
from datetime import datetime
from typing import Final

from lucid_events.jetstream.connection import Connection, StoredMessage
from lucid_events.jetstream.history import fits
from lucid_events.jetstream.pages import pages

MERGED_FILTERS: Final = 4
"""Up to so many filters are read side by side and merged, three pages of each in memory; more are
sifted out of the whole log here. The server finds what fits one filter faster than it sends the
rest, but each filter is a pass over the log."""
AHEAD: Final = 2
"""Pages fetched beyond the one that is worked on: folding a page takes as long as the server needs for one,
so with one it would wait for the reader, and the reader for it. A third would only lie about."""

Page = Sequence[StoredMessage]


async def replayed(
    connection: Connection,
    stream: str,
    filters: Sequence[str],
    *,
    first: int,
    last: int,
    since: datetime | None = None,
) -> AsyncGenerator[Page, None]:
    """Yield the messages from `first` to `last` that fit any filter (none: all), once each, in order."""
    wanted = tuple(dict.fromkeys(filters))
    async with AsyncExitStack() as stack:
        if len(wanted) in range(1, MERGED_FILTERS + 1):
            sources = []
            for one in wanted:
                end = await connection.leader_get(stream, last_by_subj=one)
                known = 0 if end is None else end.sequence
                found = pages(
                    connection, stream, one, first=first, last=last, known=known, since=since, ahead=AHEAD
                )
                sources.append(await stack.enter_async_context(aclosing(found)))
            async for page in sources[0] if len(sources) == 1 else _merged(sources):
                yield page
            return
        found = pages(connection, stream, None, first=first, last=last, known=last, since=since, ahead=AHEAD)
        async for page in await stack.enter_async_context(aclosing(found)):
            if wanted:
                page = [m for m in page if any(fits(one, m.subject) for one in wanted)]  # noqa: PLW2901
            if page:
                yield page


async def _merged(sources: Sequence[AsyncIterator[Page]]) -> AsyncIterator[Page]:
    """Merge pages of several sources, each in order, into pages in order; what two have counts once.

    A merged page ends where the shortest of the present pages ends: beyond it an unread page of
    that source may still hold something.
    """
    fronts: dict[int, list[StoredMessage]] = {}
    for place, source in enumerate(sources):
        await _advance(fronts, place, source)
    while fronts:
        border = min(front[-1].sequence for front in fronts.values())
        merged: dict[int, StoredMessage] = {}
        for place in list(fronts):
            front = fronts[place]
            ready = sum(1 for message in front if message.sequence <= border)
            merged.update((message.sequence, message) for message in front[:ready])
            fronts[place] = front[ready:]
            if not fronts[place]:
                await _advance(fronts, place, sources[place])
        yield [merged[sequence] for sequence in sorted(merged)]


async def _advance(fronts: dict[int, list[StoredMessage]], place: int, source: AsyncIterator[Page]) -> None:
    page = await anext(source, None)
    if page is None:
        fronts.pop(place, None)
    else:
        fronts[place] = list(page)
