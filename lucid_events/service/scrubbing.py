"""The scrub: stored chunks verified in the background, a sample at a time, and the findings written down.

A disk forgets without a word. A round looks at a share of all chunks and every history; what it found
stands in the history as `session.verified` and `chunk.corrupt`. Off unless `LUCID_SCRUB_INTERVAL` is set.
Of all workers one does a round: whoever writes its number first. A round cut short is not made up for, so a
session that can't be looked at, or takes no finding, is told and left behind; only an outage ends the round.
"""

import asyncio
import logging
import secrets
import uuid
from collections.abc import Coroutine
from typing import Any, Final

from lucid_events.compression.measuring import Measurer
from lucid_events.compression.ordered import settle
from lucid_events.domain.commands import NoteFinding
from lucid_events.domain.envelope import Stray
from lucid_events.domain.events import ChunkCorrupt, SessionVerified
from lucid_events.domain.ids import SessionId
from lucid_events.domain.transitions import ERASING
from lucid_events.errors import (
    AppendUncertain,
    CommandRejected,
    ConfigError,
    ContractError,
    IntegrityError,
    LucidError,
    NotFound,
    VersionConflict,
)
from lucid_events.evidence.differences import Difference, What
from lucid_events.handlers.commands import CommandHandler
from lucid_events.service.adapters import Adapters
from lucid_events.service.auditing import Auditor, foreign, open_auditor
from lucid_events.service.keys import trusted_keys
from lucid_events.service.verifying import Sample, SessionReport

KEY: Final = "scrub"
"""Where the number of the last round stands in the bucket of small things."""

LOOK_S: Final = 60.0
"""Longest wait before the time of the next round is looked at again, in case the clock was set."""

_CHUNK = frozenset({What.OBJECT_MISSING, What.OBJECT_METADATA, What.OBJECT_BYTES, What.CHUNK_BYTES})
_OF_ONE_SESSION = (
    AppendUncertain,
    CommandRejected,
    ContractError,
    IntegrityError,
    NotFound,
    VersionConflict,
)
"""What stands in the way of one session only: a damaged history, one that is busy, one that is gone."""
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "lucid_events/scrub")

_log = logging.getLogger(__name__)


