"""Reading views, with a read that waits until the reader's own write is in."""

from typing import Protocol

from lucid_events.domain.ids import SessionId
from lucid_events.errors import ContractError, NotFound, NotReady
from lucid_events.ports import Clock
from lucid_events.projections.base import Held
from lucid_events.projections.status_view import StatusView

FIRST_PAUSE_S = 0.005
"""First wait for a projector: about the time it takes for one event."""
MOST_PAUSE_S = 0.2
"""Longest wait between two looks. Half doubles the load of readers that wait for a projector that is
down; twice is felt by a person."""


class Views(Protocol):
    """Where views are read: one generation, or whichever is live."""

    async def load(self, session: SessionId) -> Held[StatusView]:
        """Return the session's view; an empty `Held` when there is none."""
        ...


class StatusReads:
    """Reads status views.

    The bucket itself is looked at, with growing pauses: the live feed tells when an event is stored,
    not when it is applied, so it would wake a reader too early.
    """

    def __init__(self, views: Views, clock: Clock) -> None:
        self._views, self._clock = views, clock

    async def read(
        self, session: SessionId, *, min_position: int | None = None, timeout_s: float = 5.0
    ) -> StatusView:
        """Return the session's view, holding every message of its history up to `min_position`.

        `min_position` is the `version` a command was answered with. It must be a sequence of this
        session's history: the view never gets to one of another's.

        Raises:
            NotFound: there is no such session, as far as the views know.
            NotReady: the view did not get there within `timeout_s`; `position` is where it is.
            ContractError: the view can't get there: it stands still before a message this version
                can't decode.
            StoreUnavailable: the bucket could not be read.
        """
        until = self._clock.now().timestamp() + timeout_s
        pause_s = FIRST_PAUSE_S
        while True:
            view = (await self._views.load(session)).view
            at = 0 if view is None else view.position.sequence
            if view is not None and at >= (min_position or 0):
                return view
            if min_position is None:
                raise NotFound(f"there is no session {session}: create it first", session=session)
            if view is not None and view.problem is not None:
                raise ContractError(
                    f"the view of {session} stands still at {at}: {view.problem.reason}",
                    session=session,
                    position=at,
                )
            left_s = until - self._clock.now().timestamp()
            if left_s <= 0:
                raise NotReady(
                    f"the view of {session} is at {at}, not yet at {min_position} after {timeout_s:g} s: "
                    "ask again, or look whether the projector runs",
                    session=session,
                    position=at,
                    min_position=min_position,
                )
            await self._clock.sleep(min(pause_s, left_s))
            pause_s = min(pause_s * 2, MOST_PAUSE_S)
