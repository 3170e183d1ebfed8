import hashlib
import io
import json
import tarfile
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lucid_events.domain import events as ev
from lucid_events.domain.ids import Digest, SessionId
from lucid_events.domain.values import Manifest, Quality
from lucid_events.errors import ConfigError, IntegrityError
from lucid_events.evidence import bundle
from lucid_events.evidence.bundle import Line, Log, Message, Proof
from lucid_events.evidence.bundle_contents import Contents
from lucid_events.evidence.bundle_tar import TarReader, TarWriter, header
from lucid_events.evidence.merkle import MerkleTree

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)

headers = st.dictionaries(st.text(min_size=1, max_size=20), st.text(max_size=40), max_size=6)
messages = st.builds(
    Message,
    subject=st.text(max_size=40),
    sequence=st.integers(1, 2**53 - 1),
    stored_at=st.datetimes(min_value=datetime(1000, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001 - hypothesis adds it
    headers=headers,
    data=st.one_of(st.binary(max_size=200), st.text(max_size=200).map(str.encode)),
)


@given(messages)
def test_any_message_comes_back_out_of_its_line(message: Message) -> None:
    """Whatever bytes and headers a message has, its line keeps them, and is one line."""
    text = bundle.encoded(bundle.line_of(message))
    assert text.count(b"\n") == 1
    assert text.endswith(b"\n")
    assert bundle.decoded(text, Line).message() == message


@given(messages)
def test_the_one_spelling_is_that_of_the_standard_library(message: Message) -> None:
    """`json.dumps` without spaces and without escapes makes the very bytes that the format has."""
    line = bundle.line_of(message)
    value: dict[str, Any] = {name: getattr(line, name) for name in line.__struct_fields__}
    value = {name: shown for name, shown in value.items() if shown is not None}
    made = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
    assert bundle.encoded(line) == made


def _lines(text: bytes, limit: int) -> list[bytes]:
    """Return the lines of a member as a reader has them."""
    file = io.BytesIO()
    writer = TarWriter(file)
    writer.add("events.jsonl", text)
    writer.finish()
    file.seek(0)
    tar = TarReader(file, "b.tar")
    assert tar.next() == "events.jsonl"
    return [line for _, line in tar.lines(limit)]


@pytest.mark.parametrize("data", [b"\x01" * 2 * 1024**2, b"\xff" * 2 * 1024**2, "é".encode() * 1024**2])
def test_the_line_of_the_largest_payload_is_read_again(data: bytes) -> None:
    """Whatever the bytes of a message are, the line that is written of it is not too long for the reader."""
    message = Message("lucid.evt.s.noise", 2**53 - 1, NOON, {}, data)
    text = bundle.encoded(bundle.line_of(message))
    (line,) = _lines(text, bundle.MAX_LINE_BYTES)
    assert bundle.decoded(line, Line).message() == message


@pytest.mark.parametrize("before", [b"", b"x\n", b"x" * 2**20 + b"\n" + b"y" * (2**20 - 50) + b"\n"])
def test_a_line_longer_than_the_limit_is_refused(before: bytes) -> None:
    """The limit is exact, wherever a line begins."""
    limit = 2**20 + 1
    assert _lines(before + b"z" * (limit - 1) + b"\n", limit)[-1] == b"z" * (limit - 1) + b"\n"
    for end in (b"\n", b"z" * 2**21, b""):
        with pytest.raises(IntegrityError, match=f"is too long: expected at most {limit} bytes"):
            _lines(before + b"z" * limit + b"z" + end, limit)


GOOD = {
    "sequence": 1,
    "subject": "lucid.evt.s.session.marked",
    "stored_at": "2026-01-31T12:00:00.000000Z",
    "headers": {},
    "body": "x",
}


@pytest.mark.parametrize(
    "change",
    [
        {"body": None},
        {"body_base64": "eA=="},
        {"body": None, "body_base64": "eA=="},
        {"body": None, "body_base64": "/x=="},
        {"body": None, "body_base64": "%%"},
        {"sequence": 0},
        {"sequence": "1"},
        {"stored_at": "2026-01-31T12:00:00Z"},
        {"stored_at": "2026-01-31T13:00:00.000000+01:00"},
        {"stored_at": "2026-01-31T12:00:00.000000"},
        {"stored_at": "noon"},
        {"headers": {"a": 1}},
        {"more": 1},
        {"subject": None},
    ],
)
def test_a_line_has_one_spelling(change: dict[str, Any]) -> None:
    """A body given twice, not at all, or as base64 though it is text; other times; other members: refused."""
    value = {name: shown for name, shown in {**GOOD, **change}.items() if shown is not None}
    text = json.dumps(value, separators=(",", ":")).encode() + b"\n"
    with pytest.raises(IntegrityError):
        bundle.decoded(text, Line)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text[:-1],
        lambda text: text + b"\n",
        lambda text: b" " + text,
        lambda text: text.replace(b":1,", b": 1,"),
        lambda text: text.replace(b":1,", b":1.0,"),
        lambda text: text.replace(b'"x"', b'"\\u0078"'),
        lambda text: text.replace(b"{", b'{"sequence":1,', 1),
        lambda text: b"\xef\xbb\xbf" + text,
        lambda _: b"[" * 100_000 + b"\n",
        lambda _: b"\xff\n",
        lambda _: b"",
    ],
)
def test_other_spellings_are_refused(spoil: Any) -> None:
    """Spaces, escapes, floats, members twice, marks and no line end: none is the one spelling."""
    text = json.dumps(GOOD, separators=(",", ":")).encode() + b"\n"
    assert bundle.decoded(text, Line).body == "x"
    with pytest.raises(IntegrityError):
        bundle.decoded(spoil(text), Line)


