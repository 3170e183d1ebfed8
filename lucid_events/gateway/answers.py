"""What the two services answer with, as structs: one definition for the wire, the tests and OpenAPI.

Field names are those the services have always had; what is new stands behind them.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from lucid_events.domain.values import SessionSettings, Span
from lucid_events.gateway.chunk_answers import Answer, ChunkEntry, ChunkStatistics, Receipt
from lucid_events.projections.index import IndexEntry
from lucid_events.projections.status_view import AttachedRecorder, Transition


class Created(Answer, frozen=True, kw_only=True):
    """A session that exists now; `position` is the version of its history."""

    session_id: str
    pipeline_id: str
    status: str
    position: int


class Moved(Answer, frozen=True, kw_only=True):
    """Where a session went: `state` is what was reached so far, `position` the version that says so."""

    session_id: str
    status: str
    state: str
    position: int


class Stage(Answer, frozen=True, kw_only=True):
    """One stage of the pipeline; its `metrics` are those of this process, over all sessions."""

    name: str
    type: str
    status: str
    worker_count: int
    metrics: dict[str, float]


class PipelineStatus(Answer, frozen=True, kw_only=True):
    """Everything about one session; `history` holds its newest transitions.

    `accepted_offset` is where an upload would begin now, `durable_offset` up to where every byte is stored
    whatever happens; both are None where another process records, or nobody does.
    """

    session_id: str
    pipeline_id: str
    state: str
    created_at: datetime | None
    started_at: datetime | None
    stopped_at: datetime | None
    error_message: str | None
    stages: list[Stage]
    config: SessionSettings
    history: list[Transition]
    position: int
    owner_address: str
    label: str
    metadata: Mapping[str, str]
    recorder: AttachedRecorder | None
    accepted_offset: int | None
    durable_offset: int | None
    sealed_offset: int
    ready_offset: int
    chunks: int
    chunks_ready: int
    chunks_failed: int
    raw_bytes: int
    stored_bytes: int
    compression_ratio: float | None
    gaps: list[Span]
    gap_bytes: int
    holds: Mapping[str, str]


class ActivePipeline(Answer, frozen=True, kw_only=True, omit_defaults=True):
    """One session in the service's status."""

    pipeline_id: str
    state: str
    created_at: datetime | None
    started_at: datetime | None = None
    error_message: str | None = None


class ServiceStatus(Answer, frozen=True, kw_only=True):
    """What a pipeline manager looks after; `truncated` when there is more than it lists.

    `total_pipelines` is exact unless `truncated`, then the least there are. `unreadable` are sessions that
    are counted and not listed, because their view is damaged or gone, with the reason.
    """

    service: str
    status: str
    version: str
    active_pipelines: dict[str, ActivePipeline]
    total_pipelines: int
    truncated: bool
    unreadable: Mapping[str, str]
    config: dict[str, Any]


class PipelineEntry(Answer, frozen=True, kw_only=True):
    """One session of a list."""

    session_id: str
    pipeline_id: str
    state: str
    owner_address: str
    label: str
    created_at: datetime
    since: datetime


class PipelinePage(Answer, frozen=True, kw_only=True):
    """A page of sessions, the one that changed longest ago first; `cursor` leads to the next page."""

    pipelines: list[PipelineEntry]
    cursor: str | None


class HistoryEvent(Answer, frozen=True, kw_only=True):
    """One event as it is stored; `data` is its body, `digest` what the next event names as `prev`."""

    sequence: int
    type: str
    id: str
    time: datetime
    actor: str
    cause: str
    correlation: str
    prev: str
    digest: str
    data: dict[str, Any]


class StreamedEvent(Answer, frozen=True, kw_only=True):
    """One server-sent event: `id` is its sequence, `event` its type, `data` a `HistoryEvent` in JSON."""

    id: str
    event: str
    data: str


class HistoryPage(Answer, frozen=True, kw_only=True):
    """A page of a session's history, oldest first."""

    session_id: str
    events: list[HistoryEvent]
    cursor: str | None


