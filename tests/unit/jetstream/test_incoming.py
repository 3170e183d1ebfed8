"""`jetstream.incoming`: however the bytes come, what nats-py would make of them comes out."""

import asyncio
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from nats.errors import ProtocolError
from nats.protocol.parser import Parser

from lucid_events.jetstream.incoming import KEEP_BYTES, BulkParser
from lucid_events.jetstream.transport import BlockReader

LARGE = b"x" * (KEEP_BYTES + 7)


class Heard:
    """Stands where the client stands and notes what it is told."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: Any) -> None:
        assert type(data) is bytes, "what is handed on is not a view of a buffer"
        self.told.append((sid, subject, reply, data, headers or b""))

    async def _process_ping(self) -> None:
        self.told.append("ping")

    async def _process_pong(self) -> None:
        self.told.append("pong")

    async def _process_info(self, info: dict[str, Any]) -> None:
        self.told.append(info)

    async def _process_err(self, message: str) -> None:
        self.told.append(message)


def message(subject: bytes, data: bytes, *, reply: bytes = b"", headers: bytes = b"") -> bytes:
    """Return a message as the server writes it."""
    block = b"NATS/1.0\r\n" + headers + b"\r\n" if headers else b""
    middle = b" " + reply if reply else b""
    if block:
        sizes = b"%d %d" % (len(block), len(block) + len(data))
        return b"HMSG " + subject + b" 7" + middle + b" " + sizes + b"\r\n" + block + data + b"\r\n"
    return b"MSG " + subject + b" 7" + middle + b" %d\r\n" % len(data) + data + b"\r\n"


def read_in_place(stream: bytes, reads: list[int]) -> list[Any] | str:
    """Return what the parser tells of `stream`, when each read of the socket brings at most so many bytes."""

    async def main() -> list[Any] | str:
        client = Heard()
        parser = BulkParser(client)
        reader = BlockReader(parser)
        at, sizes = 0, iter([*reads, *([len(stream)] * (len(stream) + 1))])
        try:
            while at < len(stream):
                place = reader.get_buffer(-1)
                count = min(len(place), max(next(sizes), 1), len(stream) - at)
                place[:count] = stream[at : at + count]
                del place
                reader.buffer_updated(count)
                at += count
                # As a busy process does: the socket is read again before what it gave is parsed.
                if next(sizes) % 2 or at == len(stream):
                    while not reader.at_eof() and reader.waiting:
                        await parser.parse(await reader.read())
        except ProtocolError:
            return "refused"
        return client.told

    return asyncio.run(main())


def heard(kind: type[Parser], stream: bytes, cuts: list[int]) -> list[Any] | str:
    """Return what a parser tells of `stream`, given to it in blocks that end at `cuts`."""

    async def main() -> list[Any] | str:
        client = Heard()
        parser = kind(client)
        ends = sorted({min(cut, len(stream)) for cut in cuts} | {len(stream)})
        begin = 0
        try:
            for end in ends:
                await parser.parse(stream[begin:end])
                begin = end
        except ProtocolError:
            return "refused"
        return client.told

    return asyncio.run(main())


PARTS = st.one_of(
    st.builds(
        message,
        st.sampled_from([b"a", b"lucid.evt.s.chunk.ready"]),
        st.sampled_from([b"", b"x", b"\r\n", b"MSG a 7 1\r\nx\r\n", LARGE]) | st.binary(max_size=40),
        reply=st.sampled_from([b"", b"_INBOX.x.1"]),
        headers=st.sampled_from([b"", b"ce-id: 1\r\n", b"k: " + b"v" * 200 + b"\r\n"]),
    ),
    st.sampled_from([b"PING\r\n", b"PONG\r\n", b"+OK\r\n", b"-ERR 'x'\r\n", b'INFO {"a": 1}\r\n']),
)


@given(st.lists(PARTS, max_size=6), st.lists(st.integers(0, 2 * KEEP_BYTES), max_size=8))
@example([message(b"a", LARGE)], [len(message(b"a", LARGE)) - 1])
@example([message(b"a", LARGE, headers=b"k: v\r\n"), b"PING\r\n"], [1, 20, 30, 40])
def test_messages_are_parsed_as_nats_py_does(parts: list[bytes], cuts: list[int]) -> None:
    """Wherever the blocks of the socket end, the same is told in the same order."""
    stream = b"".join(parts)
    assert heard(BulkParser, stream, cuts) == heard(Parser, stream, [])


def test_nats_py_is_not_left_with_what_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever a block ends, in a message's line too, nats-py gets only the lines that are no message's."""
    seen: list[bytes] = []
    parse = Parser.parse

    async def noted(self: Parser, data: bytes = b"") -> None:
        seen.append(data)
        await parse(self, data)

    monkeypatch.setattr(Parser, "parse", noted)
    small = message(b"a", b"x", headers=b"k: v\r\n")
    stream = small + b"PING\r\n" + small + message(b"a", b"y")
    for cut in range(len(small) + len(b"PING\r\n"), len(stream)):
        seen.clear()
        assert len(heard(BulkParser, stream, [cut])) == 4
        assert seen == [b"PING\r\n"]


@given(st.lists(PARTS, max_size=6), st.lists(st.integers(0, 2 * KEEP_BYTES), max_size=12))
@example([message(b"a", LARGE), message(b"b", LARGE)], [40, 1, 3 * KEEP_BYTES, 1])
def test_what_is_read_in_place_is_what_was_sent(parts: list[bytes], reads: list[int]) -> None:
    """However much each read brings, and however late it is parsed, the same is told in the same order."""
    stream = b"".join(parts)
    assert read_in_place(stream, reads) == heard(Parser, stream, [])


def test_a_large_message_is_read_without_a_copy() -> None:
    """Behind the block with its head, every byte of a message goes to its place, and wakes nobody before."""
    stream = message(b"a", LARGE)

    async def main() -> None:
        client = Heard()
        parser = BulkParser(client)
        reader = BlockReader(parser)
        await parser.parse(stream[:20])
        at, places = 20, []
        while at < len(stream):
            assert not reader.waiting
            place = reader.get_buffer(-1)
            places.append(len(place))
            place[:9999] = stream[at : at + 9999]
            del place
            reader.buffer_updated(min(9999, len(stream) - at))
            at += 9999
        assert places == list(range(len(stream) - 20, 0, -9999))
        await parser.parse(await reader.read())
        assert client.told == [(7, b"a", b"", LARGE, b"")]

    asyncio.run(main())


@given(st.binary(max_size=60))
@example(b"HMSG a 7 " + b"x" * 5000)
@example(b"MSG a 7 x\r\n")
@example(b"MSG a b 7 c 1\r\nx\r\n")
@example(b"HMSG a 7 9 4\r\nxxxx\r\n")
@example(b"what\r\n")
def test_what_is_no_message_is_judged_by_nats_py(junk: bytes) -> None:
    """Bytes that are not the protocol are refused, or waited for, as nats-py does."""
    stream = message(b"a", b"first") + junk
    assert heard(BulkParser, stream, []) == heard(Parser, stream, [])


def test_a_new_connection_begins_with_nothing() -> None:
    """What a lost connection left half way is not mixed with what the next one brings."""

    async def main() -> None:
        for left in (message(b"a", LARGE)[:-10], message(b"a", b"small")[:-3]):
            client = Heard()
            parser = BulkParser(client)
            await parser.parse(left)
            parser.reset()
            await parser.parse(message(b"b", b"new"))
            assert [told[1] for told in client.told] == [b"b"]

    asyncio.run(main())
