"""`jetstream.link`: a client that breaks in a way it has no name for is replaced, and nothing outlives it."""

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest

from lucid_events.errors import AppendUncertain, StoreUnavailable
from lucid_events.jetstream import link
from lucid_events.jetstream.connection import connect
from lucid_events.jetstream.link import Link
from lucid_events.jetstream.options import NatsOptions

OPTIONS = NatsOptions(request_timeout_s=5.0)

BROKEN = RuntimeError("unable to perform operation on <TCPTransport closed>; the handler is closed")


class FakeClient:
    """A client that answers every message, unless it is told to raise."""

    def __init__(self, raises: Exception | None = None, *, when: str = "") -> None:
        self._raises, self._when = raises, when
        self._answer: Callable[[Any], Awaitable[None]] | None = None
        self.is_connected, self.is_closed, self.pending_data_size, self.max_payload = True, False, 0, 1 << 20

    def _reach(self, what: str) -> None:
        if self._raises is not None and what == self._when:
            raise self._raises

    async def subscribe(self, subject: str, *, cb: Callable[[Any], Awaitable[None]], **_: Any) -> object:
        self._reach("subscribe")
        self._answer = cb
        return SimpleNamespace()

    async def publish(self, subject: str, data: bytes, reply: str, headers: dict[str, str] | None) -> None:
        self._reach("publish")
        if self._answer is not None and reply:
            await self._answer(SimpleNamespace(subject=reply, headers=None, data=b"ok", reply=""))

    def rtt(self, **_: float) -> Awaitable[float]:
        self._reach("ping")
        return self._pong()

    async def _pong(self) -> float:
        return 0.1

    async def close(self) -> None:
        self.is_closed, self.is_connected = True, False


@pytest.fixture
def clients(monkeypatch: pytest.MonkeyPatch) -> list[FakeClient]:
    """The clients to be opened, in order; what is opened is taken off."""
    waiting: list[FakeClient] = []

    async def open_client(*_: object) -> FakeClient:
        return waiting.pop(0)

    monkeypatch.setattr(link, "open_client", open_client)
    monkeypatch.setattr(link, "RETRY_MAX_S", 0.01)
    return waiting


def test_a_client_that_breaks_while_it_sends_is_replaced(clients: list[FakeClient]) -> None:
    """What was being sent is uncertain, and what comes later goes out on the next client."""

    async def main() -> None:
        first, second = FakeClient(BROKEN, when="publish"), FakeClient()
        clients.extend([first, second])
        async with connect(OPTIONS) as connection:
            lost = connection.call("lucid.a", b"")
            later = connection.call("lucid.b", b"")
            with pytest.raises(AppendUncertain, match="connection was lost"):
                await lost
            assert (await later).data == b"ok"
            assert (connection.connected, connection.replacements, first.is_closed) == (True, 1, True)

    asyncio.run(main())


def test_a_client_that_breaks_at_a_barrier_is_replaced(clients: list[FakeClient]) -> None:
    """A barrier that can't be set says that it does not hold; the connection goes on."""

    async def main() -> None:
        clients.extend([FakeClient(BROKEN, when="ping"), FakeClient()])
        async with connect(OPTIONS) as connection:
            with pytest.raises(StoreUnavailable, match="was lost"):
                await connection.barrier()
            assert (await connection.request("lucid.a")).data == b"ok"

    asyncio.run(main())


def test_a_client_that_breaks_as_it_takes_over_is_not_the_last(clients: list[FakeClient]) -> None:
    """Whatever keeps a new client from taking over, it is closed, and another one is tried."""

    async def main() -> None:
        unfit = FakeClient(BROKEN, when="subscribe")
        clients.extend([FakeClient(BROKEN, when="publish"), unfit, FakeClient()])
        async with connect(OPTIONS) as connection:
            lost = connection.call("lucid.a", b"")
            later = connection.call("lucid.b", b"")
            with pytest.raises(AppendUncertain):
                await lost
            assert (await later).data == b"ok"
            assert unfit.is_closed
            assert connection.replacements == 1

    asyncio.run(main())


def test_a_client_that_breaks_while_it_is_watched_is_replaced(
    clients: list[FakeClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when nothing is sent, a client that can't even be asked is not kept."""
    monkeypatch.setattr(link, "WATCH_S", 0.01)

    async def main() -> None:
        broken = FakeClient(BROKEN, when="ping")
        clients.extend([broken, FakeClient()])
        async with connect(OPTIONS) as connection:
            back = asyncio.Event()
            connection.on_reconnect(back.set)
            async with asyncio.timeout(10):
                await back.wait()
            assert (broken.is_closed, connection.replacements) == (True, 1)

    asyncio.run(main())


def test_a_reconnect_callback_that_fails_hurts_nobody(clients: list[FakeClient]) -> None:
    """The callbacks behind one that raises are called, and the client stays."""

    async def main() -> None:
        clients.extend([FakeClient(BROKEN, when="publish"), FakeClient()])
        async with connect(OPTIONS) as connection:
            back = asyncio.Event()

            def fails() -> None:
                raise KeyError("a bug")

            connection.on_reconnect(fails)
            connection.on_reconnect(back.set)
            connection.publish("lucid.a")
            async with asyncio.timeout(10):
                await back.wait()
            assert (await connection.request("lucid.b")).data == b"ok"
            assert connection.replacements == 1

    asyncio.run(main())


def test_a_client_that_can_not_be_used_is_closed(clients: list[FakeClient]) -> None:
    """When opening fails behind the connecting, nothing is left that would reconnect for ever."""

    async def main() -> None:
        unfit = FakeClient(BROKEN, when="subscribe")
        clients.append(unfit)
        with pytest.raises(RuntimeError):
            async with connect(OPTIONS):
                pass
        assert unfit.is_closed

    asyncio.run(main())


def test_a_connection_that_never_opened_closes() -> None:
    """Closing what has no client yet is harmless."""

    async def main() -> None:
        await Link(OPTIONS).close()

    asyncio.run(main())
