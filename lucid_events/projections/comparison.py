"""Two generations of status views held against each other, each session at the same sequence."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

import msgspec

from lucid_events import codec
from lucid_events.domain.ids import SessionId, Version
from lucid_events.domain.values import Fact
from lucid_events.ports import Clock, EventStore
from lucid_events.projections import index
from lucid_events.projections.base import Held, Projection, advance
from lucid_events.projections.status_view import StatusView
from lucid_events.projections.views import StatusViews

MAX_DIFFERENCES = 100
"""Differences reported in full; a person reads them, and a hundred tell as much as all."""
PATIENCE_S: Final = 5.0
"""How long a comparison waits in all for what one of the two generations may be about to write. Half is less
than an election takes; twice only delays the answer that it is missing."""
PAUSE_S: Final = 0.1


class Difference(Fact, frozen=True, kw_only=True):
    """One session whose views differ at sequence `at`, in the fields named.

    A field `index` means that its entry in the fresh index is missing or wrong; `missing` that the
    live generation has no view of it; `damaged` that one of the two views can't be read.
    """

    session_id: SessionId
    at: int
    fields: tuple[str, ...]


class Comparison(Fact, frozen=True, kw_only=True):
    """How many sessions were compared, how many of them differ, and the first of those."""

    sessions: int = 0
    different: int = 0
    differences: tuple[Difference, ...] = ()

    @property
    def same(self) -> bool:
        """Whether the fresh generation may take over."""
        return self.different == 0


async def compare(
    projection: Projection[StatusView],
    store: EventStore,
    live: StatusViews,
    fresh: StatusViews,
    *,
    clock: Clock | None = None,
) -> Comparison:
    """Compare every live view with the fresh one as JSON bytes, and the fresh index with its views.

    Both generations may be filled meanwhile: where the two are at different sequences, the history
    is folded to where the live one is, from the fresh view when that is behind. What is missing is
    looked for again before it is reported.

    Args:
        clock: by which to wait, for `PATIENCE_S` in all, until what is missing was written; without it
            the second look follows at once.

    Raises:
        ContractError: a history can't be decoded by this version.
        StoreUnavailable: history or bucket could not be reached.
    """
    return await _Comparing(projection, store, live, fresh, clock).run()


class _Comparing:
    """One comparison, and what it has found so far."""

    def __init__(
        self,
        projection: Projection[StatusView],
        store: EventStore,
        live: StatusViews,
        fresh: StatusViews,
        clock: Clock | None,
    ) -> None:
        self._projection, self._store, self._live, self._fresh = projection, store, live, fresh
        self._clock, self._left_s = clock, PATIENCE_S
        self._kept: dict[SessionId, Difference] = {}
        self._differing: set[int] = set()  # hashes: every session may differ

    async def run(self) -> Comparison:
        sessions = 0
        async for session, held in self._live.all():
            sessions += 1
            await self._view(session, held.view)
        async for session, held in self._fresh.all():
            await self._fresh_view(session, held)
        async for key, session in self._fresh.entries():
            if not await self._holds(partial(self._is_owned, key, session)):
                self._note(session, 0, "index")
        return Comparison(
            sessions=sessions, different=len(self._differing), differences=tuple(self._kept.values())
        )

    async def _view(self, session: SessionId, view: StatusView | None) -> None:
        """Hold a live view against the fresh one."""
        held = await self._fresh.look(session)
        if view is None:
            self._note(session, 0, "damaged")
        elif held.view is None and held.revision:
            self._note(session, view.position.sequence, "damaged")
        else:
            expected = await _at(self._projection, self._store, held.view, view)
            self._note(session, view.position.sequence, *differences(view, expected))

    async def _fresh_view(self, session: SessionId, held: Held[StatusView]) -> None:
        """Look whether the live generation knows the session, and the fresh index."""
        if held.view is None:
            self._note(session, 0, "damaged")
            return
        at = held.view.position.sequence
        if not await self._holds(partial(self._is_live, session)):
            self._note(session, at, "missing")
        if not await self._stands(held.view) and not await self._holds(partial(self._is_indexed, session)):
            self._note(session, at, "index")

    async def _is_live(self, session: SessionId) -> bool:
        return (await self._live.look(session)).revision > 0 or not (await self._fresh.look(session)).revision

    async def _is_indexed(self, session: SessionId) -> bool:
        held = await self._fresh.look(session)
        while held.view is not None and not await self._stands(held.view):
            again = await self._fresh.look(session)
            if again.revision == held.revision:
                return False
            held = again  # its entry has moved with it
        return True

    async def _is_owned(self, key: str, session: SessionId) -> bool:
        owner = index.entry_of((await self._fresh.look(session)).view)
        if owner is not None and index.entry_key(owner) == key:
            return True
        return not await self._fresh.has_key(key)  # the entry has moved since its page was read

    async def _stands(self, view: StatusView) -> bool:
        entry = index.entry_of(view)
        return entry is None or await self._fresh.has_entry(entry)

    async def _holds(self, check: Callable[[], Awaitable[bool]]) -> bool:
        """Return whether `check` holds, or comes to hold while there is patience."""
        if await check():
            return True
        if self._clock is None:
            return await check()
        while self._left_s > 0:
            self._left_s -= PAUSE_S
            await self._clock.sleep(PAUSE_S)
            if await check():
                return True
        return False

    def _note(self, session: SessionId, at: int, *fields: str) -> None:
        if not fields:
            return
        self._differing.add(hash(session))
        known = self._kept.get(session)
        if known is not None:
            more = (field for field in fields if field not in known.fields)
            self._kept[session] = msgspec.structs.replace(known, fields=(*known.fields, *more))
        elif len(self._kept) < MAX_DIFFERENCES:
            self._kept[session] = Difference(session_id=session, at=at, fields=fields)


async def fold(
    projection: Projection[StatusView],
    store: EventStore,
    session: SessionId,
    *,
    upto: int,
    view: StatusView | None = None,
) -> StatusView | None:
    """Return the view of a history up to sequence `upto`, from `view` on when one is given."""
    after = Version(0 if view is None else view.position.sequence)
    async for message in store.read(session, after=after, upto=upto):
        view = advance(projection, view, message)
    return view


async def _at(
    projection: Projection[StatusView], store: EventStore, fresh: StatusView | None, live: StatusView
) -> StatusView | None:
    upto = live.position.sequence
    at = 0 if fresh is None else fresh.position.sequence
    if at == upto:
        return fresh
    start = fresh if at < upto else None
    return await fold(projection, store, live.session_id, upto=upto, view=start)


def differences(live: StatusView, fresh: StatusView | None) -> tuple[str, ...]:
    """Return the fields in which two views differ as JSON bytes; `missing` when there is no second one."""
    if fresh is None:
        return ("missing",)
    if codec.encode(live) == codec.encode(fresh):
        return ()
    ours, theirs = msgspec.to_builtins(live), msgspec.to_builtins(fresh)
    return tuple(name for name in ours if ours[name] != theirs[name])
