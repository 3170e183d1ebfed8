"""The views of whichever generation is live, for readers that outlive a switch.

What is known of the generations is kept for a second. That is enough: both generations are filled while
both exist, so who reads the one before for a moment longer reads nothing old. While one is kept beside
the live one, both are looked at and the view that is further on is taken, so a switch takes no reader
back.
"""

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta

from lucid_events.domain.ids import SessionId
from lucid_events.domain.transitions import State
from lucid_events.errors import ContractError, StoreUnavailable
from lucid_events.ports import Clock, KeyValue
from lucid_events.projections.base import Held
from lucid_events.projections.generations import FIRST, Generations, Live
from lucid_events.projections.index import Page, SessionIndex
from lucid_events.projections.status_view import StatusView
from lucid_events.projections.views import StatusViews

KEPT_S = 1.0
"""How long an answer about the generations is used again. Half asks twice as often, on every reader;
twice keeps readers on the old generation for longer, which `drop` has to wait for."""

_REVISIONS = 1 << 40
"""A cursor is generation and revision in one number that every JSON reader keeps exact (below 2^53): the
first 8192 generations, and a million writes a second for twelve days in each."""


class LiveViews:
    """Reads the status views and the index that are live; `open_kv` opens a generation's bucket."""

    def __init__(self, generations: Generations, open_kv: Callable[[int], KeyValue], clock: Clock) -> None:
        self._generations, self._open, self._clock = generations, open_kv, clock
        self._known: tuple[Live, datetime] | None = None

    async def load(self, session: SessionId) -> Held[StatusView]:
        """Return the session's view; an empty `Held` when there is none. May be a replica's answer.

        Raises:
            StoreUnavailable: the server could not be asked.
        """
        live = await self._live()
        try:
            return await self._load(live, session)
        except StoreUnavailable:
            newer = await self._live(anew=True)
            if newer.generation == live.generation:
                raise
            return await self._load(newer, session)  # the one we knew was dropped

    async def page(
        self, *, owner: str | None = None, state: State | None = None, after: int = 0, limit: int = 100
    ) -> Page:
        """Return a page of sessions; see `SessionIndex.page`. A cursor stays with its generation.

        Raises:
            ContractError: `limit` is not 1 to 1000, or the cursor's generation is gone.
            StoreUnavailable: the server could not be asked.
        """
        live = await self._live(anew=True)
        generation = live.generation
        number, revision = divmod(after, _REVISIONS)
        if after:
            generation = number + FIRST
            if generation not in {one.generation for one in live.all()}:
                raise ContractError(
                    "the views were rebuilt since this list was begun: begin again, without a cursor",
                    field="cursor",
                )
        index = SessionIndex(self._open(generation))
        page = await index.page(owner=owner, state=state, after=revision, limit=limit)
        if page.cursor is None:
            return page
        return Page(entries=page.entries, cursor=(generation - FIRST) * _REVISIONS + page.cursor)

    async def refresh(self) -> None:
        """Look at which generation is live, now.

        Raises:
            StoreUnavailable: the server could not be asked, or no pipeline was set up on it.
        """
        await self._live(anew=True)

    async def _load(self, live: Live, session: SessionId) -> Held[StatusView]:
        views = StatusViews(self._open(live.generation))
        if live.previous is None:
            return await views.load(session)
        before = StatusViews(self._open(live.previous.generation))
        found, kept = await asyncio.gather(views.load(session), _load_kept(before, session))
        return kept if _at(kept) > _at(found) else found

    async def _live(self, *, anew: bool = False) -> Live:
        now = self._clock.now()
        if self._known is not None and not anew and now - self._known[1] < timedelta(seconds=KEPT_S):
            return self._known[0]
        live = await self._generations.live()
        self._known = live, now
        return live


async def _load_kept(views: StatusViews, session: SessionId) -> Held[StatusView]:
    """Return the view of the generation that is kept; nothing when it is gone, or of another shape."""
    try:
        return await views.load(session)
    except (StoreUnavailable, ContractError):
        return Held()


def _at(held: Held[StatusView]) -> int:
    return 0 if held.view is None else held.view.position.sequence
