"""Names of subjects, and where keys belong."""

from __future__ import annotations

import asyncio
import random

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import given

from lucid_events.faust_nats.errors import Unsupported
from lucid_events.faust_nats.protocol import headers_for, read
from lucid_events.faust_nats.topology import EventLog, Names, key_of, key_token, partition, token
from tests.faust.workers import connect
from tests.nats_server import NatsServer

KEYS = 10_000


@given(st.binary(max_size=96))
def test_a_key_survives_its_token(key: bytes) -> None:
    """A key of up to 96 bytes comes back from its subject token, which is one token."""
    made = key_token(key)
    assert key_of(made) == key
    assert made.isascii()
    assert not set(made) & set(". *>\r\n")


@given(st.text(min_size=1), st.text(min_size=1))
def test_names_do_not_collide(one: str, other: str) -> None:
    """Different topics have different tokens, each fit for a subject and a stream's name."""
    try:
        made = token(one), token(other)
    except UnicodeEncodeError:
        return
    assert (made[0] == made[1]) == (one == other)
    assert all(part and not set(part) & set(". *>/\\\r\n\t") for part in made)


@given(
    st.none() | st.binary(max_size=300),
    st.none() | st.binary(),
    st.none() | st.floats(allow_nan=False, allow_infinity=False),
    st.lists(st.tuples(st.text(st.characters(codec="utf-8")), st.binary())),
)
def test_a_message_survives_the_wire(
    key: bytes | None, value: bytes | None, stamp: float | None, user: list[tuple[str, bytes]]
) -> None:
    """Key, value (None is not empty), timestamp and headers (repeated ones too) come back as they were."""
    headers = headers_for(key, value, stamp, user)
    subject = Names("faust", "app").message("topic", 3, key)
    record = read(subject, headers, value or b"", 7, 5.0)
    assert (record.key, record.value, record.offset) == (key, value, 7)
    assert record.timestamp == (5.0 if stamp is None else stamp)
    assert (record.headers or []) == user


def test_the_partitioner_agrees_with_the_server(server: NatsServer, rng: random.Random) -> None:
    """For 10,000 random keys the client's partition is the one of the server's partition() transform."""
    keys = [
        bytes(rng.choices(b"abcdefghijklmnopqrstuvwxyz0123456789_-", k=rng.randint(1, 40)))
        for _ in range(KEYS)
    ]

    async def run() -> None:
        client = await connect(server.url)
        try:
            config = {
                "name": "P",
                "subjects": ["p.*"],
                "subject_transform": {"src": "p.*", "dest": "p.{{partition(13,1)}}.{{wildcard(1)}}"},
                "allow_direct": True,
            }
            await client.request("$JS.API.STREAM.CREATE.P", msgspec.json.encode(config))
            js = client.jetstream(timeout=60)
            for start in range(0, KEYS, 1000):
                acks = [
                    await js.publish_async(f"p.{key.decode()}", b"") for key in keys[start : start + 1000]
                ]
                await asyncio.gather(*acks)
            found: list[str] = []
            subscription = await js.subscribe("", stream="P", ordered_consumer=True)
            for _ in range(KEYS):
                found.append((await subscription.next_msg(timeout=30)).subject)
        finally:
            await client.close()
        stored = [subject.split(".") for subject in found]
        wrong = [key for _, number, key in stored if partition(key.encode(), 13) != int(number)]
        assert len(stored) == KEYS
        assert not wrong

    asyncio.run(run())


def test_an_event_log_takes_its_key_from_the_subject() -> None:
    """The key of an event is a token of its subject, and events of one key share a partition."""
    log = EventLog(topic="events", stream="E", subject="a.evt.>", key_token=2, partitions=4)
    assert log.key("a.evt.s1.chunk.ready") == b"s1"
    assert log.partition("a.evt.s1.chunk.ready") == log.partition("a.evt.s1.x") == partition(b"s1", 4)
    assert log.key("a.evt") == b""


def test_a_prefix_that_is_no_token_is_refused() -> None:
    """A prefix with a dot would change the shape of every subject."""
    with pytest.raises(Unsupported, match="prefix"):
        Names("a.b", "app")
