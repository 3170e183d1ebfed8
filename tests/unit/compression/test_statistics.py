from concurrent.futures import ThreadPoolExecutor

import pytest

from lucid_events.compression.statistics import CompressionStatistics
from lucid_events.errors import ConfigError

KEYS = {
    "total_compressions",
    "total_decompressions",
    "total_time_ms",
    "average_compression_time_ms",
    "total_bytes_compressed",
    "total_bytes_decompressed",
    "average_compression_ratio",
    "default_level",
}


def test_nothing_counted_is_all_zeros() -> None:
    """A fresh snapshot has every key, no codec, and no division by zero."""
    seen = CompressionStatistics().snapshot()
    assert seen.keys() >= KEYS
    assert (seen["average_compression_ratio"], seen["average_compression_time_ms"]) == (0.0, 0.0)
    assert (seen["default_codec"], seen["default_level"], seen["codecs"]) == ("gzip", 6, {})


def test_totals_and_codecs_add_up() -> None:
    """Totals are the sums of the codecs; the ratio is of all bytes, so large chunks weigh more."""
    statistics = CompressionStatistics("auto", 5)
    statistics.compressed("zstd", raw_bytes=900, stored_bytes=100, elapsed_ms=4)
    statistics.compressed("zstd", raw_bytes=100, stored_bytes=100, elapsed_ms=2)
    statistics.compressed("store", raw_bytes=50, stored_bytes=50, elapsed_ms=0)
    statistics.decompressed("zstd", raw_bytes=900, stored_bytes=100, elapsed_ms=3)
    seen = statistics.snapshot()
    codecs = seen["codecs"]
    assert isinstance(codecs, dict)
    assert list(codecs) == ["store", "zstd"]
    assert codecs["zstd"].keys() >= KEYS
    expected = {
        "total_compressions": 2,
        "total_decompressions": 1,
        "total_time_ms": 9,
        "average_compression_time_ms": 3,
        "average_decompression_time_ms": 3,
        "total_bytes_compressed": 1000,
        "total_bytes_stored": 200,
        "total_bytes_restored": 100,
        "total_bytes_decompressed": 900,
        "average_compression_ratio": 5.0,
        "default_level": 3,
    }
    assert {key: codecs["zstd"][key] for key in expected} == expected
    assert codecs["store"]["default_level"] is None
    assert (seen["total_compressions"], seen["total_bytes_compressed"]) == (3, 1050)
    assert (seen["average_compression_ratio"], seen["default_level"]) == (1050 / 250, 5)


def test_reset_forgets_everything_but_the_setting() -> None:
    """After a reset a snapshot is the one of a fresh instance."""
    statistics = CompressionStatistics("lz4")
    fresh = statistics.snapshot()
    statistics.compressed("lz4", raw_bytes=9, stored_bytes=3, elapsed_ms=1)
    assert statistics.snapshot() != fresh
    statistics.reset()
    assert statistics.snapshot() == fresh


def test_threads_lose_no_count() -> None:
    """Counts from many threads at once all arrive."""
    statistics = CompressionStatistics()

    def add(_: int) -> None:
        for _ in range(500):
            statistics.compressed("gzip", raw_bytes=2, stored_bytes=1, elapsed_ms=1)
            statistics.snapshot()

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(add, range(8)))
    seen = statistics.snapshot()
    assert (seen["total_compressions"], seen["total_time_ms"]) == (4000, 4000)


def test_unknown_codecs_are_errors() -> None:
    """Neither a default nor a count is taken for a codec that does not exist."""
    with pytest.raises(ConfigError):
        CompressionStatistics("brotli")
    with pytest.raises(ConfigError):
        CompressionStatistics("gzip", 0)
    with pytest.raises(ConfigError):
        CompressionStatistics().compressed("auto", raw_bytes=1, stored_bytes=1, elapsed_ms=1)
