"""Whether what was captured, sealed, stored and verified adds up, session by session, and where it does not.

    capture ──> sealed ──> ready (an object and its event) ──> verified
        age of the oldest byte that is not there yet      objects and events held against each other

Every bucket that events name is listed once, before the histories are read: of every session only how many
objects it has and a sum over their names is kept. Where those are not what the history says, names are
compared one by one, some sessions at a time, and what is said to be missing was asked of the leader.

A history that can't be read is told as damaged, and the others are looked at all the same. What this login
may not read of capture is told as not looked at, never as nothing; an outage ends the run.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from contextlib import aclosing
from datetime import datetime, timedelta

import msgspec

from lucid_events import codec
from lucid_events.domain import events as ev
from lucid_events.domain.envelope import Stray
from lucid_events.domain.ids import SessionId
from lucid_events.domain.state import Session, evolve, initial
from lucid_events.domain.transitions import ERASING, State
from lucid_events.domain.values import Fact
from lucid_events.errors import ConfigError, ContractError
from lucid_events.service.adapters import Adapters
from lucid_events.service.listing import Buckets, fingerprint, names_of, some
from lucid_events.service.returned import SETTLED_S, returned, undecided
from lucid_events.service.verifying import all_sessions
from lucid_events.subjects import object_name

GAUGE_TIMEOUT_S = 2.0
"""Longest wait for how far capture has got: the answer of a leader that is there takes milliseconds."""
MAX_NAMED = 20
"""Missing and unknown objects of one session that are named; the rest is counted."""
KEY = "reconciled"
"""Where the sums of the last run stand in the bucket of small things, for metrics."""


class Reconciled(Fact, frozen=True, kw_only=True):
    """One session's bytes on their way, and what is missing.

    `captured_bytes` counts what recorders were told is safe, gaps aside. It, `capture_lost` and
    `capture_left` are None when capture was not looked at, which this login may not do.
    `verified_bytes` is what the newest verification looked at, 0 when that did not hold.
    `capture_left` counts chunks of which capture holds what was purged after they were stored or erased.
    `unstored_s` is the age of the oldest byte not in a ready chunk, at most. `events_without_objects`
    counts ready chunks whose object is gone, `capture_lost` sealed chunks that are not ready and of which
    capture holds nothing any more, `objects_without_events` objects no history says are a chunk; `named`
    are the first of each. `damaged` says why the history can't be read: then nothing was compared.
    """

    session_id: str
    state: State | None = None
    captured_bytes: int | None = 0
    sealed_bytes: int = 0
    ready_bytes: int = 0
    stored_bytes: int = 0
    verified_bytes: int = 0
    unstored_s: float = 0.0
    events_without_objects: int = 0
    objects_without_events: int = 0
    capture_lost: int | None = 0
    capture_left: int | None = 0
    damaged: str = ""
    named: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether nothing that was looked at is missing, on either side; see `unseen`."""
        return not (
            self.damaged
            or self.events_without_objects
            or self.objects_without_events
            or self.capture_lost
            or self.capture_left
        )

    @property
    def unseen(self) -> bool:
        """Whether capture was to be asked of a session that can be read, and was not."""
        asked = (self.captured_bytes, self.capture_lost, self.capture_left)
        return not self.damaged and None in asked


class Totals(Fact, frozen=True, kw_only=True):
    """The sums over all sessions, `at` the time of the run; the age is that of the oldest.

    `damaged` histories could not be read, and are among the `incomplete`. Of `capture_unseen` sessions
    capture was not looked at, so the sums of it leave them out.
    """

    at: datetime
    sessions: int = 0
    incomplete: int = 0
    damaged: int = 0
    capture_unseen: int = 0
    captured_bytes: int = 0
    sealed_bytes: int = 0
    ready_bytes: int = 0
    stored_bytes: int = 0
    verified_bytes: int = 0
    oldest_unstored_s: float = 0.0
    events_without_objects: int = 0
    objects_without_events: int = 0
    capture_lost: int = 0
    capture_left: int = 0

    def with_(self, one: Reconciled) -> "Totals":
        """Return the sums with one session more."""
        added = {
            name: getattr(self, name) + (getattr(one, name) or 0)
            for name in self.__struct_fields__
            if name.endswith(("_bytes", "_objects", "_events", "capture_lost", "capture_left"))
        }
        return msgspec.structs.replace(
            self,
            **added,
            sessions=self.sessions + 1,
            incomplete=self.incomplete + (not one.complete),
            damaged=self.damaged + bool(one.damaged),
            capture_unseen=self.capture_unseen + one.unseen,
            oldest_unstored_s=max(self.oldest_unstored_s, one.unstored_s),
        )


