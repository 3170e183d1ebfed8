"""What a decision can come to, other than a list of events."""

from lucid_events.domain.state import Remembered, Session
from lucid_events.domain.transitions import Trigger, triggers_from
from lucid_events.domain.values import Fact


class Rejected(Fact, frozen=True, kw_only=True):
    """The rules refuse the command; `allowed` are the triggers that the session takes now.

    While holds stand in the way of what was asked, `release` is among them: no trigger, but the way on.
    """

    code: str
    message: str
    allowed: tuple[str, ...] = ()
    field: str | None = None


class Repeated(Fact, frozen=True, kw_only=True):
    """This command id has written events before; its first outcome stands."""

    first: Remembered


class Needs(Fact, frozen=True, kw_only=True):
    """The rules can't tell without a fact from outside; gather it and ask again.

    `alive`: does the recorder of that epoch beat? `salvage`: fence that epoch, then read what it
    left. `tail`: the capture message at that sequence. `manifest`: read the whole history.
    `stored`: does the history have an event of this command?
    """

    alive: int | None = None
    salvage: int | None = None
    tail: int | None = None
    manifest: bool = False
    stored: bool = False


def reject(session: Session, code: str, message: str, *, field: str | None = None) -> Rejected:
    """Return a rejection that lists what `session` allows now."""
    return Rejected(code=code, message=message, allowed=allowed_in(session), field=field)


def allowed_in(session: Session) -> tuple[str, ...]:
    """Return the triggers that the table has and that neither holds nor chunks of `session` forbid."""
    forbidden: set[Trigger] = set()
    if session.holds:
        forbidden |= {Trigger.CLEANUP, Trigger.DESTROY}
    if session.next_index:
        forbidden.add(Trigger.DESTROY)
    return tuple(str(trigger) for trigger in triggers_from(session.state) if trigger not in forbidden)
