"""Facts from outside that the rules ask for: is a recorder alive, what did it leave, what is stored.

A fact holds for the version it was gathered at; whoever decides again gathers again.
"""

import logging
from collections.abc import Callable

from msgspec.structs import replace

from lucid_events.domain import events as ev
from lucid_events.domain.commands import Asked
from lucid_events.domain.decisions import Needs
from lucid_events.domain.envelope import Recorded
from lucid_events.domain.ids import NO_DIGEST, Digest, SessionId, event_id
from lucid_events.domain.outside import CaptureTail
from lucid_events.domain.state import Session
from lucid_events.domain.values import CodecTotals, Manifest, Span
from lucid_events.errors import ContractError, IntegrityError, VersionConflict
from lucid_events.evidence.manifests import MAX_GAPS
from lucid_events.evidence.merkle import MerkleTree
from lucid_events.handlers.histories import History
from lucid_events.handlers.salvage import Salvager
from lucid_events.ports import Beats, CaptureStore, Clock, EventStore

ALIVE_WITHIN = 1.5
"""How long a recorder is listened for, in beat intervals: one may be late, but not by half."""

_log = logging.getLogger(__name__)

Sign = Callable[[SessionId, Manifest], Manifest]
"""Returns the session's manifest with `signature` and `key` set."""


class Facts:
    """Gathers what `Needs` names.

    Args:
        beat_interval_s: how often recorders say that they are alive.
        sign: signs manifests; None leaves them unsigned.
    """

    def __init__(
        self,
        store: EventStore,
        capture: CaptureStore,
        beats: Beats,
        clock: Clock,
        *,
        beat_interval_s: float,
        sign: Sign | None = None,
    ) -> None:
        self._store, self._capture, self._beats = store, capture, beats
        self._salvager = Salvager(capture, clock)
        self._listen_s = beat_interval_s * ALIVE_WITHIN
        self._sign = sign

    async def alive(self, session: SessionId, epoch: int) -> bool:
        """Return whether the epoch's recorder beats; takes up to one and a half intervals to say no."""
        return await self._beats.heard(session, epoch=epoch, within_s=self._listen_s)

    async def gather(self, needs: Needs, asked: Asked, history: History) -> Asked:
        """Return `asked` with the salvage, tail, manifest or past of the command that is needed.

        A salvage fences its epoch for good.

        Raises:
            StoreUnavailable: a fact can't be had now.
            VersionConflict: the history has moved on from `history`.
            IntegrityError: the history has to be read, and an event of it can't be.
        """
        if needs.salvage is not None:
            asked = replace(asked, salvage=await self._salvager.salvage(history.state, needs.salvage))
        if needs.tail is not None:
            asked = replace(asked, tail=await self._tail(asked.session, needs.tail))
        if needs.manifest:
            asked = replace(asked, manifest=await self.manifest(history))
        if needs.stored:
            asked = replace(asked, stored=await self._stored(asked, history))
        return asked

    async def manifest(self, history: History) -> Manifest:
        """Return what the session consists of at the history's version, by reading all of it.

        Memory holds the chunks that are sealed and not ready, and up to `MAX_GAPS` gaps.

        Raises:
            VersionConflict: what was read does not end at that version: decide again.
            IntegrityError: an event can't be read.
        """
        reading, state = _Reading(history.state), history.state
        read = 0
        try:
            async for message in self._store.read(state.id, upto=history.version):
                read = int(message.sequence)
                if isinstance(message, Recorded):
                    reading.take(message)
        except ContractError as exc:
            raise IntegrityError(
                f"the history of {state.id} can't be read behind {read}: {exc.message}", session=state.id
            ) from exc
        if read != history.version:
            raise VersionConflict(
                f"{state.id} was read up to {read}, the manifest is for {history.version}: decide again",
                history=state.id,
                expected=history.version,
                actual=read,
            )
        manifest = reading.manifest()
        return self._sign(state.id, manifest) if self._sign else manifest

    async def _stored(self, asked: Asked, history: History) -> bool:
        """Return whether the command has an event among those older than all that is remembered."""
        oldest = min((first.version for first in history.state.remembered.values()), default=None)
        upto = history.version if oldest is None else oldest - 1
        wanted, read, found = event_id(asked.session, asked.id, 0), 0, False
        try:
            async for message in self._store.read(asked.session, upto=upto):
                read = int(message.sequence)
                found = found or (isinstance(message, Recorded) and message.id == wanted)
        except ContractError as exc:
            raise IntegrityError(
                f"the history of {asked.session} can't be read behind {read}: {exc.message}",
                session=asked.session,
            ) from exc
        return found

    async def _tail(self, session: SessionId, sequence: int) -> CaptureTail:
        piece = await self._capture.tail(session, sequence)
        if piece is None:
            return CaptureTail(found=False)
        return CaptureTail(
            found=True, epoch=piece.epoch, n=piece.n, end=piece.offset + len(piece.data), sha256=piece.sha256
        )


