"""Views as the services answer with them: one session, all open ones, the stages they go through."""

import asyncio

from lucid_events import __version__
from lucid_events.config import masked
from lucid_events.domain.ids import SessionId
from lucid_events.domain.transitions import State
from lucid_events.gateway import answers
from lucid_events.gateway.context import Gateway
from lucid_events.gateway.metrics import stage_metrics
from lucid_events.projections.index import MAX_PAGE, IndexEntry
from lucid_events.projections.status_view import StatusView

OPEN = (
    State.CREATED,
    State.STARTING,
    State.ACTIVE,
    State.PAUSING,
    State.PAUSED,
    State.STOPPING,
    State.CLEANUP,
    State.ERROR,
)
"""States in which somebody may still have to do something."""
READS = 32
"""Views read at once for one answer."""


def pipeline_status(gateway: Gateway, view: StatusView) -> answers.PipelineStatus:
    """Return what is told about a session."""
    hosted = gateway.recorders.find(SessionId(view.session_id))
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
        accepted_offset=hosted.recording.acked_upto if hosted else None,
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


async def open_views(gateway: Gateway) -> tuple[list[StatusView], bool]:
    """Return the sessions that are not over, and whether there are more than one page of a state holds."""
    found: dict[SessionId, IndexEntry] = {}
    more = False
    for state in OPEN:
        page = await gateway.client.sessions(state=state, limit=MAX_PAGE)
        found |= {entry.session_id: entry for entry in page.entries}
        more = more or page.cursor is not None
    turns = asyncio.Semaphore(READS)

    async def read(session: SessionId) -> StatusView:
        async with turns:
            return await gateway.client.status(session)

    return list(await asyncio.gather(*(read(session) for session in found))), more


async def service_status(gateway: Gateway) -> answers.ServiceStatus:
    """Return what a pipeline manager looks after."""
    views, more = await open_views(gateway)
    return answers.ServiceStatus(
        service=gateway.name,
        status="running",
        version=__version__,
        active_pipelines={view.session_id: _active(view) for view in views},
        total_pipelines=len(views),
        truncated=more,
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
