"""`service.connect` on a server that comes late, or goes at the moment it is asked."""

import asyncio
import logging

import pytest

from lucid_events.config import Settings
from lucid_events.domain.values import MIB
from lucid_events.errors import StoreUnavailable
from lucid_events.projections.live_views import LiveViews
from lucid_events.service.adapters import open_adapters
from lucid_events.service.client import connect
from lucid_events.service.embedded import prepare
from tests.nats_server import NatsServer

PATIENCE_S = 60.0


async def set_up(server: NatsServer) -> None:
    """Make a pipeline on a bare server."""
    async with open_adapters(Settings(nats_url=server.url), name="set-up") as adapters:
        await prepare(adapters, capture_max_bytes=64 * MIB, sync="always")


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the reasons of the warnings that the server is waited for."""
    return [
        str(getattr(one, "reason", ""))
        for one in caplog.records
        if one.levelno == logging.WARNING and one.getMessage() == "waiting for the server"
    ]


def test_a_server_that_dies_while_it_is_asked_is_waited_for(
    server: NatsServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Gone between connection and first question, and back: a client is there, and one warning said why."""
    refresh, asked = LiveViews.refresh, 0

    async def killed(views: LiveViews) -> None:
        nonlocal asked
        asked += 1
        if asked == 1:
            await asyncio.to_thread(server.kill)
        await refresh(views)

    async def main() -> None:
        await set_up(server)
        monkeypatch.setattr(LiveViews, "refresh", killed)
        settings = Settings(nats_url=server.url)
        with pytest.raises(StoreUnavailable):
            async with connect(settings):
                pass
        assert not told(caplog)
        await asyncio.to_thread(server.start)
        nonlocal asked
        asked = 0

        async def back() -> None:
            while not told(caplog):  # noqa: ASYNC110 - told by another task
                await asyncio.sleep(0.01)
            await asyncio.to_thread(server.start)

        returning = asyncio.create_task(back())
        async with asyncio.timeout(PATIENCE_S), connect(settings, wait_s=PATIENCE_S) as client:
            await client.views.refresh()
        await returning
        assert asked >= 3
        assert len(told(caplog)) == 1

    asyncio.run(main())


def test_a_pipeline_that_is_set_up_late_is_waited_for(
    server: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    """A server without streams is one that may be getting them at this moment."""

    async def main() -> None:
        async def late() -> None:
            while not told(caplog):  # noqa: ASYNC110 - told by another task
                await asyncio.sleep(0.01)
            await set_up(server)

        setting_up = asyncio.create_task(late())
        async with (
            asyncio.timeout(PATIENCE_S),
            connect(Settings(nats_url=server.url), wait_s=PATIENCE_S) as client,
        ):
            await client.views.refresh()
        await setting_up

    asyncio.run(main())


def test_the_wait_is_bounded(server: NatsServer) -> None:
    """Whoever waits in vain is told that, and for how long; who did not ask for it does not wait."""

    async def main() -> None:
        settings = Settings(nats_url=server.url)
        for wait_s in (0.0, 0.2):
            with pytest.raises(StoreUnavailable) as caught:
                async with connect(settings, wait_s=wait_s):
                    pass
            assert caught.value.message.endswith("it was waited for, 0.2 s in vain") is bool(wait_s)

    asyncio.run(main())