class Scrub:
    """Verifies a share of the chunks of all sessions every `LUCID_SCRUB_INTERVAL`, until `stop`.

    Raises:
        ConfigError: the list of keys that are believed can't be read.
    """

    def __init__(self, adapters: Adapters, commands: CommandHandler) -> None:
        self._adapters, self._commands = adapters, commands
        settings = adapters.settings.evidence
        self._interval_s, self._fraction = settings.scrub_interval_s, settings.scrub_percent / 100
        self._keys = trusted_keys(settings)
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Let `run` end; a round in hand is cut short."""
        self._stopping.set()

    async def run(self) -> None:
        """Do the rounds that are due and nobody else does; a failure is told and left to the next round."""
        while not self._stopping.is_set():
            try:
                if await self.claim():
                    await self._until_stopped(self.round(secrets.token_hex(8)))
            except LucidError as exc:
                _log.warning("a scrub was cut short", extra={"reason": exc.message})
            try:
                async with asyncio.timeout(min(LOOK_S, self._interval_s)):
                    await self._stopping.wait()
            except TimeoutError:
                continue

    async def _until_stopped(self, work: Coroutine[Any, Any, None]) -> None:
        """Do `work`, or as much of it as there is time for until `stop`: a chunk may take minutes."""
        working = asyncio.create_task(work)
        stopped = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait((working, stopped), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (working, stopped):
                task.cancel()
            await settle(working, stopped)
        if not working.cancelled():
            working.result()

    async def claim(self) -> bool:
        """Return whether the round of this time is due and ours to do."""
        number = int(self._adapters.clock.now().timestamp() // self._interval_s)
        found = await self._adapters.meta.get(KEY)
        if found is not None and found[0].isdigit() and int(found[0]) >= number:
            return False
        try:
            await self._adapters.meta.put(KEY, str(number).encode(), revision=found[1] if found else 0)
        except VersionConflict:
            return False
        return True

    async def round(self, seed: str) -> None:
        """Verify every history, and the chunks that `seed` draws; write down what was found.

        Signatures are held against `LUCID_SIGNING_KEYS` as it stands now. What is on no session's subject is
        told, and so is a session that could not be verified; neither keeps others from being.

        Raises:
            StoreUnavailable: the log can't be read any further now.
        """
        self._take_up_keys()
        sample = Sample(fraction=self._fraction, seed=seed)
        sessions = chunks = differ = damaged = strays = 0
        first: Stray | None = None
        async with Measurer(workers=1) as measurer:  # one thread: recordings come first
            auditor = await open_auditor(self._adapters, measurer, keys=self._keys, sample=sample)
            async for session in auditor.sessions():
                if isinstance(session, Stray):
                    first, strays = first or session, strays + 1
                    continue
                try:
                    report = await self._session(auditor, session, seed)
                except _OF_ONE_SESSION as exc:
                    damaged += 1
                    _log.error(
                        "a session could not be scrubbed", extra={"session": session, "reason": exc.message}
                    )
                    continue
                sessions, chunks = sessions + 1, chunks + report.chunks
                differ += not report.holds
        if first is not None:
            _log.warning(
                "messages in the log belong to no session",
                extra={"count": strays, "session": first.session, "reason": str(foreign(first))},
            )
        told = f"{sessions} sessions, {differ} do not hold, {damaged} could not be verified, seed {seed}"
        _log.info("scrubbed", extra={"count": chunks, "reason": told})

    def _take_up_keys(self) -> None:
        """Read the list of keys again: a rotated key is believed without a restart."""
        try:
            self._keys = trusted_keys(self._adapters.settings.evidence)
        except ConfigError as exc:
            _log.error(
                "the list of keys can't be read any more: the one read last is believed",
                extra={"reason": exc.message},
            )

    async def _session(self, auditor: Auditor, session: SessionId, seed: str) -> SessionReport:
        report = await auditor.verify(session)
        for difference in report.differences:
            _log.error(
                "stored evidence does not hold",
                extra={
                    "session": session,
                    "sequence": difference.sequence,
                    "chunk": difference.index,
                    "reason": str(difference),
                },
            )
            if difference.what in _CHUNK and difference.index is not None:
                await self._note(session, _corrupt(difference), f"{seed}/{difference.index}")
        if report.head and report.state not in ERASING and (report.chunks or not report.holds):
            await self._note(session, _verified(report, seed), seed)
        return report

    async def _note(self, session: SessionId, finding: SessionVerified | ChunkCorrupt, what: str) -> None:
        """Append a finding; a history that takes none, damaged or busy, is told of and left as it is."""
        try:
            await self._commands.append_internal(
                session,
                NoteFinding(finding=finding),
                cause=str(uuid.uuid5(_NAMESPACE, f"{session}/{what}")),
                reaction="scrub",
            )
        except _OF_ONE_SESSION as exc:
            _log.warning(
                "a finding of the scrub was not written down",
                extra={"session": session, "reason": exc.message},
            )


def _corrupt(difference: Difference) -> ChunkCorrupt:
    return ChunkCorrupt(
        index=difference.index or 0,
        what=difference.what,
        reason=difference.reason[:500],
        expected=difference.expected[:500],
        found=difference.found[:500],
    )


def _verified(report: SessionReport, seed: str) -> SessionVerified:
    return SessionVerified(
        version=report.version,
        head=report.head,
        holds=report.holds,
        chunks=report.chunks,
        ready=report.ready,
        raw_bytes=report.raw_bytes,
        signature=report.signature.verdict,
        differences=report.found,
        first=str(report.differences[0])[:500] if report.differences else "",
        seed=seed,
    )
