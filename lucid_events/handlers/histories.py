"""Sessions as their histories say: loaded, cached, brought up to date.

What is cached may be behind: whoever appends is held to account by the guard, whoever does not
append asks for `refresh`. Nothing here decides anything.
"""

import logging
from collections import OrderedDict
from collections.abc import Sequence
from datetime import datetime, timedelta

import msgspec
from msgspec.structs import replace

from lucid_events.domain.envelope import Recorded, Stray
from lucid_events.domain.ids import NO_DIGEST, Digest, EventId, SessionId, Version
from lucid_events.domain.state import Session, evolve, initial
from lucid_events.errors import ContractError, IntegrityError, StoreUnavailable, VersionConflict
from lucid_events.handlers.snapshots import EVOLVE_FINGERPRINT, Snapshot, Snapshots
from lucid_events.ports import Appended, Clock, EventStore, KeyValue

CACHED_HISTORIES = 2000
"""Sessions kept in memory: about 10 KiB each. Half reloads more often on a busy service."""

SNAPSHOT_EVERY = 500
"""Events between two snapshots: one page of reading. Twice doubles what a cold load reads."""

CATCH_UP_PAUSES_S = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8)
"""How long a lagging replica is waited for: 1.6 s in all, half of which a busy one may need."""

_log = logging.getLogger(__name__)


class History(msgspec.Struct, frozen=True, kw_only=True):
    """A session as its history says at `version`, the sequence of the last message, strays included.

    `head` is the digest of the last event. `damage` says where the chain breaks first; a damaged
    history is still read to its end.
    """

    state: Session
    version: Version = Version(0)
    head: Digest = NO_DIGEST
    damage: str | None = None
    ends_with_event: bool = True


def fold(history: History, message: Recorded | Stray) -> History:
    """Return the history after one more message of it."""
    version = Version(message.sequence)
    if isinstance(message, Stray):
        return replace(history, version=version, ends_with_event=False)
    damage = history.damage
    if damage is None and message.prev != history.head:
        damage = (
            f"the event at {message.sequence} ({message.type}) follows {message.prev[:16] or 'nothing'}, "
            f"but the event before it is {history.head[:16] or 'nothing'}"
        )
        _log.error(
            "history is damaged: verify it and restore the log",
            extra={"session": message.session, "sequence": message.sequence, "reason": damage},
        )
    return History(state=evolve(history.state, message), version=version, head=message.digest, damage=damage)


class _Cached:
    """A history in the cache; `events_kept` is how many of its events the last snapshot covers."""

    __slots__ = ("confirmed_at", "events_kept", "history")

    def __init__(self, history: History, events_kept: int) -> None:
        self.history, self.events_kept = history, events_kept
        self.confirmed_at: datetime | None = None


