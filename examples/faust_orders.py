"""Orders added up per customer, exactly once, on NATS.

    lucid up --data ./orders-data &          # or any nats-server -js from 2.12 on
    NATS_URL=nats://127.0.0.1:4222 python examples/faust_orders.py

Run it twice: the second run finds the totals of the first. For more workers beside each other:
`faust -A examples.faust_orders worker --without-web`.
"""

import asyncio
import os
from typing import Any

from lucid_events.faust_nats import create_app, running

CUSTOMERS, ORDERS = ("ann", "bob", "eve"), 30
DONE_S = 30.0

app = create_app("orders-example", os.environ.get("NATS_URL", "nats://127.0.0.1:4222"))
orders = app.topic("orders", key_type=str, value_serializer="json", partitions=4)
totals = app.Table("totals", default=int, partitions=4)


@app.agent(orders)
async def add_up(stream: Any) -> None:
    """Add each order to its customer's total."""
    async for customer, amount in stream.items():
        totals[customer] += amount


async def main() -> None:
    """Send some orders and print the totals once they are in."""
    async with running(app):
        before = sum(totals.values())
        for number in range(ORDERS):
            await orders.send(key=CUSTOMERS[number % len(CUSTOMERS)], value=number)
        async with asyncio.timeout(DONE_S):
            while sum(totals.values()) < before + sum(range(ORDERS)):  # noqa: ASYNC110 - a table tells nobody
                await asyncio.sleep(0.05)
        for customer, total in sorted(totals.items()):
            print(f"{customer}: {total}")


if __name__ == "__main__":
    asyncio.run(main())
