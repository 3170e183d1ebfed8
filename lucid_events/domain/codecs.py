"""The codecs a chunk may be stored with, and the levels each of them knows.

Pure data: nothing here can compress. Every codec but `store` writes the plain format of its command
line tool, so that `gzip -d`, `zstd -d` and `lz4 -d` restore an object without this package.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Literal, cast

import msgspec

from lucid_events.errors import ConfigError

Codec = Literal["gzip", "zstd", "lz4", "store"]
"""What an object was written with; the name stored in `chunk.ready`."""

Setting = Literal["gzip", "zstd", "lz4", "store", "auto"]
"""What may be asked for; `auto` is zstd or `store`, decided per chunk by its content."""

DEFAULT_SETTING: Final[Setting] = "gzip"


class CodecFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What is fixed about one codec; the three level fields are None when it has no level."""

    suffix: str
    default_level: int | None = None
    min_level: int | None = None
    max_level: int | None = None


# zlib's level 0 stores and its -1 is an alias of 6, so gzip begins at 1: `store` is what stores.
# libzstd also has negative levels and takes 0 for 3. Both are left out: one level, one meaning,
# and whoever wants to go faster than level 1 has lz4.
# lz4's frame format takes 0 to 16; below 3 all levels are the fast mode, from 12 on the same.
CODECS: Final[Mapping[Codec, CodecFacts]] = MappingProxyType(
    {
        "gzip": CodecFacts(suffix=".gz", default_level=6, min_level=1, max_level=9),
        "zstd": CodecFacts(suffix=".zst", default_level=3, min_level=1, max_level=22),
        "lz4": CodecFacts(suffix=".lz4", default_level=0, min_level=0, max_level=16),
        "store": CodecFacts(suffix=""),
    }
)

AUTO_CODEC: Final[Codec] = "zstd"
"""What `auto` compresses with when compressing pays; its levels are `auto`'s levels."""

SETTINGS: Final[tuple[Setting, ...]] = (*CODECS, "auto")


def check_codec(codec: str) -> Codec:
    """Return `codec` when an object can be written with it, else raise ConfigError.

    >>> check_codec("zstd")
    'zstd'
    """
    if codec not in CODECS:
        raise ConfigError(
            f"unknown codec {codec!r}: must be one of {', '.join(CODECS)}", value=codec, allowed=tuple(CODECS)
        )
    return cast(Codec, codec)


def check_setting(setting: str) -> Setting:
    """Return `setting` when it may be asked for (a codec, or `auto`), else raise ConfigError."""
    if setting not in SETTINGS:
        raise ConfigError(
            f"unknown compression {setting!r}: must be one of {', '.join(SETTINGS)}",
            value=setting,
            allowed=SETTINGS,
        )
    return setting


def check_level(setting: str, level: int | None) -> int | None:
    """Return the level in effect: `level` when `setting` knows it, its own default when unset.

    >>> check_level("gzip", None), check_level("auto", None), check_level("store", None)
    (6, 3, None)

    Raises:
        ConfigError: the setting is unknown, the level is outside its range, or it has no level.
    """
    checked = check_setting(setting)
    facts = CODECS[AUTO_CODEC if checked == "auto" else checked]
    if level is None:
        return facts.default_level
    if facts.min_level is None or facts.max_level is None:
        raise ConfigError(
            f"level {level!r} for {setting}: it has no level, leave it unset", value=level, codec=setting
        )
    # True is an int to Python and a mistake to everyone else.
    if type(level) is not int or not facts.min_level <= level <= facts.max_level:
        raise ConfigError(
            f"level {level!r} for {setting}: must be {facts.min_level} to {facts.max_level}",
            value=level,
            codec=setting,
            allowed=(facts.min_level, facts.max_level),
        )
    return level
