"""Length-prefixed framing: lists of byte strings that hash or sign the same only when they are the same.

    frame(x) = length of x as 8 bytes, big endian, then x

Without it, "ab" + "c" and "a" + "bc" would be one message; with it, what is framed can be taken
apart again in exactly one way.
"""


def frame(part: bytes) -> bytes:
    """Return `part` behind its length."""
    return len(part).to_bytes(8, "big") + part


def framed(*parts: str | bytes) -> bytes:
    """Return every part framed, one after the other; text as UTF-8.

    >>> framed("ab", b"c").hex(" ", 9)
    '000000000000000261 620000000000000001 63'
    """
    return b"".join(frame(part.encode() if isinstance(part, str) else part) for part in parts)
