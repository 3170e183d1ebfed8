"""What an auditor works with: the verifier over a running pipeline, and what other places remember.

The status view keeps the digest of the last event it applied, in another stream than the log. Someone
who cuts a history short has to change both. Where there is no such memory that is said, as a remark: a view
that was deleted must not look like one that agrees.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime

import msgspec

from lucid_events.compression.measuring import Measurer
from lucid_events.config import Settings
from lucid_events.domain.envelope import Stray
from lucid_events.domain.ids import SessionId
from lucid_events.errors import ContractError
from lucid_events.evidence.differences import Difference, Remark, What
from lucid_events.evidence.histories import HistoryCheck, KnownHead
from lucid_events.evidence.keys import KeyList
from lucid_events.jetstream.extent import extent
from lucid_events.ports import KeyValue
from lucid_events.projections.generations import Generations
from lucid_events.projections.status import StatusProjection
from lucid_events.projections.views import StatusViews
from lucid_events.service.adapters import Adapters, open_adapters
from lucid_events.service.verifying import (
    EVERYTHING,
    Progress,
    Sample,
    SessionReport,
    Verifier,
    all_sessions,
)

VERIFY_WORKERS = 2
"""Threads that hash and decompress: the cores of the smallest machine this runs on. More cores than
that are idle; fewer make two threads share one."""

MAX_NAMED = 20
"""Missing messages of the log that get a difference each; the rest is counted in the last one."""

UNREMEMBERED = (
    "nothing outside the log remembers this history: its status view is gone, damaged, or of another "
    "incarnation, so events cut off at its end would not be missed here"
)


class Auditor:
    """Verifies sessions of a running pipeline; made by `auditing`."""

    def __init__(self, adapters: Adapters, verifier: Verifier, views: KeyValue, incarnation: int) -> None:
        self.adapters, self.verifier = adapters, verifier
        self._views, self._incarnation = StatusViews(views), incarnation

    async def verify(self, session: SessionId) -> SessionReport:
        """Return what came of checking `session`; see `Verifier.verify`."""
        return await self.verifier.chunks(await self.history(session))

    async def history(self, session: SessionId) -> HistoryCheck:
        """Return the history, judged, also by what other places remember; see `Verifier.history`."""
        heads = await self.heads(session)
        check = await self.verifier.history(session, heads)
        if not heads:
            check.remark(UNREMEMBERED)
        return check

    async def remembered(self) -> AsyncIterator[SessionId]:
        """Yield the sessions that have a status view, whether or not the log has them, page by page."""
        async for session in self._views.sessions():
            yield session

    async def heads(self, session: SessionId) -> tuple[KnownHead, ...]:
        """Return what the status view remembers of the history; nothing when it is gone or damaged."""
        try:
            view = (await self._views.load(session)).view
        except ContractError:  # it is damaged: it remembers nothing
            return ()
        if view is None or not view.head or view.position.incarnation != self._incarnation:
            return ()
        return (KnownHead(source="the status view", sequence=view.position.sequence, digest=view.head),)

    def sessions(self, since: datetime | None = None) -> AsyncIterator[SessionId | Stray]:
        """Yield the sessions of the log; see `all_sessions`."""
        return all_sessions(self.adapters.store, since=since)

    async def log(self) -> list[Difference]:
        """Return what is missing in the log as a whole, whichever session it belonged to."""
        stream = self.adapters.subjects.events_stream
        found = await extent(self.adapters.connection, stream)
        differences = []
        if found.first > 1:
            differences.append(
                _log_difference(f"{stream} begins at {found.first}: what stood before it was removed", 1)
            )
        for place in found.missing[:MAX_NAMED]:
            differences.append(_log_difference(f"{stream} lacks this message: it was removed or lost", place))
        if found.missing_count > MAX_NAMED:
            rest = found.missing_count - MAX_NAMED
            differences.append(_log_difference(f"{stream} lacks {rest} messages more", None))
        return differences


@asynccontextmanager
async def auditing(
    settings: Settings,
    *,
    keys: KeyList | None = None,
    require_signature: bool = False,
    sample: Sample = EVERYTHING,
    allow_strays: bool = False,
    progress: Progress = lambda _: None,
) -> AsyncIterator[Auditor]:
    """Connect to the pipeline that `settings` point to, for verifying it.

    Raises:
        StoreUnavailable: no server answers.
        ConfigError: credentials or context are wrong.
    """
    async with (
        open_adapters(settings, name="lucid-audit") as adapters,
        Measurer(workers=VERIFY_WORKERS) as measurer,
    ):
        yield await open_auditor(
            adapters,
            measurer,
            keys=keys,
            require_signature=require_signature,
            sample=sample,
            allow_strays=allow_strays,
            progress=progress,
        )


async def open_auditor(
    adapters: Adapters,
    measurer: Measurer,
    *,
    keys: KeyList | None = None,
    require_signature: bool = False,
    sample: Sample = EVERYTHING,
    allow_strays: bool = False,
    progress: Progress = lambda _: None,
) -> Auditor:
    """Return an auditor on adapters that are there already; see `Verifier` for what is said here."""
    verifier = Verifier(
        adapters.store,
        adapters.bucket,
        measurer,
        chunks=adapters.chunks,
        keys=keys,
        require_signature=require_signature,
        sample=sample,
        allow_strays=allow_strays,
        progress=progress,
    )
    generation = (await Generations(adapters.meta, StatusProjection.name).live()).generation
    views = adapters.kv(adapters.subjects.status_bucket(generation))
    position = await adapters.store.last_position()
    return Auditor(adapters, verifier, views, position.incarnation)


def foreign(stray: Stray) -> Difference:
    """Return what is said of a message in the log that belongs to no session."""
    return Difference(
        what=What.FOREIGN,
        session="",
        sequence=int(stray.sequence),
        reason=f"not an event, on {stray.subject[:200]!r}: {stray.reason}",
    )


def beside(session: SessionId) -> Difference:
    """Return what is said of a session of which the log has a message, and no history."""
    return Difference(
        what=What.FOREIGN,
        session=session,
        reason="a message in the log is of this session and on no subject of a history",
    )


def excused(report: SessionReport) -> SessionReport:
    """Return the report of a session that is being erased beside its history: missing objects are remarks."""
    if not report.missing or report.missing < report.found:
        return report
    remark = Remark(
        session=report.session,
        reason=f"{report.missing} objects are missing: it was being erased when the backup was made, "
        f"finish with `lucid cleanup {report.session}`",
    )
    return msgspec.structs.replace(
        report, holds=True, found=0, missing=0, differences=(), remarks=(*report.remarks, remark)
    )


def _log_difference(reason: str, sequence: int | None) -> Difference:
    return Difference(what=What.LOG, session="", reason=reason, sequence=sequence)
