"""Ends a stopping session once everything is drained, and renews its manifest after a redrive."""

from typing import ClassVar

from lucid_events.domain.commands import Finish
from lucid_events.domain.envelope import Recorded
from lucid_events.domain.state import Session
from lucid_events.domain.transitions import State
from lucid_events.handlers.base import Done, EventReaction, Issued, Outcome, Sessions, Skip, at_least


class Finaliser(EventReaction):
    """On `session.stopping`, `chunk.ready`, `chunk.failed`, `recorder.detached` and `recorder.lost`.

    Whichever of them comes last finds the session drained, so none needs to know about the others.
    """

    name: ClassVar[str] = "finaliser"

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    async def react(self, recorded: Recorded) -> Outcome:
        """Ask for the manifest when nothing is on its way any more."""
        session = await at_least(self._sessions, recorded.session, recorded.sequence)
        if not is_drained(session):
            return Skip("not drained")
        return Done((Issued.by(recorded, Finish()),))


def is_drained(session: Session) -> bool:
    """Return whether a (new) manifest is due; the decider has the last word."""
    if session.pending:
        return False
    if session.state is State.STOPPING:
        return session.lease is None
    return session.state is State.STOPPED and session.manifest_stale
