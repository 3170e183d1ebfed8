"""Looking at a session as it is recorded: its status with the gauge of capture, once or until it ends."""

import asyncio
from collections.abc import AsyncGenerator

from lucid_events.domain.ids import SessionId
from lucid_events.domain.transitions import AT_REST
from lucid_events.errors import LucidError
from lucid_events.projections.live_status import LiveStatus, live_status, without_gauge
from lucid_events.projections.status_view import StatusView
from lucid_events.service.client import Client

GAUGE_TIMEOUT_S = 1.0
"""Longest wait for the gauge. Who may not read capture is never answered: at twice, the wait is felt in
every `lucid status`; at half, a busy server's answer comes too late."""
LOOK_S = 1.0
"""Between looks while a recorder is attached; half reads twice as many bytes to show the same."""
IDLE_LOOK_S = 2.0
"""Between looks otherwise; it is what a lost live message costs."""


async def look(client: Client, session: SessionId, *, min_version: int = 0) -> LiveStatus:
    """Return the session's status with the gauge, at least as of `min_version`.

    Raises:
        NotFound: there is no such session.
        NotReady: the view did not get there in time.
    """
    return await _gauged(client, await client.status(session, min_version=min_version))


async def watch(client: Client, session: SessionId) -> AsyncGenerator[LiveStatus, None]:
    """Yield the session's status whenever it or the gauge has changed, until the session has ended."""
    shown: LiveStatus | None = None
    async with client.live.listen(client.subjects.live_history(session)) as feed:
        while True:
            now = await look(client, session)
            if now != shown:
                shown = now
                yield now
            if now.state in AT_REST and not now.chunks.waiting:
                return
            try:
                async with asyncio.timeout(LOOK_S if now.recorder else IDLE_LOOK_S):
                    message = await anext(feed)
            except TimeoutError:
                continue  # nothing said, or the message was lost: look again
            await client.status(session, min_version=message.sequence)


async def _gauged(client: Client, view: StatusView) -> LiveStatus:
    if view.recorder is None and not view.chunks.waiting:
        return live_status(view, None)
    try:
        end = await client.adapters.gauge.end(view.session_id, epoch=view.epoch, timeout_s=GAUGE_TIMEOUT_S)
    except LucidError:
        return without_gauge(view)  # a viewer may not read capture; the view is worth showing all the same
    return live_status(view, end)
