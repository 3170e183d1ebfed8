"""Count what compressing and restoring cost and gained, per codec and in all.

The keys are those of `GET /compression/stats`. Numbers are of this process since it started or
since `reset`; the history, not this, is where a session's totals come from.
"""

import threading
from typing import TypeAlias

import msgspec

from lucid_events.domain.codecs import DEFAULT_SETTING, check_codec, check_level

Figures: TypeAlias = dict[str, int | float | None]


class _Counts(msgspec.Struct):
    compressions: int = 0
    compression_ms: float = 0.0
    raw_in: int = 0
    stored_out: int = 0
    decompressions: int = 0
    decompression_ms: float = 0.0
    stored_in: int = 0
    raw_out: int = 0

    def add(self, other: "_Counts") -> None:
        for field in self.__struct_fields__:
            setattr(self, field, getattr(self, field) + getattr(other, field))

    def figures(self) -> Figures:
        return {
            "total_compressions": self.compressions,
            "total_decompressions": self.decompressions,
            "total_time_ms": self.compression_ms + self.decompression_ms,
            "total_compression_time_ms": self.compression_ms,
            "total_decompression_time_ms": self.decompression_ms,
            "average_compression_time_ms": _mean(self.compression_ms, self.compressions),
            "average_decompression_time_ms": _mean(self.decompression_ms, self.decompressions),
            "total_bytes_compressed": self.raw_in,
            "total_bytes_stored": self.stored_out,
            "total_bytes_restored": self.stored_in,
            "total_bytes_decompressed": self.raw_out,
            "average_compression_ratio": _mean(self.raw_in, self.stored_out),
        }


class CompressionStatistics:
    """Counters that any thread may add to and any thread may read.

    `setting` and `level` are what is compressed with unless a session asks for something else; they
    are only reported.

    Raises:
        ConfigError: the setting or the level is unknown.
    """

    def __init__(self, setting: str = DEFAULT_SETTING, level: int | None = None) -> None:
        self._default_codec = setting
        self._default_level = check_level(setting, level)
        self._lock = threading.Lock()
        self._by_codec: dict[str, _Counts] = {}

    def compressed(self, codec: str, *, raw_bytes: int, stored_bytes: int, elapsed_ms: float) -> None:
        """Count one compression of `raw_bytes` into `stored_bytes`."""
        self._add(
            codec,
            _Counts(compressions=1, compression_ms=elapsed_ms, raw_in=raw_bytes, stored_out=stored_bytes),
        )

    def decompressed(self, codec: str, *, raw_bytes: int, stored_bytes: int, elapsed_ms: float) -> None:
        """Count one restoring of `raw_bytes` from `stored_bytes`."""
        self._add(
            codec,
            _Counts(decompressions=1, decompression_ms=elapsed_ms, stored_in=stored_bytes, raw_out=raw_bytes),
        )

    def snapshot(self) -> dict[str, object]:
        """Return all figures of one moment: totals under their keys, each codec used under `codecs`.

        Times are milliseconds of work, waiting excluded. The ratio is all raw bytes / all stored
        bytes, so large chunks weigh more; averages over nothing are 0.0. A codec's `default_level`
        is its own, None for `store`.
        """
        with self._lock:
            total = _Counts()
            codecs: dict[str, Figures] = {}
            for codec, counts in sorted(self._by_codec.items()):
                total.add(counts)
                codecs[codec] = counts.figures() | {"default_level": check_level(codec, None)}
        return {
            **total.figures(),
            "default_codec": self._default_codec,
            "default_level": self._default_level,
            "codecs": codecs,
        }

    def reset(self) -> None:
        """Forget everything counted so far."""
        with self._lock:
            self._by_codec.clear()

    def _add(self, codec: str, counts: _Counts) -> None:
        name = check_codec(codec)
        with self._lock:
            self._by_codec.setdefault(name, _Counts()).add(counts)


def _mean(total: float, count: int) -> float:
    return total / count if count else 0.0
