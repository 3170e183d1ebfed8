"""`jetstream.messages`: times and headers as the server writes them."""

from datetime import UTC, datetime, timedelta

import pytest

from lucid_events.errors import StoreUnavailable
from lucid_events.jetstream.messages import Message, parse_headers, server_time
from lucid_events.jetstream.replies import PageReader


@pytest.mark.parametrize(
    ("text", "microsecond"),
    [
        ("2026-03-01T12:00:00Z", 0),
        ("2026-03-01T12:00:00.1Z", 100_000),
        ("2026-03-01T12:00:00.123456Z", 123_456),
        ("2026-03-01T12:00:00.123456789Z", 123_456),
        ("2026-03-01T14:00:00.5+02:00", 500_000),
        ("2026-03-01T14:00:00.123456789+02:00", 123_456),
    ],
)
def test_times_are_cut_to_microseconds(text: str, microsecond: int) -> None:
    """A time of the server is read in UTC, with any number of digits."""
    found = server_time(text)
    assert found == datetime(2026, 3, 1, 12, 0, 0, microsecond, tzinfo=UTC)
    assert found.utcoffset() == timedelta(0)
    assert found.tzinfo in (UTC, UTC)


def test_of_a_repeated_header_the_last_counts() -> None:
    """A raw block reads as the client reads it: values stripped, the last of a name."""
    block = "NATS/1.0\r\nA: 1\r\nB:x: y \r\nA: ü\r\n\r\n".encode()
    assert parse_headers(block) == {"A": "ü", "B": "x: y"}


def part(sequence: int, last: int, **headers: str) -> Message:
    """Return one part of a direct get."""
    stamped = {
        "Nats-Stream": "S",
        "Nats-Subject": "s.x",
        "Nats-Sequence": str(sequence),
        "Nats-Last-Sequence": str(last),
        "Nats-Time-Stamp": "2026-03-01T12:00:00Z",
        "Nats-Num-Pending": "0",
    }
    return Message("inbox", {**headers, **stamped}, b"x")


def end(last: int) -> Message:
    """Return an end marker."""
    return Message("inbox", {"Status": "204", "Nats-Last-Sequence": str(last), "Nats-Num-Pending": "3"}, b"")


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_a_lost_part_is_noticed(lost: int) -> None:
    """Whichever part of a page does not arrive, the page is refused."""
    parts = [part(5, 0), part(7, 5), part(9, 7)]
    del parts[lost]
    page = PageReader("DIRECT.GET.S")
    assert not any(page.take(one) for one in parts)
    assert page.take(end(9))
    with pytest.raises(StoreUnavailable, match="lost on the way"):
        page.read(end(9))


def test_a_stored_status_header_ends_nothing() -> None:
    """A stored message with a header that looks like an end marker is a message like others."""
    page = PageReader("DIRECT.GET.S")
    assert not page.take(part(5, 0, Status="204"))
    assert page.take(end(5))
    found = page.read(end(5))
    assert [(m.sequence, m.headers) for m in found] == [(5, {"Status": "204"})]
    assert (found.pending, found.last_sequence) == (3, 5)
