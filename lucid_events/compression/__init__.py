"""Chunks made smaller and restored exactly: codecs, the probe, the pool that runs them, its budget."""

from lucid_events.compression.budget import ByteBudget
from lucid_events.compression.codecs import compress, decompress, working_bytes
from lucid_events.compression.pool import Compressed, CompressJob, Compressor, DecompressJob
from lucid_events.compression.probe import choose, sample_ratio
from lucid_events.compression.statistics import CompressionStatistics
from lucid_events.compression.streams import decompress_stream
from lucid_events.compression.wire import Buffer

__all__ = [
    "Buffer",
    "ByteBudget",
    "CompressJob",
    "Compressed",
    "CompressionStatistics",
    "Compressor",
    "DecompressJob",
    "choose",
    "compress",
    "decompress",
    "decompress_stream",
    "sample_ratio",
    "working_bytes",
]
