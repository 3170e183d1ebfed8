"""Capture that nobody needs and is there all the same: found by what the histories say, and purged.

- A purge that the server has confirmed may be undone when the server is killed: then pieces of ready chunks,
  or of a destroyed session, come back under their old sequences, while the ack of the work that purged them
  stays.
- A piece that was on its way for long may be stored behind the range of its chunk, after that was purged.
- What a resumable source sent behind a hole, before its recorder was lost, is sent again in another epoch.

So workers look at start, after every reconnect, and every `SWEEP_S`. What they take is what the chunk handler
and the eraser take, up to the same bound; all workers may do it at once.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Collection
from datetime import datetime, timedelta
from typing import Final

import msgspec

from lucid_events.domain.chunks import purge_bound
from lucid_events.domain.envelope import Recorded
from lucid_events.domain.events import (
    ChunkReady,
    ChunkSealed,
    RecorderAttached,
    RecorderDetached,
    RecorderLost,
)
from lucid_events.domain.ids import SessionId
from lucid_events.domain.state import Session, chunk_is_ready
from lucid_events.domain.transitions import State
from lucid_events.domain.values import MAX_OFFSET
from lucid_events.errors import LucidError
from lucid_events.handlers.base import Sessions
from lucid_events.jetstream.connection import Connection
from lucid_events.ports import CaptureStore, Clock, EventStore, HeldChunk

SWEEP_S: Final = 60.0
"""Pause between two looks. Half asks the server twice as often for what a kill brings back once a year;
at twice, the bytes of an erased session may be readable for two minutes."""
SETTLED_S: Final = 30.0
"""Age from which a ready chunk's, or a destroyed session's, capture has come back: before, the worker that
said so may be about to purge it, or be restarted with the server."""
HISTORIES: Final = 100
"""Histories read in one look; the rest waits for the next. A long one is read in a second."""

EVERYTHING: Final = MAX_OFFSET - 1
"""A sequence above all: the whole of a capture subject."""

_log = logging.getLogger(__name__)


class Returned(msgspec.Struct, frozen=True, kw_only=True):
    """Capture that should be gone: of one chunk up to sequence `upto`; None: all of a destroyed session."""

    session: SessionId
    epoch: int
    n: int
    upto: int | None


async def returned(
    store: EventStore, state: Session, version: int, held: Collection[HeldChunk], *, before: datetime
) -> AsyncIterator[Returned]:
    """Yield what of `held` the session's history up to `version` has no use for since the time given.

    `state` is that of `version`. What belongs to chunks not ready or set aside is left alone, and so is what
    was never sealed of a source that has it no more.

    Raises:
        ContractError: an event can't be decoded by this version.
        StoreUnavailable: the log could not be read.
    """
    session = state.id
    if state.state is State.DESTROYED:
        if state.since is not None and state.since <= before:
            for one in held:
                yield Returned(session=session, epoch=one.epoch, n=one.n, upto=None)
        return
    wanted = {(one.epoch, one.n) for one in held}
    sealed: dict[int, ChunkSealed] = {}
    bounds: dict[tuple[int, int], int] = {}
    resumable: set[int] = set()
    over: set[int] = set()
    unsealed = set(wanted)
    async for message in store.read(session, upto=version):
        match message:
            case Recorded(event=RecorderAttached(epoch=epoch, resumable=True)):
                resumable.add(epoch)
            case Recorded(event=RecorderLost(epoch=epoch) | RecorderDetached(epoch=epoch), stored_at=at):
                over |= {epoch} if at <= before else set()
            case Recorded(event=ChunkSealed() as event) if (event.epoch, event.n) in wanted:
                sealed[event.index] = event
                unsealed.discard((event.epoch, event.n))
            case Recorded(event=ChunkReady(index=index), stored_at=stored_at) if index in sealed:
                seal = sealed.pop(index)
                if stored_at <= before and chunk_is_ready(state, index):
                    place, bound = (seal.epoch, seal.n), purge_bound(state, seal)
                    if bound == seal.last_seq and not seal.recovered:
                        bound = EVERYTHING  # its recorder sealed all of the subject: what follows came twice
                    bounds[place] = max(bounds.get(place, 0), bound)
            case _:
                pass
    bounds |= {place: EVERYTHING for place in unsealed if place[0] in resumable & over}
    for (epoch, n), upto in bounds.items():
        if upto > 0:
            yield Returned(session=session, epoch=epoch, n=n, upto=upto)


def undecided(state: Session, held: Collection[HeldChunk]) -> list[HeldChunk]:
    """Return what of `held` only the history can tell of: not the bytes being recorded or stored now."""
    waits = {(one.epoch, one.n) for one in state.pending.values()}
    lease = state.lease
    return [
        one
        for one in held
        if (one.epoch, one.n) not in waits
        and not (lease is not None and one.epoch == lease.epoch and one.n > lease.sealed_n)
    ]


class _Looked:
    """A history that was read for what capture held of it: when first, and when last."""

    __slots__ = ("first", "held", "last", "version")

    def __init__(self, version: int, held: frozenset[HeldChunk], *, first: datetime) -> None:
        self.version, self.held, self.first = version, held, first
        self.last = first


class ReturnedCapture:
    """Sweeps capture of one prefix for what came back, until `stop`."""

    def __init__(
        self,
        sessions: Sessions,
        store: EventStore,
        capture: CaptureStore,
        clock: Clock,
        *,
        settled_s: float = SETTLED_S,
    ) -> None:
        self._sessions, self._store, self._capture, self._clock = sessions, store, capture, clock
        self._settled_s = settled_s
        self._looked: dict[SessionId, _Looked] = {}
        self._wake = asyncio.Event()
        self._stopped = asyncio.Event()

    def stop(self) -> None:
        """Let `run` end after the look in hand."""
        self._stopped.set()
        self._wake.set()

    async def run(self, connection: Connection) -> None:
        """Look now, after every reconnect and every `SWEEP_S`; a failure is left to the next look."""
        unhook: Callable[[], None] = connection.on_reconnect(self._wake.set)
        try:
            while not self._stopped.is_set():
                try:
                    await self.sweep()
                except LucidError as exc:
                    _log.warning("capture was not swept", extra={"reason": exc.message})
                try:
                    async with asyncio.timeout(SWEEP_S):
                        await self._wake.wait()
                        self._wake.clear()
                except TimeoutError:
                    continue
        finally:
            unhook()

    async def sweep(self) -> int:
        """Purge what came back; returns how many pieces.

        A history is read again only when it, or what capture holds of it, is not what it was then.

        Raises:
            StoreUnavailable: the server could not be asked.
        """
        held: dict[SessionId, list[HeldChunk]] = {}
        async for one in self._capture.held():
            held.setdefault(one.session, []).append(one)
        self._looked = {session: seen for session, seen in self._looked.items() if session in held}
        pieces = read = 0
        for session, chunks in held.items():
            if read >= HISTORIES:
                break
            try:
                looked, purged = await self._session(session, chunks)
            except LucidError as exc:
                # One history that can't be read must not keep the bytes of all others.
                _log.warning(
                    "capture of a session was not swept", extra={"session": session, "reason": exc.message}
                )
                continue
            read, pieces = read + looked, pieces + purged
        return pieces

    async def _session(self, session: SessionId, chunks: list[HeldChunk]) -> tuple[bool, int]:
        history = await self._sessions.refresh(session)
        chunks = undecided(history.state, chunks)
        if not chunks:
            return False, 0
        now = self._clock.now()
        before = now - timedelta(seconds=self._settled_s)
        looked = self._looked.get(session)
        if looked is None or (looked.version, looked.held) != (int(history.version), frozenset(chunks)):
            looked = _Looked(int(history.version), frozenset(chunks), first=now)
        elif looked.last >= looked.first + timedelta(seconds=self._settled_s):
            return False, 0  # everything in it was old enough then, and nothing of it had come back
        self._looked[session] = looked
        purged = 0
        found = returned(self._store, history.state, int(history.version), chunks, before=before)
        async for one in found:
            if one.upto is None:
                purged += await self._capture.erase(session)
                break
            purged += await self._capture.purge(session, epoch=one.epoch, n=one.n, upto_seq=one.upto)
        if purged:
            _log.warning("purged capture had come back", extra={"session": session, "count": purged})
        looked.last = now
        return True, purged
