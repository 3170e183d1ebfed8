"""Bytes the compression tests feed in: the same in every run."""

import random
from collections.abc import Iterator

MIB = 1024 * 1024
PACKED = ("gzip", "zstd", "lz4")
CODECS = (*PACKED, "store")


def noise(size: int, seed: int = 1) -> bytes:
    """Bytes that nothing can compress."""
    return random.Random(seed).randbytes(size)


def text(size: int, seed: int = 2) -> bytes:
    """Lines of words: compresses about as well as a terminal's output."""
    rng = random.Random(seed)
    words = [rng.randbytes(rng.randint(1, 5)).hex() for _ in range(500)]
    made: list[str] = []
    length = 0
    while length < size:
        line = " ".join(rng.choices(words, k=12)) + "\r\n"
        made.append(line)
        length += len(line)
    return "".join(made).encode()[:size]


def mixed(size: int) -> bytes:
    """Text and noise in turns of 1000 bytes, so that a stream holds all kinds of blocks."""
    half = size // 2 + 1000
    words, other = text(half), noise(half)
    turns = (words[at : at + 1000] + other[at : at + 1000] for at in range(0, half, 1000))
    return b"".join(turns)[:size]


def cut(data: bytes, size: int) -> Iterator[bytes]:
    """`data` in pieces of `size`."""
    return (data[at : at + size] for at in range(0, len(data), size))
