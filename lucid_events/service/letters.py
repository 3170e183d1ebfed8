"""Dead letters for an operator, with every reaction at hand to redrive them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from lucid_events.config import Settings
from lucid_events.handlers.dead_letters import DeadLetters
from lucid_events.jetstream.dead_letters import JetStreamDeadLetterStore
from lucid_events.projections.analytics import layout as analytics
from lucid_events.service.adapters import open_adapters
from lucid_events.service.workers import Workers
from lucid_events.subjects import Subjects


@asynccontextmanager
async def open_letters(settings: Settings) -> AsyncIterator[DeadLetters]:
    """Connect, with reactions that run in this process only when a letter is redriven."""
    async with open_adapters(settings, name="lucid-dlq") as adapters:
        workers = Workers(adapters)
        try:
            store = JetStreamDeadLetterStore(adapters.connection, adapters.subjects)
            yield DeadLetters(store, workers.executions(), instead(adapters.subjects))
        finally:
            await workers.compressor.aclose()


def instead(subjects: Subjects) -> dict[str, str]:
    """Return what to do with letters of consumers that read the log in its order: they are past the event."""
    state = analytics.state_stream(subjects.prefix)
    return {
        "status": "views are made from the log in its order, and this event's turn is over; after an upgrade "
        "that reads it, make them anew (`lucid projections rebuild`, then `switch`), then drop the letter",
        analytics.CONSUMER: "the analytics count the log in its order, and this event's turn is over; after "
        f"an upgrade that reads it, let them count afresh: stop them, delete the stream {state} "
        f"(`nats stream rm {state}`), start them; then drop the letter",
    }
