"""Byte ranges of RFC 9110, chapter 14, and the conditions that go with them. Pure: text in, offsets out."""

import re

import msgspec

from lucid_events.gateway.errors import HttpError

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)


class Span(msgspec.Struct, frozen=True):
    """The bytes from `start` up to, not including, `end`; `partial` when that is not all there is."""

    start: int
    end: int
    partial: bool


def parse_range(header: str | None, size: int) -> Span:
    """Return what `header` asks for of `size` bytes; everything when it asks for nothing we serve.

    Several ranges at once, other units and what is malformed are answered with the whole, as
    RFC 9110 has it (14.2): a reader that asked for a part can tell by the status.

    Raises:
        HttpError: 416, a range that begins behind the end.
    """
    whole = Span(0, size, partial=False)
    found = _RANGE.fullmatch(header.strip()) if header else None
    if found is None:
        return whole
    first, last = found.groups()
    if not first and not last:
        return whole
    if not first:
        if int(last) == 0 or size == 0:
            raise _unsatisfiable(size)
        return Span(max(0, size - int(last)), size, partial=True)
    start = int(first)
    if last and int(last) < start:
        return whole  # malformed
    if start >= size:
        raise _unsatisfiable(size)
    return Span(start, min(size, int(last) + 1) if last else size, partial=True)


def applies(if_range: str | None, etag: str) -> bool:
    """Return whether a range is to be served: `If-Range` names the bytes as they are now, or is absent.

    A date never does: these bytes have no time of last modification that would be strong enough.
    """
    return if_range is None or if_range.strip() == etag


def unchanged(if_none_match: str | None, etag: str) -> bool:
    """Return whether the client has the bytes already: 304."""
    if if_none_match is None:
        return False
    listed = [one.strip().removeprefix("W/") for one in if_none_match.split(",")]
    return "*" in listed or etag in listed


def _unsatisfiable(size: int) -> HttpError:
    return HttpError(
        416,
        "unsatisfiable_range",
        f"there are {size} bytes: the range begins behind them",
        headers={"Content-Range": f"bytes */{size}"},
    )