class _Reading:
    """A history being read from its start, summed up as it goes by.

    Leaves are added when a chunk is sealed, which happens by index, not when it is ready, which
    happens in any order; `session`, the end of the same history, says which never became ready.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self.head: Digest = NO_DIGEST
        self._tree = MerkleTree()
        self._waiting: dict[int, str] = {}
        self._codecs: dict[str, CodecTotals] = {}
        self._gaps: list[Span] = []
        self._events = self._chunks = self._raw = self._stored = self._gap_bytes = 0

    def take(self, recorded: Recorded) -> None:
        if recorded.prev != self.head:
            self._complain("the chain of events is broken here", recorded)
        self.head = recorded.digest
        self._events += 1
        match recorded.event:
            case ev.ChunkSealed() as sealed:
                self._waiting[sealed.index] = sealed.sha256
                if sealed.index not in self._session.pending and sealed.index not in self._session.failed:
                    self._tree.add(Digest(sealed.sha256))
            case ev.ChunkReady() as ready:
                if self._waiting.pop(ready.index, None) != ready.sha256:
                    self._complain("a chunk is ready that was not sealed so", recorded)
                self._add(ready)
            case ev.GapDeclared() as gap:
                self._gap_bytes += gap.end - gap.start
                if self._gaps and self._gaps[-1].end == gap.start:
                    self._gaps[-1] = Span(start=self._gaps[-1].start, end=gap.end)
                elif len(self._gaps) < MAX_GAPS:
                    self._gaps.append(Span(start=gap.start, end=gap.end))

    def manifest(self) -> Manifest:
        before = self._session.manifest
        return Manifest(
            version=before.version + 1 if before else 1,
            chunks=self._chunks,
            raw_bytes=self._raw,
            stored_bytes=self._stored,
            end_offset=self._session.offset,
            gaps=tuple(self._gaps),
            gap_bytes=self._gap_bytes,
            failed=tuple(sorted(self._session.failed)),
            merkle_root=self._tree.root,
            chain_head=self.head,
            events=self._events,
            codecs=self._codecs,
        )

    def _add(self, ready: ev.ChunkReady) -> None:
        self._chunks += 1
        self._raw += ready.size
        self._stored += ready.stored_size
        so_far = self._codecs.get(ready.codec) or CodecTotals(chunks=0, raw_bytes=0, stored_bytes=0)
        self._codecs[ready.codec] = CodecTotals(
            chunks=so_far.chunks + 1,
            raw_bytes=so_far.raw_bytes + ready.size,
            stored_bytes=so_far.stored_bytes + ready.stored_size,
        )

    def _complain(self, what: str, recorded: Recorded) -> None:
        _log.error(
            "a manifest is made of a damaged history: verify it",
            extra={"session": recorded.session, "sequence": recorded.sequence, "reason": what},
        )
