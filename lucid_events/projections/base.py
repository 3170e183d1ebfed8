"""What a projection is, and the rule by which its views never skip an event and never count one twice.

A view is committed *with* its cutoff (position and digest of the last event applied) by
compare-and-set. Whoever delivers event E makes sure that the view holds everything between its
cutoff and E, reading the history where it does not. So projectors may share a consumer, be
handed events twice or out of order, and die at any point: the view is the fold of a prefix of the
history, always, and its cutoff says of which.
"""

from typing import Generic, NamedTuple, Protocol, TypeVar

from lucid_events.domain.envelope import Recorded, Stray
from lucid_events.domain.ids import NO_DIGEST, Digest, SessionId
from lucid_events.domain.values import Fact
from lucid_events.ports import Position


class Problem(Fact, frozen=True, kw_only=True):
    """Why a view stands still: the message behind sequence `after` can't be applied by this version."""

    after: int
    reason: str


class View(Protocol):
    """What a projection keeps of one session; `position` and `head` are its cutoff."""

    @property
    def session_id(self) -> SessionId:
        """Whose view it is."""
        ...

    @property
    def position(self) -> Position:
        """Where the last message it holds stands; sequence 0 before the first."""
        ...

    @property
    def head(self) -> Digest:
        """Digest of the last event it holds."""
        ...

    @property
    def problem(self) -> Problem | None:
        """Why it stands still, if it does."""
        ...


V = TypeVar("V", bound=View)


class Held(NamedTuple, Generic[V]):
    """A view as read or written, with its revision; without both before the first write.

    Without the view alone, what stands at the revision can't be read.
    """

    view: V | None = None
    revision: int = 0


class ViewStore(Protocol[V]):
    """Where the views of one projection are kept."""

    async def look(self, session: SessionId) -> Held[V]:
        """Return the session's view to be written over; an empty `Held` when there is none.

        What can't be read counts as none, at its revision. May be a replica's answer.
        """
        ...

    async def save(self, view: V, over: Held[V]) -> Held[V]:
        """Write `view` over what was read.

        Raises:
            VersionConflict: another projector wrote first.
            StoreUnavailable: nothing was written.
            AppendUncertain: no reply; read before writing again.
        """
        ...


class Projection(Protocol[V]):
    """A fold over histories.

    `version` goes up when the same history gives another view; views of two versions never share
    a bucket. `filters` name the event types whose delivery wakes the projection (none: all); the
    fold sees every event of a session up to the one that woke it.
    """

    @property
    def name(self) -> str:
        """Its name, a word of its buckets and consumers."""
        ...

    @property
    def version(self) -> int:
        """Which fold it is."""
        ...

    @property
    def filters(self) -> tuple[str, ...]:
        """Event types that wake it, such as `chunk.ready`; none means all."""
        ...

    def initial(self, session: SessionId) -> V:
        """Return the view of an empty history: its cutoff is sequence 0 and no digest."""
        ...

    def evolve(self, view: V, recorded: Recorded) -> V:
        """Return the view after one more event, its cutoff moved to that event. Total: never refuses."""
        ...

    def pass_by(self, view: V, stray: Stray) -> V:
        """Return the view with its cutoff moved past a message that is no event."""
        ...

    def halt(self, view: V, problem: Problem) -> V:
        """Return the view with `problem` in it and its cutoff where it was."""
        ...


def advance(projection: Projection[V], view: V | None, message: Recorded | Stray) -> V | None:
    """Return the view with `message` applied; the same object when the cutoff is past it already.

    A stray moves a view on, because it counts for the history's version; of itself it makes none.
    The caller sees to it that nothing lies between the cutoff and `message`.
    """
    if view is not None and message.sequence <= view.position.sequence:
        return view
    if isinstance(message, Stray):
        return None if view is None else projection.pass_by(view, message)
    return projection.evolve(projection.initial(message.session) if view is None else view, message)


def follows(view: View | None, message: Recorded | Stray) -> bool:
    """Return whether `message` is known to be next, without a look at the history.

    An event names its predecessor's digest, and the log's guard lets only one event follow
    another. Sequence numbers prove nothing: those of one history have holes.
    """
    return isinstance(message, Recorded) and message.prev == (NO_DIGEST if view is None else view.head)
