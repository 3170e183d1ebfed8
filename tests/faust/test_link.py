"""The connection under the driver, where it ends rather than where it works."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
from nats.aio.msg import Msg

from lucid_events.faust_nats.link import Link, Outgoing
from lucid_events.faust_nats.options import Options


class _Late:
    """A client whose reply comes together with the cancellation of who waits for it."""

    is_connected = True

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    async def publish(self, subject: str, data: bytes, **more: Any) -> None:
        """Take it."""

    async def request(self, subject: str, data: bytes, **more: Any) -> Msg:
        self.asked.set()
        with suppress(asyncio.CancelledError):  # as `asyncio.wait_for` does before Python 3.12
            await asyncio.Event().wait()
        return Msg(self, subject="reply", data=b'{"seq": 1, "count": 1}')  # type: ignore[arg-type]  # enough


@pytest.mark.parametrize(
    "asking",
    [lambda link: link.api("INFO"), lambda link: link.batch([Outgoing("a", b"", {})])],
    ids=["request", "batch"],
)
def test_a_reply_that_comes_with_a_cancellation_does_not_undo_it(
    asking: Callable[[Link], Awaitable[object]],
) -> None:
    """Who cancels a task that asks the server may wait for its end: readers and leaving workers do."""

    async def run() -> None:
        link, client = Link(Options(servers=("nats://nowhere",)), "test"), _Late()
        link._client = client  # type: ignore[assignment]  # as much of one as is used
        task = asyncio.ensure_future(asking(link))
        await client.asked.wait()
        task.cancel()
        await asyncio.wait((task,))
        assert task.cancelled()

    asyncio.run(run())