class Histories:
    """The recently used histories of one process.

    Args:
        store: where histories are.
        snapshots: bucket of snapshots; None reads every history from its start.
        clock: waits for lagging replicas.
    """

    def __init__(
        self,
        store: EventStore,
        snapshots: KeyValue | None = None,
        *,
        clock: Clock,
        cached: int = CACHED_HISTORIES,
        snapshot_every: int = SNAPSHOT_EVERY,
    ) -> None:
        self._store, self._clock = store, clock
        self._snapshots = Snapshots(snapshots, store)
        self._limit, self._snapshot_every = cached, snapshot_every
        self._cache: OrderedDict[SessionId, _Cached] = OrderedDict()

    async def load(self, session: SessionId) -> History:
        """Return the session's history, perhaps as it stood a moment ago.

        Raises:
            IntegrityError: an event of it can't be read.
            StoreUnavailable: the server could not be asked.
        """
        cached = self._cache.get(session)
        if cached is not None:
            self._cache.move_to_end(session)
            return cached.history
        found = await self._snapshots.find(session)
        if found is None:
            base = History(state=initial(session))
        else:
            base = History(state=found.state, version=found.version, head=found.head, damage=found.damage)
        kept = base.state.events
        return await self._keep(await self._read_on(base), events_kept=kept)

    async def refresh(self, session: SessionId) -> History:
        """Return the session's history as the leader has it now, reading only what is new.

        Raises:
            IntegrityError: an event of it can't be read.
            StoreUnavailable: the server could not be asked, or what it answers stays behind.
        """
        history = await self.load(session)
        now = await self._store.version(session)
        if now < history.version:
            _log.error(
                "history is shorter than it was: the log was cut back, verify it",
                extra={"session": session, "expected": history.version, "actual": now},
            )
            self.forget(session)
            history = await self.load(session)
        if now > history.version:
            history = await self._catch_up(history, now)
        cached = self._cache.get(session)
        if cached is not None and cached.history.version >= now:
            cached.confirmed_at = self._clock.now()
        return history

    async def recent(self, session: SessionId, *, max_age_s: float) -> History:
        """Return the session's history as the leader had it at most `max_age_s` ago."""
        cached = self._cache.get(session)
        oldest = self._clock.now() - timedelta(seconds=max_age_s)
        if cached is not None and cached.confirmed_at is not None and cached.confirmed_at >= oldest:
            self._cache.move_to_end(session)
            return cached.history
        return await self.refresh(session)

    async def remember(self, base: History, appended: Appended) -> History:
        """Return `base` with what was stored right behind it; from now on the cache knows it too."""
        history = base
        for recorded in appended.recorded:
            history = fold(history, recorded)
        history = await self._keep(history)
        cached = self._cache.get(history.state.id)
        if cached is not None and cached.history is history:
            cached.confirmed_at = self._clock.now()
        return history

    async def landed(self, base: History, ids: Sequence[EventId]) -> Appended | None:
        """Return the events with `ids` if they stand right behind `base`, None if nothing does.

        Raises:
            VersionConflict: something else stands there, so they never will.
        """
        found: list[Recorded] = []
        async for message in self._store.read(base.state.id, after=base.version):
            if len(found) == len(ids):
                continue  # what came behind them does not matter; the iterator is read to its end
            if not isinstance(message, Recorded) or message.id != ids[len(found)]:
                raise VersionConflict(
                    f"another writer appended to {base.state.id} after {base.version}: decide again",
                    history=base.state.id,
                    expected=base.version,
                    actual=int(message.sequence),
                )
            found.append(message)
        if len(found) < len(ids):
            return None
        return Appended(Version(found[-1].sequence), found[-1].digest, tuple(found))

    def forget(self, session: SessionId) -> None:
        """Drop the session from the cache: the next load reads the log."""
        self._cache.pop(session, None)

    async def _catch_up(self, history: History, version: Version) -> History:
        for pause_s in CATCH_UP_PAUSES_S:
            history = await self._keep(await self._read_on(history))
            if history.version >= version:
                return history
            await self._clock.sleep(pause_s)
        raise StoreUnavailable(
            f"reading {history.state.id} stays at {history.version}, its leader has {version}: "
            "a replica lags, try again",
            history=history.state.id,
        )

    async def _read_on(self, history: History) -> History:
        session = history.state.id
        try:
            async for message in self._store.read(session, after=history.version):
                history = fold(history, message)
        except ContractError as exc:
            # Not the caller's fault, whose command may be fine: what is stored can't be read.
            raise IntegrityError(
                f"the history of {session} can't be read behind {history.version}: {exc.message}",
                session=session,
                version=history.version,
            ) from exc
        return history

    async def _keep(self, history: History, *, events_kept: int = 0) -> History:
        session = history.state.id
        cached = self._cache.get(session)
        if cached is None:
            cached = self._cache[session] = _Cached(history, events_kept)
        elif history.version > cached.history.version:
            cached.history, cached.confirmed_at = history, None
        elif history.version < cached.history.version:
            return history  # somebody else was faster; what is cached is newer
        self._cache.move_to_end(session)
        while len(self._cache) > self._limit:
            self._cache.popitem(last=False)
        events = history.state.events
        if events - cached.events_kept >= self._snapshot_every and history.ends_with_event:
            cached.events_kept = events
            await self._snapshots.keep(
                Snapshot(
                    fingerprint=EVOLVE_FINGERPRINT,
                    version=history.version,
                    head=history.head,
                    damage=history.damage,
                    state=history.state,
                )
            )
        return history
