"""`jetstream.layouts`: whatever was learned, a block is read as the parser reads it."""

from hypothesis import example, given
from hypothesis import strategies as st

from lucid_events.jetstream.intake import IntakeClient
from lucid_events.jetstream.layouts import KNOWN, MAX_COUNTED, SIGHTINGS, Layouts

NAMES = st.sampled_from([b"ce-id", b"Lucid-Prev", b"ce-id", b" a", b"a b", b"a:b", b"\xc3\xa9", b"a.b", b""])
VALUES = st.sampled_from([b"", b" ", b"x", b" x", b"x ", b"x\t", b"a: b", b"\xa0", b"\xff", b"x\n", b"\r"])
SEPARATORS = st.sampled_from([b": ", b": ", b":", b" : ", b""])


class Asked:
    """Stands where the parser stands and counts what it is asked."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self, block: bytes) -> dict[str, str]:
        self.times += 1
        return IntakeClient._parse_header_lines(block)


def block(*lines: bytes) -> bytes:
    """Return the lines as a block of headers has them."""
    return b"".join(line + b"\r\n" for line in (*lines, b""))


def taught(*blocks: bytes) -> tuple[Layouts, Asked]:
    """Return layouts that know `blocks`, and their parser, which has not been asked since."""
    asked = Asked()
    layouts = Layouts(asked)
    for one in blocks:
        for _ in range(SIGHTINGS):
            layouts.read(one)
    asked.times = 0
    return layouts, asked


@given(
    st.lists(st.tuples(NAMES, SEPARATORS), max_size=4).flatmap(
        lambda heads: st.tuples(
            st.just(heads), *[st.lists(VALUES, min_size=len(heads), max_size=len(heads)) for _ in range(2)]
        )
    )
)
@example(([(b"ce-id", b": ")], [b"x"], [b"x\r\nce-id: y"]))
@example(([(b"ce-id", b": ")] * 2, [b"x", b"y"], [b"", b"z"]))
@example(([(b"ce-id", b": ")], [b"x"], [b"x "]))
@example(([(b"ce-id", b": ")], [b"x"], [b" x"]))
def test_a_block_of_a_learned_layout_is_parsed_as_any_other(
    case: tuple[list[tuple[bytes, bytes]], list[bytes], list[bytes]],
) -> None:
    """Whatever a layout was learned from and whatever comes then, the parser would make the same of it."""
    heads, learned, later = case
    first, then = (
        block(*[name + separator + value for (name, separator), value in zip(heads, values, strict=True)])
        for values in (learned, later)
    )
    layouts, _ = taught(first)
    for one in (first, then):
        assert layouts.read(one) == IntakeClient._parse_header_lines(one)


def test_what_was_met_often_is_not_parsed_line_by_line() -> None:
    """The parser is not asked about a layout met often enough, nor about another with as many lines."""
    one, other = block(b"ce-id: 1", b"Lucid-Prev: "), block(b"ce-id: 1", b"Nats-Msg-Id: 2")
    layouts, asked = taught(one, other)
    for number in range(3):
        assert layouts.read(block(b"ce-id: %d" % number, b"Lucid-Prev: a: b")) == {
            "ce-id": str(number),
            "Lucid-Prev": "a: b",
        }
        assert layouts.read(other) == {"ce-id": "1", "Nats-Msg-Id": "2"}
    assert asked.times == 0


def test_layouts_of_strangers_are_bounded() -> None:
    """Any number of layouts leaves a bounded number behind, whether they come once or for ever."""
    layouts, _ = taught(*[block(b"x-%d: 1" % number) for number in range(3 * KNOWN)])
    assert [len(known) for known in layouts._known.values()] == [KNOWN]
    for number in range(2 * MAX_COUNTED):
        layouts.read(block(b"y-%d: 1" % number))
    assert len(layouts._met) <= MAX_COUNTED
    layouts, asked = taught(block(*[b"a: 1"] * 100))
    layouts.read(block(*[b"a: 1"] * 100))
    assert asked.times == 1