class _History:
    """What one history says: the session, the objects of its ready chunks, what verification covered."""

    def __init__(self, session: SessionId) -> None:
        self.state: Session = initial(session)
        self.count = self.sum = self.sealed_bytes = self.verified_bytes = 0
        self.since: datetime | None = None
        self.version = 0

    def take(self, message: ev.Event, stored_at: datetime) -> str | None:
        match message:
            case ev.ChunkSealed():
                self.sealed_bytes += message.size
                self.since = stored_at
            case ev.RecorderAttached():
                self.since = stored_at
            case ev.SessionVerified():
                self.verified_bytes = message.raw_bytes if message.holds else 0
            case ev.ChunkReady():
                name = f"{message.bucket}/{message.object}"
                self.count, self.sum = self.count + 1, self.sum ^ fingerprint(name)
                return name
            case _:
                pass
        return None


async def reconcile(adapters: Adapters, session: SessionId | None = None) -> AsyncIterator[Reconciled]:
    """Yield how every session of the log adds up, or one; those with something missing come last.

    Objects whose session the log does not know are told as a session of that name without a state.
    A chunk that is being stored meanwhile is never said to be missing. A session with an event that can't be
    decoded by this version is told as damaged.

    Raises:
        StoreUnavailable: the server could not be asked.
    """
    holders = await _holders(adapters, session)
    found = _each(adapters, session)
    async with aclosing(found):
        async for one in found:
            if one.damaged:
                yield one
            elif holders is None:
                yield msgspec.structs.replace(one, capture_left=None)
            elif one.session_id in holders:
                yield await _or_damaged(one.session_id, _with_left(adapters, one))
            else:
                yield one


async def _each(adapters: Adapters, session: SessionId | None) -> AsyncGenerator[Reconciled, None]:
    there: dict[int, tuple[int, int]] = {}
    prefix = f"{session}/" if session else ""
    buckets = await Buckets.of(adapters, session)
    async for owner, name in buckets.names(prefix):
        key = hash(owner)
        count, total = there.get(key, (0, 0))
        there[key] = count + 1, total ^ fingerprint(name)
    differ: list[SessionId] = []
    seen: set[int] = set()
    sessions = _only(session) if session else all_sessions(adapters.store)
    async for one in sessions:
        if isinstance(one, Stray):
            continue
        seen.add(hash(one))
        try:
            history = await _read(adapters, one)
        except ContractError as exc:
            yield _damaged(one, exc)
            continue
        if there.get(hash(one), (0, 0)) != (history.count, history.sum):
            differ.append(one)
        else:
            yield await _or_damaged(one, _add_up(adapters, history))
    strangers = {key for key in there if key not in seen}
    left = dict.fromkeys(differ)
    for wanted in some(there, {hash(one) for one in differ} | strangers):
        for found in await names_of(buckets, prefix, wanted):
            if found.session not in left:
                yield Reconciled(
                    session_id=found.session,
                    captured_bytes=0,
                    objects_without_events=len(found.names),
                    named=tuple(
                        f"no event: {buckets.shown(name)}" for name in sorted(found.names)[:MAX_NAMED]
                    ),
                )
                continue
            one = SessionId(found.session)
            del left[one]
            yield await _or_damaged(one, _compare(adapters, buckets, one, found.names))
    for one in left:
        yield await _or_damaged(one, _compare(adapters, buckets, one, set()))


async def note(adapters: Adapters, totals: Totals) -> bool:
    """Keep the sums of a run over everything, for metrics; False when this login has no right to.

    Nor are sums kept from which capture was left out: a gauge can't say that it was not looked at.

    Raises:
        StoreUnavailable, AppendUncertain: the server did not take them now.
        ConfigError: there is no bucket of metadata.
    """
    if totals.capture_unseen:
        return False
    try:
        await adapters.meta.put(KEY, codec.encode(totals))
    except ConfigError as exc:
        _tolerate(exc)
        return False
    return True


async def noted(adapters: Adapters) -> Totals | None:
    """Return the sums of the last run over everything, None when there was none."""
    found = await adapters.meta.get(KEY)
    return None if found is None else codec.decode(found[0], Totals)


async def _or_damaged(session: str, looking: Awaitable[Reconciled]) -> Reconciled:
    """Return what came of looking at a session, or that something of it can't be read."""
    try:
        return await looking
    except ContractError as exc:
        return _damaged(session, exc)


def _damaged(session: str, exc: ContractError) -> Reconciled:
    return Reconciled(
        session_id=session,
        captured_bytes=None,
        capture_lost=None,
        capture_left=None,
        damaged=exc.message[:500],
        named=(f"damaged, nothing was compared: {exc.message[:500]}",),
    )


async def _only(session: SessionId) -> AsyncIterator[SessionId]:
    yield session


async def _read(adapters: Adapters, session: SessionId, objects: set[str] | None = None) -> _History:
    history = _History(session)
    async for message in adapters.store.read(session):
        if isinstance(message, Stray):
            continue
        name = history.take(message.event, message.stored_at)  # type: ignore[arg-type] # events are of the union
        if name is not None and objects is not None:
            objects.add(name)
        history.state, history.version = evolve(history.state, message), int(message.sequence)
        if history.state.state is State.DESTROYED:
            history.count = history.sum = 0
            if objects is not None:
                objects.clear()
    return history


