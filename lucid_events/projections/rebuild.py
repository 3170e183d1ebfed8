"""Rebuilding the status views from the first message of the log, into a bucket of their own.

    replay ──> fold, most recently used sessions in memory ──> written when evicted, and at the end

The generation that is read stays untouched; `comparison.py` holds the two against each other and
`generations.py` switches.
"""

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from functools import partial
from itertools import islice
from typing import Final, TypeVar

from lucid_events.domain.envelope import Recorded
from lucid_events.domain.ids import SessionId
from lucid_events.domain.values import Fact
from lucid_events.errors import LucidError, VersionConflict
from lucid_events.ports import Clock, EventStore, Position
from lucid_events.projections.base import Held, Projection, advance, follows
from lucid_events.projections.status_view import StatusView
from lucid_events.projections.views import StatusViews

MAX_OPEN = 4096
"""Views held in memory: 40 MiB when they are large. Half writes and reads the views of a log with many
sessions at once more often; what fits is written once."""
BATCH = 100
"""Views written together: at half, a rebuild waits for twice as many commits; twice is 2 MiB staged."""
PATIENCE_S: Final = 30.0
"""How long the bucket may not answer before a rebuild gives up: longer than a leader takes to be elected,
and than the nodes of a cluster take to hear of a bucket that was just made."""
PAUSE_S: Final = 0.2

T = TypeVar("T")


class Rebuilt(Fact, frozen=True, kw_only=True):
    """What a rebuild did: up to where, how many events folded, strays passed, views written."""

    position: Position
    events: int
    strays: int
    writes: int


class Rebuild:
    """Fills `views` from the log. An interrupted one is run again from the start: what is written stays.

    The bucket must belong to this version of the projection alone.
    """

    def __init__(
        self,
        projection: Projection[StatusView],
        store: EventStore,
        views: StatusViews,
        *,
        clock: Clock,
        max_open: int = MAX_OPEN,
    ) -> None:
        self._projection, self._store, self._views, self._clock = projection, store, views, clock
        self._max_open = max_open
        self._open: OrderedDict[SessionId, tuple[StatusView | None, Held[StatusView]]] = OrderedDict()
        self._writes = 0

    async def run(self) -> Rebuilt:
        """Fold every message of the log, to its end as of now, and write every view.

        Raises:
            ContractError: an event can't be decoded by this version; don't switch, upgrade.
            StoreUnavailable, AppendUncertain: the log could not be read, or the bucket did not answer
                for `PATIENCE_S`; run it again.
        """
        position = await self._store.last_position()
        events = strays = 0
        opened, projection = self._open, self._projection
        async for message in self._store.replay(upto=position.sequence):
            session = message.session
            held = opened.get(session)
            if held is None:
                held = (None, Held()) if follows(None, message) else await self._reopen(session)
                if len(opened) >= self._max_open:
                    await self._evict()
            if isinstance(message, Recorded):
                events += 1
            else:
                strays += 1
            opened[session] = (advance(projection, held[0], message), held[1])
            opened.move_to_end(session)
        while opened:
            await self._evict()
        return Rebuilt(position=position, events=events, strays=strays, writes=self._writes)

    async def _reopen(self, session: SessionId) -> tuple[StatusView | None, Held[StatusView]]:
        held = await self._patiently(lambda: self._views.load(session))
        return held.view, held

    async def _evict(self) -> None:
        """Write the views used least recently and forget them."""
        oldest = list(islice(self._open, BATCH))
        changes = []
        for session in oldest:
            view, over = self._open.pop(session)
            if view is not None and view is not over.view:
                changes.append((view, over))
        if not changes:
            return
        try:
            await self._views.save_all(changes)
        except LucidError as exc:
            if not exc.retry:
                raise
            # Views of an interrupted run, of a runner that fills the same bucket, or of this very
            # batch when its reply was lost.
            for view, _ in changes:
                await self._patiently(partial(self._save_over, view))
        self._writes += len(changes)

    async def _save_over(self, view: StatusView) -> None:
        while True:
            over = await self._views.look(view.session_id)
            if over.view is not None and over.view.position.sequence >= view.position.sequence:
                return
            try:
                await self._views.save(view, over)
            except VersionConflict:
                continue  # whoever wrote is further on each time, so this ends
            return

    async def _patiently(self, call: Callable[[], Awaitable[T]]) -> T:
        """Return what `call` does, which may be repeated while the bucket does not answer."""
        until = self._clock.now().timestamp() + PATIENCE_S
        while True:
            try:
                return await call()
            except LucidError as exc:
                if not exc.retry or self._clock.now().timestamp() >= until:
                    raise
            await self._clock.sleep(PAUSE_S)
