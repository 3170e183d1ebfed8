"""`jetstream.outgoing` against nats-py's own way: the same bytes go out."""

import asyncio
import random

import nats
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from nats.aio.client import Client
from nats.errors import BadHeaderError

from lucid_events.jetstream.outgoing import APART_BYTES, OutgoingClient
from tests.barrier import settled
from tests.nats_server import NatsServer

HEADERS = st.dictionaries(
    st.sampled_from(["ce-id", " Lucid-Prev ", "", "  ", "Nats-Msg-Id", "bad name", "é", "a:b"]),
    st.text(max_size=12) | st.sampled_from(["a\r\nb", " a ", "\n", "ünicode"]),
    max_size=5,
)


def written(kind: type[Client], headers: dict[str, str] | None, payload: bytes, reply: str) -> bytes | str:
    """Return what a client would write for one message, or what it raises."""

    async def main() -> bytes | str:
        client = kind()
        try:
            await client._send_publish("s.x", reply, payload, len(payload), headers)
        except BadHeaderError:
            return "refused"
        assert client._pending_data_size == sum(map(len, client._pending))
        assert client.stats["out_bytes"] == len(payload)
        return b"".join(client._pending)

    return asyncio.run(main())


@given(st.none() | HEADERS, st.binary(max_size=8), st.sampled_from(["", "_INBOX.x"]))
@example({"ce-id": "a"}, bytes(APART_BYTES), "")
@example(None, bytes(APART_BYTES), "_INBOX.x")
def test_what_goes_out_is_what_nats_py_writes(
    headers: dict[str, str] | None, payload: bytes, reply: str
) -> None:
    """Whatever is sent, both ways write the same bytes or refuse it."""
    assert written(OutgoingClient, headers, payload, reply) == written(Client, headers, payload, reply)


def test_nats_py_still_has_what_is_replaced() -> None:
    """The inner method that is replaced exists under its name."""
    assert callable(getattr(Client, "_send_publish"))  # noqa: B009 - the name is the point


@pytest.mark.parametrize("size", [0, 1, APART_BYTES - 1, APART_BYTES, 1_500_000])
def test_messages_of_any_size_arrive_whole(shared_server: NatsServer, rng: random.Random, size: int) -> None:
    """Parts written side by side arrive as one message, also between many others."""

    async def main() -> None:
        client, receiver = OutgoingClient(), await nats.connect(shared_server.url)
        await client.connect(shared_server.url)
        try:
            async with asyncio.timeout(30):
                subscription = await receiver.subscribe("whole.>")
                await settled(receiver)
                sent = [rng.randbytes(size), b"small", rng.randbytes(size)]
                await asyncio.gather(
                    *(
                        client.publish(f"whole.{at}", data, headers={"n": str(at)})
                        for at, data in enumerate(sent)
                    )
                )
                for at, data in enumerate(sent):
                    message = await subscription.next_msg(timeout=30)
                    assert (message.subject, message.headers, message.data) == (
                        f"whole.{at}",
                        {"n": str(at)},
                        data,
                    )
        finally:
            await client.close()
            await receiver.close()

    asyncio.run(main())