async def _compare(adapters: Adapters, buckets: Buckets, session: SessionId, names: set[str]) -> Reconciled:
    objects: set[str] = set()
    history = await _read(adapters, session, objects)
    if history.state.state is State.CLEANUP:
        return await _add_up(adapters, history)  # objects go before the event that says so
    # Of a destroyed session nothing is on its way any more, whatever was when it was erased.
    pending = () if history.state.state is State.DESTROYED else history.state.pending.values()
    waiting = {
        f"{adapters.subjects.chunks_bucket}/{object_name(session, one.index, one.sha256)}" for one in pending
    }
    gone = [name for name in sorted(objects - names) if not await buckets.has(name)]
    extra = sorted(names - objects - waiting)
    if gone or extra:
        # Asked again now that the answer matters: an erasure may have begun, a chunk become ready.
        objects.clear()
        history = await _read(adapters, session, objects)
        gone = [name for name in gone if name in objects and history.state.state not in ERASING]
        there = [name for name in extra if name not in objects]
        extra = [name for name in there if await buckets.has(name)]
    return await _add_up(
        adapters, history, gone=[*map(buckets.shown, gone)], extra=[*map(buckets.shown, extra)]
    )


async def _add_up(
    adapters: Adapters, history: _History, *, gone: list[str] | None = None, extra: list[str] | None = None
) -> Reconciled:
    session, state = history.state.id, history.state
    gone, extra = gone or [], extra or []
    captured: int | None = state.offset - state.gap_bytes
    oldest = [chunk.started_at for chunk in state.pending.values()]
    if state.lease is not None:
        try:
            end = await adapters.gauge.end(session, epoch=state.epoch, timeout_s=GAUGE_TIMEOUT_S)
            if end is not None and end.offset > state.offset:
                captured = end.offset - state.gap_bytes
                oldest.append(history.since or end.stored_at)
        except ConfigError as exc:
            _tolerate(exc)
            captured = None
    now = adapters.clock.now()
    lost = await _capture_lost(adapters, state)
    erased = state.state in ERASING
    return Reconciled(
        session_id=session,
        state=state.state,
        captured_bytes=captured,
        sealed_bytes=history.sealed_bytes,
        ready_bytes=0 if erased else state.ready_bytes,
        stored_bytes=0 if erased else state.stored_bytes,
        verified_bytes=0 if erased else history.verified_bytes,
        unstored_s=0.0 if erased else max(((now - at).total_seconds() for at in oldest), default=0.0),
        events_without_objects=len(gone),
        objects_without_events=len(extra),
        capture_lost=None if lost is None else len(lost),
        named=(
            *(f"no object: {name}" for name in gone[:MAX_NAMED]),
            *(f"no event: {name}" for name in extra[:MAX_NAMED]),
            *(f"not in capture: sealed chunk {index}" for index in (lost or [])[:MAX_NAMED]),
        ),
    )


def _tolerate(exc: ConfigError) -> None:
    """Raise `exc` again unless it says that this login may not ask: then nothing is known, and no fault."""
    if "forbidden" not in exc.fields:
        raise exc


async def _capture_lost(adapters: Adapters, state: Session) -> list[int] | None:
    """Return the chunks that wait to be stored and of which capture holds nothing; None: we may not ask."""
    if state.state in ERASING:
        return []
    lost = []
    for index, sealed in state.pending.items():
        try:
            pieces = await adapters.capture.count(state.id, epoch=sealed.epoch, n=sealed.n)
        except ConfigError as exc:
            _tolerate(exc)
            return None
        if not pieces:
            lost.append(index)
    if not lost:
        return []
    # A chunk becomes ready before its capture goes, so what is ready by now was never lost.
    history = await _read(adapters, state.id)
    return [index for index in lost if index in history.state.pending]


async def _holders(adapters: Adapters, session: SessionId | None) -> set[str] | None:
    """Return the sessions of which capture holds anything; None: we may not ask."""
    try:
        return {one.session async for one in adapters.capture.held(session)}
    except ConfigError as exc:
        _tolerate(exc)
        return None


async def _with_left(adapters: Adapters, one: Reconciled) -> Reconciled:
    """Tell of capture that came back after it was purged; workers take it within a minute or two."""
    session = SessionId(one.session_id)
    held = [chunk async for chunk in adapters.capture.held(session)]
    # Read behind what capture holds: what was ready or erased long before then should have been gone.
    history = await _read(adapters, session)
    held, before = undecided(history.state, held), adapters.clock.now() - timedelta(seconds=SETTLED_S)
    if not held:
        return one
    found = returned(adapters.store, history.state, history.version, held, before=before)
    left = [f"came back in capture: epoch {chunk.epoch}, n={chunk.n}" async for chunk in found]
    return msgspec.structs.replace(one, capture_left=len(left), named=(*one.named, *left[:MAX_NAMED]))
