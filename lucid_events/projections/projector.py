"""Brings one session's view up to a message: the checkpoint rule at work.

cached view ──> next by digest? ──yes──> fold ──> compare-and-set ──> keep
                      │no                               │conflict
                      └──> read the history             └──> read the view again
"""

import logging
from collections import OrderedDict
from collections.abc import Sequence
from typing import Generic

from lucid_events.domain.envelope import Recorded, Stray
from lucid_events.domain.ids import SessionId, Version
from lucid_events.errors import ContractError, StoreUnavailable, VersionConflict
from lucid_events.ports import EventStore
from lucid_events.projections.base import Held, Problem, Projection, V, ViewStore, advance, follows

_log = logging.getLogger(__name__)

ATTEMPTS = 8
"""Tries against other projectors of one session before the messages are left to a redelivery. Each
loss means that another projector got on; half is lost by chance when four share a busy session."""
MAX_CACHED = 1024
"""Views kept between batches: 10 MiB at most. Half sends a busy service back to the bucket for
sessions it has just left; twice buys nothing at a hundred sessions."""


class Projector(Generic[V]):
    """Applies messages to views; safe beside any number of others, in this process and elsewhere.

    One call per session at a time; calls for different sessions may run side by side.
    """

    def __init__(
        self,
        projection: Projection[V],
        store: EventStore,
        views: ViewStore[V],
        *,
        max_cached: int = MAX_CACHED,
    ) -> None:
        self._projection, self._store, self._views = projection, store, views
        self._max_cached = max_cached
        self._cache: OrderedDict[SessionId, Held[V]] = OrderedDict()
        self.conflicts = 0
        self.reads = 0

    async def apply(self, session: SessionId, messages: Sequence[Recorded | Stray]) -> V | None:
        """Commit the view with everything up to the last of `messages`; returns it.

        None while the history holds no event. A message that can't be decoded halts the view
        before it: `problem` says so, and it goes on once the history can be read. A stored view that
        can't be read is folded anew from the whole history.

        Raises:
            VersionConflict: other projectors were faster, time and again.
            StoreUnavailable: history or bucket could not be reached.
            AppendUncertain: no reply to the write; applying again is safe.
        """
        for _ in range(ATTEMPTS):
            held = self._cache.pop(session, None) or await self._look(session)
            view = await self._fold(session, held.view, messages)
            if view is None or view is held.view:
                self._keep(session, held)
                return view
            try:
                self._keep(session, await self._views.save(view, held))
            except VersionConflict:
                self.conflicts += 1
                continue
            self._report(held.view, view)
            return view
        raise VersionConflict(
            f"the view of {session} was written by others {ATTEMPTS} times in a row: apply again later",
            session=session,
        )

    async def _look(self, session: SessionId) -> Held[V]:
        held = await self._views.look(session)
        if held.view is None and held.revision:
            _log.warning(
                "a view can't be read and is folded anew",
                extra={"session": session, "sequence": held.revision},
            )
        return held

    async def _fold(
        self, session: SessionId, view: V | None, messages: Sequence[Recorded | Stray]
    ) -> V | None:
        for message in sorted(messages, key=lambda one: one.sequence):
            if view is not None and message.sequence <= view.position.sequence:
                continue
            if follows(view, message):
                view = advance(self._projection, view, message)
                continue
            view, problem = await self._catch_up(session, view, message.sequence)
            if problem is None:
                continue
            halted = self._projection.initial(session) if view is None else view
            return halted if halted.problem == problem else self._projection.halt(halted, problem)
        return view

    async def _catch_up(
        self, session: SessionId, view: V | None, upto: int
    ) -> tuple[V | None, Problem | None]:
        self.reads += 1
        reached = after = 0 if view is None else view.position.sequence
        try:
            async for message in self._store.read(session, after=Version(after), upto=upto):
                view = advance(self._projection, view, message)
                reached = message.sequence
        except ContractError as exc:
            return view, Problem(after=reached, reason=exc.message)
        if reached < upto:
            raise StoreUnavailable(
                f"the history of {session} was read up to {reached}, {upto} was delivered: "
                "a replica is behind, read again",
                session=session,
            )
        return view, None

    def _keep(self, session: SessionId, held: Held[V]) -> None:
        self._cache[session] = held
        while len(self._cache) > self._max_cached:
            self._cache.popitem(last=False)

    def _report(self, before: V | None, view: V) -> None:
        problem = view.problem
        if problem is not None and problem != (before.problem if before else None):
            _log.error(
                "a view stands still: upgrade, or look at the message behind the sequence",
                extra={"session": view.session_id, "sequence": problem.after, "reason": problem.reason},
            )
