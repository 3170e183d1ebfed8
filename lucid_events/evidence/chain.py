"""The hash chain of a history: the digest of one event, framed so that no two events share bytes.

    digest = SHA-256( frame(tag) frame(subject) frame(name) frame(value) … frame(body) )

    frame(x) = length of x as 8 bytes, big endian, then x (`framing.py`)
    tag      = "lucid_events/event/v1"
    names    = every header whose lower-case name begins with "ce-" or "lucid-", lower-case, sorted

`Lucid-Prev` is one of the headers, so the digest of an event covers everything before it.
"""

import hashlib
from collections.abc import Mapping
from functools import lru_cache

from lucid_events.domain.ids import Digest
from lucid_events.evidence.framing import frame


def digest(subject: str, headers: Mapping[str, str], body: bytes) -> Digest:
    """Return the digest of one event from its stored bytes."""
    order = _order(tuple(headers))
    head = None if order is None else _short(subject, headers, order)
    if head is None:
        pairs = sorted([(known, value) for name, value in headers.items() if (known := _chained(name))])
        values = b"".join([lead + frame(value.encode()) for (_, lead), value in pairs])
        head = _TAG.encode() + frame(subject.encode()) + values
    return Digest(hashlib.sha256(b"".join((head, len(body).to_bytes(8, "big"), body))).hexdigest())


def _short(subject: str, headers: Mapping[str, str], order: tuple[tuple[str, str], ...]) -> bytes | None:
    """Return the frames of tag, subject and headers; None when one is long, or not ASCII.

    Nearly all are short ASCII: one string, encoded once, costs a third less than a list of bytes.
    """
    try:
        named = [f"{lead}{_SIZES[len(value := headers[name])]}{value}" for name, lead in order]
        text = f"{_TAG}{_SIZES[len(subject)]}{subject}{''.join(named)}"
    except IndexError:
        return None
    return text.encode() if text.isascii() else None


_TAG = frame(b"lucid_events/event/v1").decode("ascii")
_SIZES = ["\0" * 7 + chr(size) for size in range(128)]
"""Sizes as a frame has them, while text of them is as many bytes as characters."""


@lru_cache(256)
def _order(names: tuple[str, ...]) -> tuple[tuple[str, str], ...] | None:
    """Return (name, frame of the lower-case name) of the chained headers, in the order of the digest.

    Events of one kind carry the same names in the same order, so this is worked out once for each
    kind. None when names differ in case alone, for then their values decide, or when one is long.
    """
    found = sorted((known, name) for name in names if (known := _chained(name)))
    if len({lower for (lower, _), _ in found}) < len(found) or not all(
        lead.isascii() for (_, lead), _ in found
    ):
        return None
    return tuple((name, lead.decode("ascii")) for (_, lead), name in found)


@lru_cache(1024)
def _chained(name: str) -> tuple[str, bytes] | None:
    """Return (lower-case name, its frame) of a header that is part of the digest, else None.

    Names repeat from event to event, so this is worked out once for each: it is most of the work.
    """
    lower = name.lower()
    return (lower, frame(lower.encode())) if lower.startswith(("ce-", "lucid-")) else None
