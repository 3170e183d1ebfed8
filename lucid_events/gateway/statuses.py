"""Views as the services answer with them: one session, all open ones, the stages they go through."""

import asyncio
from collections.abc import Mapping
from typing import NamedTuple

from lucid_events import __version__
from lucid_events.config import masked
from lucid_events.domain.ids import SessionId
from lucid_events.domain.transitions import NEEDS_ATTENTION, State
from lucid_events.errors import ContractError, NotFound
from lucid_events.gateway import answers
from lucid_events.gateway.context import Gateway
from lucid_events.gateway.metrics import stage_metrics
from lucid_events.projections.index import MAX_PAGE, IndexEntry
from lucid_events.projections.status_view import StatusView

READS = 32
"""Views read at once for one answer."""


class OpenSessions(NamedTuple):
    """The sessions that are not over: at most `MAX_PAGE` of each state, `truncated` when there are more.

    `unreadable` are those that have no view which can be told, with the reason.
    """

    views: list[StatusView]
    unreadable: Mapping[str, str]
    truncated: bool

    @property
    def total(self) -> int:
        """How many they are; when `truncated`, at least so many."""
        return len(self.views) + len(self.unreadable)


class Offsets(NamedTuple):
    """Where a session's next byte goes, and up to where its bytes are stored; None where others record it."""

    accepted: int | None
    durable: int | None


def pipeline_status(gateway: Gateway, view: StatusView) -> answers.PipelineStatus:
    """Return what is told about a session."""
    offsets = offsets_of(gateway, view.session_id)
    return answers.PipelineStatus(
        session_id=view.session_id,
        pipeline_id=answers.pipeline_id(view.session_id),
        state=str(view.state),
        created_at=view.created_at,
        started_at=view.started_at,
        stopped_at=view.stopped_at,
        error_message=error_of(view),
        stages=stages_of(gateway),
        config=view.settings,
        history=list(view.transitions),
        position=view.position.sequence,
        owner_address=view.owner,
        label=view.label,
        metadata=view.metadata,
        recorder=view.recorder,
        accepted_offset=offsets.accepted,
        durable_offset=offsets.durable,
        sealed_offset=view.sealed_offset,
        ready_offset=view.ready_offset,
        chunks=view.chunks.sealed,
        chunks_ready=view.chunks.ready,
        chunks_failed=view.chunks.failed_count,
        raw_bytes=view.raw_bytes,
        stored_bytes=view.stored_bytes,
        compression_ratio=view.ratio,
        gaps=list(view.gaps),
        gap_bytes=view.gap_bytes,
        holds=view.holds,
    )


def offsets_of(gateway: Gateway, session: SessionId) -> Offsets:
    """Return how far this process has the bytes of `session`: none is known before it has attached."""
    hosted = gateway.recorders.find(session)
    if hosted is None or not hosted.recording.opened:
        return Offsets(None, None)
    return Offsets(hosted.recording.taken_upto, hosted.recording.acked_upto)


def stages_of(gateway: Gateway) -> list[answers.Stage]:
    """Return the stages of this process, with their limits and what was measured."""
    settings = gateway.settings
    return [
        answers.Stage(
            name=name,
            type=name,
            status="running",
            worker_count=int(getattr(settings.stages, name).workers),
            metrics=stage_metrics(gateway.monitor.measures, name),
        )
        for name in settings.stage_names
    ]


async def open_sessions(gateway: Gateway) -> OpenSessions:
    """Return the sessions that are not over; one whose view is damaged or gone hides no other.

    Raises:
        StoreUnavailable: the views could not be read.
    """
    found: dict[SessionId, IndexEntry] = {}
    more = False
    for state in NEEDS_ATTENTION:
        page = await gateway.client.sessions(state=state, limit=MAX_PAGE)
        found |= {entry.session_id: entry for entry in page.entries}
        more = more or page.cursor is not None
    views: dict[SessionId, StatusView] = {}
    unreadable: dict[str, str] = {}
    waiting = iter(found)

    async def read() -> None:
        for session in waiting:
            try:
                views[session] = await gateway.client.status(session)
            except (ContractError, NotFound) as exc:
                unreadable[session] = exc.message

    try:
        async with asyncio.TaskGroup() as readers:
            for _ in range(min(READS, len(found))):
                readers.create_task(read(), name="read views")
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from group  # what one of them met ends them all
    return OpenSessions([views[session] for session in found if session in views], unreadable, more)


async def service_status(gateway: Gateway) -> answers.ServiceStatus:
    """Return what a pipeline manager looks after."""
    sessions = await open_sessions(gateway)
    return answers.ServiceStatus(
        service=gateway.name,
        status="running",
        version=__version__,
        active_pipelines={view.session_id: _active(view) for view in sessions.views},
        total_pipelines=sessions.total,
        truncated=sessions.truncated,
        unreadable=sessions.unreadable,
        config=masked(gateway.settings),
    )


def error_of(view: StatusView) -> str | None:
    """Return why a session is in error, None when it is not."""
    error = view.last_error
    return f"{error.code}: {error.reason}" if error and view.state is State.ERROR else None


def _active(view: StatusView) -> answers.ActivePipeline:
    return answers.ActivePipeline(
        pipeline_id=answers.pipeline_id(view.session_id),
        state=str(view.state),
        created_at=view.created_at,
        started_at=view.started_at,
        error_message=error_of(view),
    )
