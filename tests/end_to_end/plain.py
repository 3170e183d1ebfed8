"""What an integrator has: a NATS client, subjects and JSON. Nothing of our package is imported here."""

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import nats
from nats.aio.client import Client
from nats.errors import TimeoutError as NothingCame
from nats.js.api import AckPolicy, ConsumerConfig

from tests.end_to_end.pipeline import Pipeline

ASK_S = 20.0
"""Bound of one request: a loaded machine, and a chunk of work before ours."""
WAIT_S = 30.0
FETCH_S = 1.0

_numbers = itertools.count()


class Stored(NamedTuple):
    """One message of a stream."""

    sequence: int
    subject: str
    headers: Mapping[str, str]
    data: bytes

    @property
    def type(self) -> str:
        """Wire name of the event; empty when it is none."""
        return self.headers.get("ce-type", "")

    @property
    def body(self) -> dict[str, Any]:
        return dict(json.loads(self.data))


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Client]:
    """Connect as anybody could."""
    client = await nats.connect(url, max_reconnect_attempts=-1, reconnect_time_wait=0.1, error_cb=_ignore)
    try:
        yield client
    finally:
        await client.close()


async def ask(
    client: Client,
    session: str,
    verb: str,
    body: object = None,
    *,
    headers: dict[str, str] | None = None,
    within_s: float = ASK_S,
) -> dict[str, Any]:
    """Send a command and return its answer."""
    data = body if isinstance(body, bytes) else json.dumps({} if body is None else body).encode()
    reply = await client.request(f"lucid.cmd.{session}.{verb}", data, timeout=within_s, headers=headers)
    return dict(json.loads(reply.data))


async def stored(client: Client, stream: str, subject: str) -> list[Stored]:
    """Return what a stream holds under `subject`, oldest first."""
    config = ConsumerConfig(ack_policy=AckPolicy.NONE, filter_subject=subject, inactive_threshold=60)
    js = client.jetstream()
    made = await js.add_consumer(stream, config)
    found: list[Stored] = []
    left = made.num_pending or 0
    reading = await js.pull_subscribe_bind(made.name, stream)
    deadline = time.monotonic() + WAIT_S
    while left > 0:
        assert time.monotonic() < deadline, f"{stream} {subject} was not read within {WAIT_S:g} s"
        for message in await reading.fetch(min(left, 256), timeout=WAIT_S):
            place = message.metadata
            left = place.num_pending
            found.append(Stored(place.sequence.stream, message.subject, message.headers or {}, message.data))
    await reading.unsubscribe()
    await js.delete_consumer(stream, made.name)
    return found


async def history(client: Client, session: str) -> list[Stored]:
    """Return a session's history as the log has it."""
    return await stored(client, "LUCID_EVENTS", f"lucid.evt.{session}.>")


async def outcome(client: Client, subject: str) -> dict[str, Any]:
    """Return the outcome on `subject` of `LUCID_OUTCOMES`, once it is there."""
    js = client.jetstream()
    reading = await js.pull_subscribe(subject, stream="LUCID_OUTCOMES")
    try:
        (message,) = await reading.fetch(1, timeout=WAIT_S)
        return dict(json.loads(message.data))
    finally:
        await reading.unsubscribe()


async def until_stored(client: Client, session: str, type_: str, count: int = 1) -> list[Stored]:
    """Return the session's events of one type once there are `count` of them."""
    js = client.jetstream()
    noun, fact, _ = type_.split(".")
    subject = f"lucid.evt.{session}.{noun}.{fact}"
    config = ConsumerConfig(ack_policy=AckPolicy.NONE, filter_subject=subject, inactive_threshold=60)
    made = await js.add_consumer("LUCID_EVENTS", config)
    reading = await js.pull_subscribe_bind(made.name, "LUCID_EVENTS")
    found: list[Stored] = []
    deadline = time.monotonic() + WAIT_S
    while len(found) < count:
        assert time.monotonic() < deadline, f"{len(found)} of {count} {type_} of {session} in {WAIT_S:g} s"
        try:
            messages = await reading.fetch(count - len(found), timeout=FETCH_S)
        except NothingCame:
            continue
        found += [Stored(m.metadata.sequence.stream, m.subject, m.headers or {}, m.data) for m in messages]
    await reading.unsubscribe()
    await js.delete_consumer("LUCID_EVENTS", made.name)
    return found


def survives(pipeline: Pipeline, main: Callable[[Client], Awaitable[None]]) -> None:
    """Run `main` with a plain client; afterwards the same service must still take a good command."""
    assert pipeline.service is not None
    pid = pipeline.service.pid

    async def run() -> None:
        async with connected(pipeline.url) as client:
            await main(client)
            name = f"good-{next(_numbers)}"
            assert (await ask(client, name, "create"))["state"] == "created"
            assert [event.type for event in await history(client, name)] == ["session.created.v1"]

    asyncio.run(run())
    assert (pipeline.service.code, pipeline.service.pid) == (None, pid)


def refused(answer: dict[str, Any], *codes: str, field: str | None = None) -> dict[str, Any]:
    """Check that `answer` is an error in the agreed form and one of `codes`; returns it."""
    assert set(answer) == {"error"}, answer
    error: dict[str, Any] = answer["error"]
    known = {"code", "message", "retry", "field", "allowed", "state"}
    assert {"code", "message", "retry"} <= set(error) <= known, error
    assert error["code"] in codes, error
    assert error["message"]
    assert error["retry"] is False
    assert field is None or error.get("field") == field, error
    return error


async def _ignore(error: Exception) -> None:
    """A server that is killed by the test is no news."""