# the tar


@given(st.from_regex(r"[a-zA-Z0-9/._-]{1,100}", fullmatch=True), st.integers(0, 8**11 - 1))
def test_a_header_is_that_of_the_standard_library(name: str, size: int) -> None:
    """Each header is, byte by byte, the one that Python's ustar has for a plain file without an owner."""
    member = tarfile.TarInfo(name.rstrip("/") or "x")
    member.size = size
    assert header(member.name, size) == member.tobuf(tarfile.USTAR_FORMAT)


@pytest.mark.parametrize(("name", "size"), [("", 0), ("x" * 101, 0), ("x", -1), ("x", 8**11)])
def test_what_fits_no_header_is_refused(name: str, size: int) -> None:
    """A name or a size that a header can't hold is an error where it is written."""
    with pytest.raises(ValueError, match="does not fit a tar header"):
        header(name, size)


def a_tar(**members: bytes) -> bytes:
    """Return a tar of these members and their sums."""
    file = io.BytesIO()
    tar = TarWriter(file)
    for name, data in members.items():
        tar.begin(name)
        for at in range(0, len(data), 7):
            tar.write(data[at : at + 7])
        assert tar.end() == hashlib.sha256(data).hexdigest()
    tar.finish()
    return file.getvalue()


@given(st.dictionaries(st.from_regex(r"[a-z]{1,8}", fullmatch=True), st.binary(max_size=1500), max_size=5))
def test_a_tar_comes_back(members: dict[str, bytes]) -> None:
    """Members written in pieces, sizes filled in afterwards, are read back by us and by any tar program."""
    made = a_tar(**members)
    reader, found = TarReader(io.BytesIO(made), "b.tar"), {}
    while (name := reader.next()) is not None:
        found[name] = b"".join(reader.pieces())
    assert found == members
    assert reader.offset == len(made)
    with tarfile.open(fileobj=io.BytesIO(made)) as tar:
        assert tar.getnames() == [*members, "SHA256SUMS"]


@pytest.mark.parametrize(
    ("at", "words"),
    [
        (0, "byte 0: is no tar header"),
        (101, "byte 101: the tar header of a"),
        (124, "byte 0: is no tar header"),
        (517, "the padding of a is not empty"),
        (1024 + 512, "byte 1536: a line of SHA256SUMS differs"),
        (2048, "byte 2048: the end is not 1024 NUL"),
        (3071, "byte 2048: the end is not 1024 NUL"),
    ],
)
def test_a_changed_byte_is_named_where_it_is(at: int, words: str) -> None:
    """The message has the offset of the byte, or of the field, line or end that it spoils."""
    made = bytearray(a_tar(a=b"12345"))
    assert len(made) == 3072
    made[at] ^= 0x81
    with pytest.raises(IntegrityError, match=r"expected .*, found ") as caught:
        _read(bytes(made))
    assert words in caught.value.message
    assert caught.value.fields["file"] == "b.tar"


def test_what_a_refusal_quotes_is_visible() -> None:
    """A member's name is chosen by whoever made the file, and can't write over what is said of it."""
    file = io.BytesIO()
    tar = TarWriter(file)
    tar.add("\x1b[2K\n: holds", b"")
    tar.finish()
    file.seek(0)
    reader = TarReader(file, "b.tar")
    name = reader.next()
    with pytest.raises(IntegrityError) as caught:
        reader.fail(f"{name} does not belong here", 0, "a", "b")
    assert caught.value.message.isprintable()
    assert r"\x1b[2K\n: holds does not belong here" in caught.value.message


