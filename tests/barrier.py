"""Knowing that the server has what a plain nats-py client has sent."""

import asyncio

from nats.aio.client import Client

PASSED_S = 30.0


async def settled(client: Client) -> None:
    """Return once the server has processed everything `client` has sent and subscribed.

    nats-py's `flush` and `rtt` promise less: their ping overtakes what is still buffered.
    """
    async with asyncio.timeout(PASSED_S):
        while client.pending_data_size:  # noqa: ASYNC110 - nats-py tells nobody
            await asyncio.sleep(0.001)
        await client.rtt()
