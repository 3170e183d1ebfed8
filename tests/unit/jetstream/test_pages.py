"""`jetstream.pages`: fetching ahead of the reader."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import UTC, datetime

import pytest

from lucid_events.errors import StoreUnavailable
from lucid_events.jetstream.messages import NO_HEADERS, StoredMessage
from lucid_events.jetstream.pages import Page, _ahead

WHEN = datetime(2026, 1, 1, tzinfo=UTC)


def page(sequence: int) -> Page:
    """Return a page of one message."""
    return (StoredMessage("a", sequence, WHEN, NO_HEADERS, b""),)


async def settle() -> None:
    """Let every task go on as far as it can."""
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.mark.parametrize("ahead", [1, 2, 3])
def test_so_many_pages_are_fetched_beyond_the_one_in_hand(ahead: int) -> None:
    """The source goes on while a page is worked on, by as many pages as was said and no more; in order."""

    async def main() -> None:
        fetched = 0

        async def source() -> AsyncGenerator[Page, None]:
            nonlocal fetched
            for sequence in range(1, 8):
                fetched = sequence
                yield page(sequence)

        got = []
        async with aclosing(_ahead(source(), ahead)) as pages:
            async for (message,) in pages:
                got.append(message.sequence)
                await settle()
                assert fetched == min(len(got) + ahead, 7)
        assert got == [1, 2, 3, 4, 5, 6, 7]

    asyncio.run(main())


def test_what_was_fetched_comes_before_the_failure() -> None:
    """A failure of the source is raised where it belongs: behind every page that came before it."""

    async def main() -> None:
        async def source() -> AsyncGenerator[Page, None]:
            yield page(1)
            yield page(2)
            raise StoreUnavailable("gone")

        async with aclosing(_ahead(source(), 3)) as pages:
            assert await anext(pages) == page(1)
            await settle()
            assert await anext(pages) == page(2)
            with pytest.raises(StoreUnavailable, match="gone"):
                await anext(pages)

    asyncio.run(main())


def test_a_reader_that_leaves_ends_the_fetching() -> None:
    """When the reader closes, or is cancelled, the source is closed before that returns."""

    async def main() -> None:
        closed = 0

        async def source() -> AsyncGenerator[Page, None]:
            nonlocal closed
            try:
                yield page(1)
                await asyncio.Event().wait()
                yield page(2)
            finally:
                closed += 1

        async with aclosing(_ahead(source(), 1)) as pages:
            assert await anext(pages) == page(1)
            await settle()
        assert closed == 1

        async def read() -> None:
            async for _ in _ahead(source(), 1):
                pass

        reading = asyncio.create_task(read())
        await settle()
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert closed == 2

    asyncio.run(main())