def test_lines_are_read_across_pieces_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line is whole wherever pieces end; one that is too long, or has no end, is refused with its place."""
    monkeypatch.setattr("lucid_events.evidence.bundle_tar.PIECE_BYTES", 10)
    text = b"first line\nsecond\n\n" + b"x" * 25 + b"\n"
    reader = TarReader(io.BytesIO(a_tar(a=text)), "b.tar")
    assert reader.next() == "a"
    assert list(reader.lines(30)) == [
        (512, b"first line\n"),
        (523, b"second\n"),
        (530, b"\n"),
        (531, b"x" * 25 + b"\n"),
    ]
    for spoiled, words in ((text, "byte 531: a line of a is too long"), (text[:-1], "has no end")):
        reader = TarReader(io.BytesIO(a_tar(a=spoiled)), "b.tar")
        reader.next()
        with pytest.raises(IntegrityError, match=words):
            list(reader.lines(12 if spoiled is text else 30))


def _read(made: bytes) -> None:
    reader = TarReader(io.BytesIO(made), "b.tar")
    while reader.next() is not None:
        pass


# what belongs into a bundle


def _ready(index: int) -> ev.ChunkReady:
    return ev.ChunkReady(
        index=index,
        offset=index * 10,
        size=10,
        stored_size=10,
        sha256=hashlib.sha256(b"%d" % index).hexdigest(),
        stored_sha256=hashlib.sha256(b"%d" % index).hexdigest(),
        codec="store",
        ratio=1.0,
        quality=Quality(score=1.0, complete=1.0),
        hash_by="recorder",
        bucket="lucid-chunks",
        object=f"s/{index}",
    )


def _stopped() -> ev.SessionStopped:
    return ev.SessionStopped(
        manifest=Manifest(
            version=1,
            chunks=0,
            raw_bytes=0,
            stored_bytes=0,
            end_offset=0,
            merkle_root="0" * 64,
            chain_head="0" * 64,
            events=0,
        )
    )


def summed(*events: ev.SessionEvent | None) -> Contents:
    """Return what these events, and strays, mean for a bundle."""
    contents = Contents()
    for sequence, event in enumerate(events, 1):
        digest = Digest(f"{sequence:064x}") if event is not None else None
        contents.take(sequence, b"body %d" % sequence, digest, event)
    return contents


def test_a_failed_chunk_has_no_leaf() -> None:
    """Behind a chunk that failed, a chunk's leaf is not its index, and its proof leads to the root."""
    contents = summed(_ready(3), _ready(0), _ready(1), _stopped(), _ready(2), None)
    assert contents.leaves() == {0: 0, 1: 1, 3: 2}
    tree = MerkleTree()
    for index in (0, 1, 3):
        tree.add(Digest(_ready(index).sha256))
    proofs = list(contents.proofs(contents.chosen()))
    assert [(proof.index, proof.leaf, proof.size) for proof in proofs] == [(0, 0, 3), (1, 1, 3), (3, 2, 3)]
    assert all(contents.proves(proof, tree.root) for proof in proofs)
    assert not contents.proves(Proof(index=3, leaf=3, size=4, path=proofs[2].path), tree.root)
    assert (contents.head, contents.version, contents.messages) == (f"{5:064x}", 6, 6)
    assert (contents.stopped, contents.manifest) == (4, b"body 4")


def test_erased_chunks_are_no_part_of_a_bundle() -> None:
    """What a cleanup may have erased is counted and left out; what became ready since is not."""
    contents = summed(_ready(0), _ready(1), ev.SessionCleanupStarted(), _ready(2))
    assert list(contents.chosen()) == [2]
    said = contents.description(SessionId("s"), Log(stream="E", incarnation=1), contents.chosen())
    assert (said.chunks.first, said.chunks.last, said.chunks.included, said.chunks.ready) == (2, 2, 1, 3)
    gone = summed(_ready(0), ev.SessionDestroyed())
    said = gone.description(SessionId("s"), Log(stream="E", incarnation=1), gone.chosen())
    assert (said.chunks.first, said.chunks.last, said.chunks.included, said.chunks.ready) == (
        None,
        None,
        0,
        1,
    )


def test_only_chunks_that_are_there_can_be_chosen() -> None:
    """A bound that names no chunk with bytes is refused with those that have; nothing is trimmed."""
    contents = summed(*(_ready(index) for index in (0, 1, 2, 5)))
    assert list(contents.chosen(1, 5)) == [1, 2, 5]
    assert list(contents.chosen(0, 0)) == [0]
    assert list(contents.chosen(first=2)) == [2, 5]
    assert list(contents.chosen(last=1)) == [0, 1]
    with pytest.raises(ConfigError, match=r"--to 4: there is no such chunk; those with bytes are 0–2, 5"):
        contents.chosen(0, 4)
    with pytest.raises(ConfigError, match="comes behind"):
        contents.chosen(2, 1)
    with pytest.raises(ConfigError, match="none has bytes"):
        summed().chosen(0, 0)
    assert summed().chosen() == {}
