"""Two generations of status views held against each other, each session at the same sequence."""

import msgspec

from lucid_events import codec
from lucid_events.domain.ids import SessionId, Version
from lucid_events.domain.values import Fact
from lucid_events.ports import EventStore
from lucid_events.projections import index
from lucid_events.projections.base import Projection, advance
from lucid_events.projections.status_view import StatusView
from lucid_events.projections.views import StatusViews

MAX_DIFFERENCES = 100
"""Differences reported in full; a person reads them, and a hundred tell as much as all."""


class Difference(Fact, frozen=True, kw_only=True):
    """One session whose views differ at sequence `at`, in the fields named.

    A field `index` means that its entry in the fresh index is missing or wrong; `missing` that the
    live generation has no view of it.
    """

    session_id: SessionId
    at: int
    fields: tuple[str, ...]


class Comparison(Fact, frozen=True, kw_only=True):
    """How many sessions were compared, how many differ, and the first of those."""

    sessions: int = 0
    different: int = 0
    differences: tuple[Difference, ...] = ()

    @property
    def same(self) -> bool:
        """Whether the fresh generation may take over."""
        return self.different == 0


async def compare(
    projection: Projection[StatusView], store: EventStore, live: StatusViews, fresh: StatusViews
) -> Comparison:
    """Compare every live view with the fresh one as JSON bytes, and the fresh index with its views.

    The live generation goes on meanwhile: where the two are at different sequences, the history
    is folded to where the live one is, from the fresh view when that is behind.

    Raises:
        ContractError: a history can't be decoded by this version.
        StoreUnavailable: history or bucket could not be reached.
    """
    found: list[Difference] = []
    sessions = 0
    async for view in live.all():
        sessions += 1
        held = await fresh.load(view.session_id)
        expected = await _at(projection, store, held.view, view)
        fields = differences(view, expected)
        if fields:
            found.append(Difference(session_id=view.session_id, at=view.position.sequence, fields=fields))
    async for view in fresh.all():
        if (await live.load(view.session_id)).view is None:
            found.append(
                Difference(session_id=view.session_id, at=view.position.sequence, fields=("missing",))
            )
        entry = index.entry_of(view)
        if entry is not None and not await fresh.has_entry(entry):
            found.append(Difference(session_id=view.session_id, at=view.position.sequence, fields=("index",)))
    async for key, entry in fresh.entries():
        owner = index.entry_of((await fresh.load(entry.session_id)).view)
        if owner is None or index.entry_key(owner) != key:
            found.append(Difference(session_id=entry.session_id, at=0, fields=("index",)))
    return Comparison(sessions=sessions, different=len(found), differences=tuple(found[:MAX_DIFFERENCES]))


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
