"""Closing a client whose connection breaks at that moment."""

import asyncio

from nats.aio.client import Client

from lucid_events.jetstream.client import close_client


class _Broken(Client):
    async def close(self) -> None:
        raise RuntimeError("unable to perform operation on <TCPTransport closed=True>; the handler is closed")


def test_a_connection_that_breaks_while_it_is_closed_hides_no_other_error() -> None:
    """Closing never raises what uvloop says of a closed transport: the reason for closing is what is told."""
    asyncio.run(close_client(_Broken()))
