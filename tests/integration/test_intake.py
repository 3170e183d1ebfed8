"""`jetstream.intake` against nats-py's own way: the same messages come out."""

import asyncio

import nats
from hypothesis import given
from hypothesis import strategies as st
from nats.aio.client import Client
from nats.aio.msg import Msg

from lucid_events.jetstream.connection import Message, NatsOptions, connect
from lucid_events.jetstream.intake import IntakeClient
from lucid_events.jetstream.transport import BlockTransport
from tests.barrier import settled
from tests.nats_server import NatsServer

LINES = st.lists(
    st.one_of(
        st.binary(max_size=20).filter(lambda line: b"\r\n" not in line),
        st.tuples(
            st.sampled_from([b"ce-id", b" Lucid-Prev ", b"a b", b"\xc3\xa9", b""]), st.binary(max_size=12)
        )
        .map(lambda pair: pair[0] + b":" + pair[1])
        .filter(lambda line: b"\r\n" not in line),
    ),
    max_size=8,
)


@given(LINES)
def test_headers_are_parsed_as_nats_py_does(lines: list[bytes]) -> None:
    """Whatever stands in a block of headers, both parsers make the same of it."""
    block = b"\r\n".join(lines) + b"\r\n\r\n"
    assert IntakeClient._parse_header_lines(block) == Client._parse_header_lines(block)


def test_nats_py_still_has_what_is_replaced() -> None:
    """The inner methods that are replaced exist under the names that are replaced."""
    for name in ("_parse_header_lines", "_process_msg", "_process_headers", "_remove_sub"):
        assert callable(getattr(Client, name))


def test_messages_come_out_as_from_nats_py(shared_server: NatsServer) -> None:
    """Subject, reply, headers and bytes of a message are those nats-py delivers, statuses included."""

    async def main() -> None:
        taken: list[Message] = []
        plain: list[Msg] = []
        done = asyncio.Event()

        def take(message: Message) -> None:
            taken.append(message)
            if message.subject == "in.end":
                done.set()

        async def keep(message: Msg) -> None:
            plain.append(message)

        client = await nats.connect(shared_server.url)
        try:
            async with asyncio.timeout(30), connect(NatsOptions(servers=(shared_server.url,))) as connection:
                await client.subscribe("in.>", cb=keep)
                await settled(client)
                await connection.subscribe("in.>", take, confirm=True)
                sender = await nats.connect(shared_server.url)
                await sender.publish("in.a", b"")
                await sender.publish("in.b", bytes(range(256)) * 1000, reply="some.where")
                await sender.publish("in.c", b"x", headers={"A": "b", "C-d": "é: \u00a0", "Empty": ""})
                await sender.publish("in.end", b"last")
                await sender.drain()
                await done.wait()
                while len(plain) < len(taken):  # noqa: ASYNC110 # nats-py's own queue says nothing
                    await asyncio.sleep(0.001)
                # A status line comes from the server alone.
                reply = await connection.call("nobody.serves.this")
                assert (reply.status, reply.data) == ("503", b"")
        finally:
            await client.close()
        assert [(m.subject, m.reply, dict(m.headers), m.data) for m in taken] == [
            (m.subject, m.reply, m.headers or {}, m.data) for m in plain
        ]

    asyncio.run(main())


def test_a_failing_function_ends_nothing(shared_server: NatsServer) -> None:
    """A function that raises loses its message; the connection goes on reading."""

    async def main() -> None:
        heard = asyncio.Event()

        def fail(message: Message) -> None:
            if message.data == b"bad":
                raise ValueError("a bug")
            heard.set()

        async with asyncio.timeout(30), connect(NatsOptions(servers=(shared_server.url,))) as connection:
            await connection.subscribe("fail.x", fail, confirm=True)
            connection.publish("fail.x", b"bad")
            connection.publish("fail.x", b"good")
            await heard.wait()
            assert connection.replacements == 0

    asyncio.run(main())


def test_large_messages_come_in_by_our_transport(shared_server: NatsServer) -> None:
    """nats-py reads through the transport it is given, on the first connection and after one was lost."""

    async def main() -> None:
        clients: list[Client] = []
        taken: asyncio.Queue[Message] = asyncio.Queue()
        back = asyncio.Event()

        async def note(client: Client) -> None:
            clients.append(client)

        async with asyncio.timeout(30), connect(NatsOptions(servers=(shared_server.url,))) as connection:
            await connection.on_client(note)
            connection.on_reconnect(back.set)
            await connection.subscribe("in.large", taken.put_nowait, confirm=True)
            large = bytes(range(256)) * 3000
            for turn in range(2):
                transport = clients[-1]._transport
                assert isinstance(transport, BlockTransport)
                for size in (len(large), 10, len(large) - 1, 70_000):
                    connection.publish("in.large", large[:size])
                    assert (await taken.get()).data == large[:size]
                if not turn:
                    transport.abort()
                    await back.wait()
                    await connection.barrier()

    asyncio.run(main())
