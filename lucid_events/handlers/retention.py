"""Keeps the time of ended sessions: proposes their cleanup when it is over, and carries it out.

    retention   on the events that begin or change a period: arms the timer
    due         when it is due (`Periods`): looks at the history, asks the rules for the next step

The timer is a reminder; what is done follows from the history as it is then, and the rules and the guard
of the append decide again. A hold that came first has withdrawn the proposal.
"""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import ClassVar, Final

from lucid_events.domain.commands import CarryOut, InternalCommand, ProposeCleanup
from lucid_events.domain.envelope import Recorded
from lucid_events.domain.ids import SessionId, Version
from lucid_events.domain.retention import next_step
from lucid_events.domain.state import Session
from lucid_events.domain.values import Retention
from lucid_events.errors import LucidError
from lucid_events.handlers.base import (
    Done,
    EventReaction,
    Issued,
    Message,
    Outcome,
    Sessions,
    Skip,
    Standing,
    at_least,
)
from lucid_events.handlers.deadlines import TimerBody, arm
from lucid_events.handlers.reconcile import no_timer
from lucid_events.ports import Clock, Timers

TIMER: Final = "retention"


class RetentionTimes(EventReaction):
    """On `session.stopped`, `session.failed`, `session.released` and `session.cleanup_proposed`.

    Its consumer begins with the log, so sessions that ended before there was any retention come by too.
    """

    name: ClassVar[str] = "retention"

    def __init__(self, sessions: Sessions, timers: Timers, default: Retention) -> None:
        self._sessions, self._timers, self._default = sessions, timers, default

    async def react(self, recorded: Recorded) -> Outcome:
        """Arm the timer of the session's next step; one that is past is due at once."""
        session = await at_least(self._sessions, recorded.session, recorded.sequence)
        if not await arm_next(self._timers, session, self._default, Version(recorded.sequence)):
            return Skip("nothing to keep the time of")
        return Done()


class Periods:
    """Looks at a session whose period is said to be over.

    Args:
        default: the policy of sessions whose history states none.
        grace_days: between a proposal and its cleanup.
    """

    def __init__(self, timers: Timers, clock: Clock, default: Retention, *, grace_days: float) -> None:
        self._timers, self._clock, self._default = timers, clock, default
        self._grace = timedelta(days=grace_days)

    async def look(self, message: Message, standing: Standing) -> Outcome:
        """Ask for the session's next step if its time has come, wait on if it has not.

        `standing` is the session as the leader has it.
        """
        session = standing.state
        step = next_step(session, self._default)
        if step is None:
            return Skip("not needed any more")
        now = self._clock.now()
        if step.at > now:
            # In the server's time: by ours a clock that is behind would arm what is past, and spin.
            body = TimerBody(name=TIMER, armed_at=int(standing.version))
            await arm(self._timers, session.id, body, message.stored_at + (step.at - now))
            return Skip("early: armed again")
        command: InternalCommand
        if session.proposal is None:
            command = ProposeCleanup(retention=self._default, due=now + self._grace)
            # A release may call for a second proposal: each version of a history has its own.
            cause = f"{TIMER}@{standing.version}"
        else:
            command = CarryOut(proposed=session.proposal.version)
            cause = f"proposal@{session.proposal.version}"
        return Done((Issued(session=session.id, command=command, cause=cause),))


async def arm_next(timers: Timers, session: Session, default: Retention, version: Version) -> bool:
    """Arm the timer of the session's next step as of `version`; False when there is none."""
    step = next_step(session, default)
    if step is None:
        return False
    await arm(timers, session.id, TimerBody(name=TIMER, armed_at=int(version)), step.at)
    return True


async def arm_missing(
    ended: AsyncIterator[SessionId], sessions: Sessions, timers: Timers, default: Retention
) -> int:
    """Arm the timers that ended sessions should have and have not; returns how many.

    A due message is kept for a week, and a timer stream can be lost; histories are not. One that can't be
    read is told, and keeps no other session from its timer.

    Raises:
        StoreUnavailable, AppendUncertain: the server does not answer; call again.
    """
    count = 0
    async for session in ended:
        if not await timers.armed(session, TIMER):
            try:
                standing = await sessions.refresh(session)
                count += await arm_next(timers, standing.state, default, standing.version)
            except LucidError as exc:
                no_timer(session, exc)
    return count