class Accepted(Answer, frozen=True, kw_only=True):
    """Bytes that are durable and part of the recording: `accepted_bytes` from `offset` on.

    `next_offset` is where the next bytes go, `chunk_index` the chunk that the last one is in. `receipts`
    are there when they were waited for.
    """

    session_id: str
    status: str
    accepted_bytes: int
    offset: int
    next_offset: int
    chunk_index: int
    receipts: list[Receipt]


class Processed(Answer, frozen=True, kw_only=True):
    """What came of pushed bytes: every chunk that they completed, with its receipt once it is stored."""

    session_id: str
    processed_bytes: int
    completed_chunks: int
    chunk_metadata: list[Receipt]
    offset: int
    next_offset: int


class RecordingStarted(Answer, frozen=True, kw_only=True):
    """A recording that has begun."""

    session_id: str
    status: str
    started_at: datetime
    output_path: str
    source: str
    position: int


class RecordingStopped(Answer, frozen=True, kw_only=True):
    """A recording that is over, or about to be (`status` tells); `chunk_metadata` are all its chunks."""

    session_id: str
    status: str
    stopped_at: datetime | None
    output_path: str
    final_chunks: int
    chunk_metadata: list[Receipt]
    position: int


class Recording(Answer, frozen=True, kw_only=True):
    """One recording; `accepted_offset` and `durable_offset` as of a session."""

    session_id: str
    owner_address: str
    status: str
    started_at: datetime | None
    stopped_at: datetime | None
    output_path: str
    chunks_created: int
    total_chunk_size: int
    chunk_statistics: ChunkStatistics
    source: str
    content_type: str
    accepted_offset: int | None
    durable_offset: int | None
    error_message: str | None
    position: int


class RecordingPage(Answer, frozen=True, kw_only=True):
    """A page of recordings, the one that changed longest ago first."""

    recordings: list[PipelineEntry]
    cursor: str | None


class RecordingDeleted(Answer, frozen=True, kw_only=True):
    """A recording whose bytes are erased, or about to be (`status` tells); its history stays."""

    session_id: str
    status: str
    deleted_chunks: int
    position: int


class ChunkList(Answer, frozen=True, kw_only=True):
    """The chunks of a session: its statistics, and a page of them."""

    session_id: str
    chunk_statistics: ChunkStatistics
    chunks: list[ChunkEntry]
    cursor: str | None


class CodecUse(Answer, frozen=True, kw_only=True):
    """What one codec did in this process."""

    total_compressions: int
    total_decompressions: int
    total_time_ms: float
    total_bytes_compressed: int
    total_bytes_decompressed: int
    average_compression_ratio: float


class CompressionStats(Answer, frozen=True, kw_only=True):
    """What was compressed in this process since it began, or since the last reset."""

    total_compressions: int
    total_decompressions: int
    total_time_ms: float
    average_compression_time_ms: float
    total_bytes_compressed: int
    total_bytes_decompressed: int
    average_compression_ratio: float
    default_level: int | None
    codecs: dict[str, CodecUse]


class RecorderStatus(Answer, frozen=True, kw_only=True):
    """What a session recorder looks after; as of a pipeline manager, with `total_recordings`."""

    service: str
    status: str
    version: str
    active_recordings: list[PipelineEntry]
    total_recordings: int
    truncated: bool
    unreadable: Mapping[str, str]
    recorded_here: list[str]
    chunk_statistics: ChunkStatistics
    compression_statistics: CompressionStats


def pipeline_id(session: str) -> str:
    """Return the id of a session's pipeline: derived, because there is exactly one.

    >>> pipeline_id("s1")
    'pipeline-s1'
    """
    return f"pipeline-{session}"


def entry_of(entry: IndexEntry) -> PipelineEntry:
    """Return one session of a list."""
    return PipelineEntry(
        session_id=entry.session_id,
        pipeline_id=pipeline_id(entry.session_id),
        state=str(entry.state),
        owner_address=entry.owner,
        label=entry.label,
        created_at=entry.created_at,
        since=entry.since,
    )
