"""From settings to pools: how many at once, how many bytes, how long, for each part of a worker."""

import os

from lucid_events.compression import ByteBudget
from lucid_events.config import Settings
from lucid_events.domain.values import MIB
from lucid_events.handlers.runner import Limits
from lucid_events.handlers.stages import ChunkStages, Stage
from lucid_events.ports import Measures

SMALL_WORK_BYTES = 16 * MIB
"""Budget of reactions that only read and write events."""

FINALISER_HOLDS = 64
"""Events one finaliser holds at most: what it holds, another process can't take."""


def limits_of(part: str, settings: Settings) -> tuple[Limits, ByteBudget]:
    """Return the bounds of the runner of `part`."""
    stages, shutdown_s = settings.stages, settings.shutdown_s
    small = ByteBudget(SMALL_WORK_BYTES)
    match part:
        case "chunks":
            reading = stages.chunk_generation
            # A place in each stage at once, or one would idle while the others are full.
            workers = reading.workers + stages.compression.workers + stages.storage.workers
            # What one process holds, another can't take: the consumer's max_ack_pending is where
            # the backlog waits.
            buffer = min(reading.buffer, 2 * workers)
            retries = stages.compression.retries
            limits = Limits(workers=workers, buffer=buffer, max_failures=retries, shutdown_s=shutdown_s)
            return limits, ByteBudget(reading.memory_mib * MIB)
        case "finaliser":
            merkle = stages.merkle_building
            limits = Limits(
                workers=merkle.workers,
                buffer=min(merkle.buffer, FINALISER_HOLDS),
                max_failures=merkle.retries,
                shutdown_s=shutdown_s,
            )
            return limits, ByteBudget(merkle.memory_mib * MIB)
        case "eraser":
            return Limits(max_failures=settings.cleanup_attempts, shutdown_s=shutdown_s), small
        case "queue" | "due":
            return Limits(workers=16, buffer=256, shutdown_s=shutdown_s), small
        case _:
            return Limits(shutdown_s=shutdown_s), small


def compression_threads(settings: Settings) -> int:
    """Return how many threads compress: as many as are set, and no more than there are cores.

    More finish no chunk earlier. They take turns with each other's tables in the caches: four on two
    cores cost zstd an eighth more than two.
    """
    return min(settings.stages.compression.workers, os.cpu_count() or 1)


def chunk_stages(settings: Settings, measures: Measures) -> ChunkStages:
    """Return the pools that chunks pass through; compression has its own threads."""
    reading, storing = settings.stages.chunk_generation, settings.stages.storage
    return ChunkStages(
        measures,
        reading=Stage("chunk_generation", measures, workers=reading.workers, timeout_s=reading.timeout_s),
        storing=Stage(
            "storage",
            measures,
            workers=storing.workers,
            timeout_s=storing.timeout_s,
            budget=ByteBudget(storing.memory_mib * MIB),
        ),
    )
