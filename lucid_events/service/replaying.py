"""Histories once more: as a session stood at an instant, under the rules of today, against stored views.

Nothing here writes: no event, no view, no timer. What a replay could set off outside is not wired up.
"""

from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import datetime

from lucid_events.domain.envelope import Stray
from lucid_events.domain.ids import SessionId
from lucid_events.domain.redeciding import Disagreement, Redecider
from lucid_events.domain.values import Fact
from lucid_events.errors import ContractError, NotFound
from lucid_events.projections.base import advance
from lucid_events.projections.comparison import differences, fold
from lucid_events.projections.generations import Generations
from lucid_events.projections.status import StatusProjection
from lucid_events.projections.status_view import StatusView
from lucid_events.projections.views import StatusViews
from lucid_events.service.adapters import Adapters
from lucid_events.service.verifying import all_sessions

MAX_DISAGREEMENTS = 100
"""Disagreements of one session told in full; the rest is counted. A person reads them."""


class Agreement(Fact, frozen=True, kw_only=True):
    """What came of holding one session's history against something.

    `against` is `present` (the rules of today) or the generation whose view was compared. `decided`
    appends were decided again; of `untold` ones it can't be told what was asked, so they were only held
    to legality. `differ` counts `disagreements`, of which the first are listed.
    """

    session_id: SessionId
    against: str
    events: int = 0
    decided: int = 0
    untold: int = 0
    strays: int = 0
    differ: int = 0
    disagreements: tuple[Disagreement, ...] = ()


async def as_of(adapters: Adapters, session: SessionId, at: int | datetime) -> StatusView:
    """Return the status view of `session` as it stood at `at`, a time of the server or a sequence.

    Folded by the projection of this release from the events stored by then, and no later one: what the
    view could say then, not what is known now. Should the server's clock ever have gone back, the
    history ends at the first event later than `at`.

    Raises:
        NotFound: the session has no event by then.
        ContractError: an event can't be decoded by this version.
        StoreUnavailable: the server could not be asked.
    """
    projection = await status_projection(adapters)
    view: StatusView | None = None
    first: datetime | None = None
    async with aclosing(adapters.store.read(session)) as history:
        async for message in history:
            first = first or message.stored_at
            if message.sequence > at if isinstance(at, int) else message.stored_at > at:
                break
            view = advance(projection, view, message)
    if view is None:
        began = f"it began at {first.isoformat()}" if first else "there is no such session"
        raise NotFound(f"{session} has no event by {at}: {began}", session=session)
    return view


async def against_present(adapters: Adapters, session: SessionId) -> Agreement:
    """Hold the whole history of `session` against the rules of this release."""
    redecider = Redecider(session)
    found: list[Disagreement] = []
    strays, after = 0, 0
    try:
        async for message in adapters.store.read(session):
            after = int(message.sequence)
            if isinstance(message, Stray):
                strays += 1
                continue
            found += redecider.take(message)
    except ContractError as exc:
        where = f"behind {after}: {exc.message}"
        found.append(
            Disagreement(session_id=session, sequence=after, type="", kind="unreadable", reason=where)
        )
    found += redecider.finish()
    return Agreement(
        session_id=session,
        against="present",
        events=redecider.events,
        decided=redecider.decided,
        untold=redecider.untold,
        strays=strays,
        differ=len(found),
        disagreements=tuple(found[:MAX_DISAGREEMENTS]),
    )


async def against_generation(adapters: Adapters, session: SessionId, generation: int) -> Agreement:
    """Hold the view of `session` in `generation` against its history, folded to where that view is.

    A view or a history that can't be read is a disagreement of its own, `unreadable`.

    Raises:
        NotFound: there is no such generation.
        StoreUnavailable: the server could not be asked.
    """
    live = await Generations(adapters.meta, StatusProjection.name).live()
    if generation not in (known := [one.generation for one in live.all()]):
        raise NotFound(f"there is no generation {generation} of the status views: there are {known}")
    views = StatusViews(adapters.kv(adapters.subjects.status_bucket(generation)))
    view: StatusView | None = None
    reasons: list[str] = []
    at, kind, what = 0, "view", f"the view in generation {generation}"
    try:
        view = (await views.load(session)).view
        if view is None:
            reasons = [f"generation {generation} has no view of it"]
        else:
            at, what = view.position.sequence, "the history"
            projection = await status_projection(adapters)
            expected = await fold(projection, adapters.store, session, upto=at)
            reasons = [f"{name} is not what the history says at {at}" for name in differences(view, expected)]
    except ContractError as exc:
        kind, reasons = "unreadable", [f"{what} can't be read: {exc.message}"]
    found = tuple(
        Disagreement(session_id=session, sequence=at, type="", kind=kind, reason=one) for one in reasons
    )
    events = view.events if view else 0
    against = str(generation)
    return Agreement(
        session_id=session, against=against, events=events, differ=len(found), disagreements=found
    )


async def sessions_of(adapters: Adapters) -> AsyncIterator[SessionId]:
    """Yield every session of the log."""
    async for session in all_sessions(adapters.store):
        if not isinstance(session, Stray):
            yield session


async def status_projection(adapters: Adapters) -> StatusProjection:
    """Return the status projection of the log as it is now."""
    position = await adapters.store.last_position()
    return StatusProjection(adapters.subjects.events_stream, position.incarnation)
