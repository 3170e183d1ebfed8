import hashlib

from hypothesis import assume, given
from hypothesis import strategies as st

from lucid_events import codec
from lucid_events.domain.ids import Digest
from lucid_events.evidence.chain import digest
from tests.contract.bundle import events

SUBJECT = "lucid.evt.s1.session.marked"

names = st.sampled_from(["ce-id", "ce-type", "ce-time", "Lucid-Prev", "Lucid-Actor", "lucid-x", "CE-Upper"])
values = st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=126), max_size=12)
headers = st.dictionaries(names, values, max_size=5)


def _reference(subject: str, pairs: list[tuple[str, str]], body: bytes) -> str:
    parts = [b"lucid_events/event/v1", subject.encode()]
    for name, value in sorted(pairs):
        parts += [name.encode(), value.encode()]
    parts.append(body)
    return hashlib.sha256(b"".join(len(p).to_bytes(8, "big") + p for p in parts)).hexdigest()


def test_the_digest_is_the_documented_framing() -> None:
    """The digest is SHA-256 over the length-prefixed tag, subject, sorted headers and body."""
    given_headers = {
        "Lucid-Prev": "",
        "ce-id": "7",
        "ce-type": "x.y.v1",
        "traceparent": "00-…",
        "Nats-Msg-Id": "7",
    }
    chained = [("ce-id", "7"), ("ce-type", "x.y.v1"), ("lucid-prev", "")]
    assert digest(SUBJECT, given_headers, b"{}") == _reference(SUBJECT, chained, b"{}")


_sizes = st.sampled_from([0, 1, 126, 127, 128, 255, 256, 300])
_any_text = st.builds(lambda size, char: char * size, _sizes, st.sampled_from("a\x7fé€"))


@given(
    _any_text.map(lambda text: text or "s"),
    st.dictionaries(
        st.sampled_from(["ce-id", "CE-ID", "Lucid-Prev", "ce-é", "lucid-" + "x" * 121, "lucid-" + "x" * 122]),
        _any_text,
        max_size=4,
    ),
    st.binary(max_size=3) | st.just(b"x" * 300),
)
def test_long_text_and_text_that_is_not_ascii_is_framed_the_same(
    subject: str, known: dict[str, str], body: bytes
) -> None:
    """However long names, values and subject are, and of whatever characters, the framing stays."""
    chained = [(name.lower(), value) for name, value in known.items()]
    assert digest(subject, known, body) == _reference(subject, chained, body)


def test_the_digest_of_a_real_event_stands() -> None:
    """The digest of one event is pinned: stored chains must verify for ever."""
    head, body = codec.encode_event(events("c1", "a")[0], Digest("0" * 64))
    assert digest(SUBJECT, head, body) == "6de93927180879a1ad8920777c1ee77dfcaafe8ff3d769b7401db95ae27c203c"


@given(
    st.text(max_size=20),
    st.text(max_size=20),
    headers,
    headers,
    st.binary(max_size=20),
    st.binary(max_size=20),
)
def test_no_two_events_share_a_digest(
    subject_a: str, subject_b: str, a: dict[str, str], b: dict[str, str], body_a: bytes, body_b: bytes
) -> None:
    """Events that differ in subject, any chained header or body have different digests."""
    same_headers = {k.lower(): v for k, v in a.items()} == {k.lower(): v for k, v in b.items()}
    assume((subject_a, body_a) != (subject_b, body_b) or not same_headers)
    assert digest(subject_a, a, body_a) != digest(subject_b, b, body_b)


@given(headers, st.binary(min_size=1, max_size=40), st.data())
def test_any_flipped_byte_changes_the_digest(known: dict[str, str], body: bytes, data: st.DataObject) -> None:
    """One flipped bit of the body, of a chained value or of the subject changes the digest."""
    before = digest(SUBJECT, known, body)
    at = data.draw(st.integers(0, len(body) - 1))
    bit = 1 << data.draw(st.integers(0, 7))
    assert digest(SUBJECT, known, body[:at] + bytes([body[at] ^ bit]) + body[at + 1 :]) != before
    for name, value in known.items():
        for i, char in enumerate(value):
            changed = value[:i] + chr(ord(char) ^ 1) + value[i + 1 :]
            assert digest(SUBJECT, {**known, name: changed}, body) != before
    for i, char in enumerate(SUBJECT):
        assert digest(SUBJECT[:i] + chr(ord(char) ^ 1) + SUBJECT[i + 1 :], known, body) != before


@given(headers, st.data())
def test_a_header_added_or_removed_changes_the_digest(known: dict[str, str], data: st.DataObject) -> None:
    """Leaving out a chained header, or adding one, changes the digest, even when its value is empty."""
    before = digest(SUBJECT, known, b"{}")
    assert digest(SUBJECT, {**known, "lucid-new": ""}, b"{}") != before
    if known:
        gone = data.draw(st.sampled_from(sorted(known)))
        assert digest(SUBJECT, {k: v for k, v in known.items() if k != gone}, b"{}") != before


@given(headers, st.dictionaries(st.sampled_from(["Nats-Batch-Id", "traceparent", "X-Lucid-A"]), values))
def test_what_the_server_adds_does_not_count(known: dict[str, str], added: dict[str, str]) -> None:
    """Headers of the server and of tracing, the order of headers and the case of names change nothing."""
    before = digest(SUBJECT, known, b"{}")
    shuffled = dict(reversed([*known.items(), *added.items()]))
    assert digest(SUBJECT, shuffled, b"{}") == before
    assert digest(SUBJECT, {k.swapcase(): v for k, v in known.items()}, b"{}") == before


def test_names_that_differ_in_case_alone_are_ordered_by_value() -> None:
    """Two headers whose names differ in case alone count with both values, in whatever order they came."""
    one, two = {"ce-id": "b", "CE-ID": "a"}, {"CE-ID": "a", "ce-id": "b"}
    assert digest("s", one, b"") == digest("s", two, b"")
    assert digest("s", one, b"") == digest("s", {"ce-id": "a", "CE-ID": "b"}, b"")
    assert digest("s", one, b"") != digest("s", {"ce-id": "b"}, b"")
