"""Byte ranges and their conditions, without a server."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lucid_events.gateway.errors import HttpError
from lucid_events.gateway.ranges import Span, applies, parse_range, unchanged


@pytest.mark.parametrize(
    ("header", "wanted"),
    [
        (None, Span(0, 10, partial=False)),
        ("bytes=0-0", Span(0, 1, partial=True)),
        ("bytes=0-", Span(0, 10, partial=True)),
        ("bytes=-3", Span(7, 10, partial=True)),
        ("bytes=-30", Span(0, 10, partial=True)),
        ("bytes=9-100", Span(9, 10, partial=True)),
        ("bytes=5-4", Span(0, 10, partial=False)),
        ("bytes=0-1,3-4", Span(0, 10, partial=False)),
        ("bytes=-", Span(0, 10, partial=False)),
        ("bytes=٣-", Span(0, 10, partial=False)),
        ("items=0-1", Span(0, 10, partial=False)),
    ],
)
def test_a_header_is_one_range_or_everything(header: str | None, wanted: Span) -> None:
    """One satisfiable range is served; what is none, or several, is answered with the whole."""
    assert parse_range(header, 10) == wanted


@pytest.mark.parametrize(("header", "size"), [("bytes=10-", 10), ("bytes=-0", 10), ("bytes=0-", 0)])
def test_a_range_of_nothing_is_refused(header: str, size: int) -> None:
    """What begins behind the end is 416, with how much there is."""
    with pytest.raises(HttpError) as caught:
        parse_range(header, size)
    assert (caught.value.status, caught.value.headers["Content-Range"]) == (416, f"bytes */{size}")


@given(header=st.text(max_size=40), size=st.integers(0, 2**53))
def test_any_header_is_safe(header: str, size: int) -> None:
    """Whatever the header says, the span lies within the bytes, or it is refused."""
    try:
        span = parse_range(f"bytes={header}", size)
    except HttpError:
        return
    assert 0 <= span.start <= span.end <= size


def test_conditions_compare_tags() -> None:
    """`If-Range` wants the very tag, `If-None-Match` one of a list, weak ones and `*` included."""
    assert applies(None, '"a"')
    assert applies('"a"', '"a"')
    assert not applies('W/"a"', '"a"')
    assert not applies("Wed, 21 Oct 2015 07:28:00 GMT", '"a"')
    assert unchanged('"x", W/"a"', '"a"')
    assert unchanged("*", '"a"')
    assert not unchanged(None, '"a"')
    assert not unchanged('"b"', '"a"')
