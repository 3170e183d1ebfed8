"""Opens and closes one client of nats-py: a first answer in time, or an error that says why not."""

import asyncio
import logging
from typing import Final, Protocol

from nats.aio.client import Client

from lucid_events.errors import ConfigError, StoreUnavailable
from lucid_events.jetstream.faults import CLIENT_ERRORS, described, is_refusal
from lucid_events.jetstream.intake import IntakeClient
from lucid_events.jetstream.options import NatsOptions, client_options
from lucid_events.jetstream.sockets import TidyClient

log = logging.getLogger(__name__)

_never_opened: tuple[type[Exception], ...] = (*CLIENT_ERRORS, AssertionError, AttributeError, RuntimeError)
"""What closing raises; the last three are how a client says so that never connected, or whose
connection broke at that moment (uvloop raises a plain RuntimeError)."""

CLOSE_S: Final = 5.0
"""What an orderly goodbye may take; a server that hangs does not hold up the end of a process longer."""


class ClientEvents(Protocol):
    """Who wants to know what becomes of a client."""

    def client_erred(self, client: Client, exc: Exception) -> None:
        """Something went wrong; the client goes on."""

    def client_lost(self, client: Client) -> None:
        """The server is away; the client looks for it."""

    def client_returned(self, client: Client) -> None:
        """The server is back."""

    def client_closed(self, client: Client) -> None:
        """The client has given up for good."""


async def open_client(options: NatsOptions, events: ClientEvents) -> Client:
    """Return a connected client that reconnects for ever.

    nats-py alone would also try for ever at first, whatever the reason.

    Raises:
        StoreUnavailable: no server answered within `connect_timeout_s`.
        ConfigError: the server refuses the credentials, or a TLS file cannot be read.
    """
    client: Client = IntakeClient()
    refused: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
    trouble: list[Exception] = []

    async def on_error(exc: Exception) -> None:
        trouble[:] = [exc]
        if is_refusal(exc) and not refused.done():
            refused.set_result(exc)
        events.client_erred(client, exc)

    async def on_disconnect() -> None:
        events.client_lost(client)

    async def on_reconnect() -> None:
        events.client_returned(client)

    async def on_close() -> None:
        events.client_closed(client)

    connecting = asyncio.create_task(
        client.connect(
            **client_options(options),
            error_cb=on_error,
            disconnected_cb=on_disconnect,
            reconnected_cb=on_reconnect,
            closed_cb=on_close,
        )
    )
    waited: set[asyncio.Future[object]] = {connecting, refused}  # type: ignore[arg-type]  # only waited for
    try:
        await asyncio.wait(waited, timeout=options.connect_timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if connecting.done():
            connecting.result()
            return client
    except CLIENT_ERRORS as exc:
        trouble[:] = [exc]
    finally:
        if not client.is_connected:
            connecting.cancel()
            await asyncio.gather(connecting, return_exceptions=True)
            await close_client(client)
    said = described(trouble[0]) if trouble else f"no answer within {options.connect_timeout_s:g} s"
    if refused.done():
        raise ConfigError(f"{options.server} refuses our credentials: {said}")
    raise StoreUnavailable(
        f"{options.server} can not be reached ({said}): start one with `lucid up`, or name another with "
        "NATS_URL or --server"
    )


async def close_client(client: Client) -> None:
    """Close `client` for good within `CLOSE_S`; whatever it holds is dropped."""
    try:
        async with asyncio.timeout(CLOSE_S):
            await client.close()
    except _never_opened as exc:
        log.debug("the client did not close in order", extra={"reason": described(exc)})
    finally:
        if isinstance(client, TidyClient):
            client.let_go()
