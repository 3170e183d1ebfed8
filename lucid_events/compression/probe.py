"""Decide from a sample whether compressing a chunk pays.

Knows nothing of sessions or media types: a video, an archive and noise look the same from here. It
sees redundancy within a window, so a chunk that only repeats itself at a distance (a megabyte of
noise, ten times over) is stored, although zstd could have shrunk it.
"""

from collections.abc import Iterator
from typing import Final

import zstandard

from lucid_events.compression.wire import Buffer, as_bytes_view
from lucid_events.domain.codecs import AUTO_CODEC, Codec, check_codec, check_level, check_setting

WINDOWS: Final = 64
"""How many places are looked at: half as many misjudge a mixed chunk by a quarter, twice cost twice."""

WINDOW_BYTES: Final = 2048
"""Bytes read at each place, compressed by themselves.

Joined into one block they cost half, but then a quarter of text in noise can pass for noise: the
compressor gives a block one table for all its literals. At twice the size nothing is decided
differently (`bench/chunk_compression.py`, "probe"); at half, text looks an eighth less compressible.
"""

MIN_RATIO: Final = 1.05
"""Raw / compressed below which a chunk is stored: 5 % of space does not pay for the work at both ends."""

PROBE_LEVEL: Final = 1

# Windows are spread evenly, but not at equal distances: a chunk with a period (frames of one size)
# must not be seen at one phase only. Multiples of this, modulo 2³², never cluster (2³² / golden
# ratio). A random place would make the stored bytes depend on more than the content.
_SPREAD: Final = 0x9E37_79B1
_SPREAD_BITS: Final = 32


def sample_ratio(data: Buffer) -> float:
    """Return the ratio (raw / compressed) of a sample of `data`, or of all of it when it is short.

    Deterministic; 1.0 for no bytes. Reads at most `WINDOWS` × `WINDOW_BYTES`.
    """
    read = packed = 0
    compressor = zstandard.ZstdCompressor(level=PROBE_LEVEL)
    for window in _windows(as_bytes_view(data)):
        read += window.nbytes
        # What does not shrink counts as it is: the frame around it says nothing about the content.
        packed += min(window.nbytes, len(compressor.compress(window)))
    return read / packed if packed else 1.0


def choose(setting: str, level: int | None, data: Buffer) -> tuple[Codec, int | None]:
    """Return the codec and level to store `data` with: what `setting` asks for, or `store`.

    `store` is chosen when the sample's ratio is below `MIN_RATIO`. `auto` asks for zstd.

    Raises:
        ConfigError: the setting or the level is unknown.
    """
    checked = check_setting(setting)
    used = check_level(checked, level)
    if checked == "store" or sample_ratio(data) < MIN_RATIO:
        return "store", None
    return AUTO_CODEC if checked == "auto" else check_codec(checked), used


def _windows(view: memoryview) -> Iterator[memoryview]:
    stride = max(view.nbytes // WINDOWS, WINDOW_BYTES)
    slack = stride - WINDOW_BYTES
    for index, start in enumerate(range(0, view.nbytes - slack, stride)):
        shift = (index * _SPREAD & (1 << _SPREAD_BITS) - 1) * slack >> _SPREAD_BITS
        yield view[start + shift : start + shift + WINDOW_BYTES]
