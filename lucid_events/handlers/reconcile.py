"""Arms what is missing: the deadlines a session should have, after a restart or a lost timer stream."""

import logging
from collections.abc import AsyncIterator
from datetime import timedelta

import msgspec

from lucid_events.domain.ids import SessionId
from lucid_events.domain.transitions import State
from lucid_events.errors import LucidError
from lucid_events.handlers.base import Sessions
from lucid_events.handlers.deadlines import WAITS_FOR, Timeouts, TimerBody, arm
from lucid_events.ports import Clock, Timers

_log = logging.getLogger(__name__)


class Reconciled(msgspec.Struct, frozen=True, kw_only=True):
    """What a reconciliation looked at, and the timers (session, name) it had to arm.

    `unreadable` are sessions whose history is of no use: nobody can tell what they wait for.
    """

    sessions: int
    armed: tuple[tuple[SessionId, str], ...]
    unreadable: tuple[SessionId, ...] = ()


class Reconciliation:
    """Compares the timers that stand with those that the histories ask for."""

    def __init__(self, sessions: Sessions, timers: Timers, clock: Clock, timeouts: Timeouts) -> None:
        self._sessions, self._timers, self._clock, self._timeouts = sessions, timers, clock, timeouts

    async def run(self, open_sessions: AsyncIterator[SessionId]) -> Reconciled:
        """Arm every missing timer of the sessions given; one that is past due fires at once.

        A lease gets its full time from now: after an outage of ours the recorder has had no chance. A
        session whose history can't be read is told, and keeps no other from its timers.

        Raises:
            StoreUnavailable, AppendUncertain: the server does not answer; run again.
        """
        seen, armed, unreadable = 0, [], []
        async for session in open_sessions:
            seen += 1
            try:
                armed += [(session, name) for name in await self._arm_missing(session)]
            except LucidError as exc:
                no_timer(session, exc)
                unreadable.append(session)
        return Reconciled(sessions=seen, armed=tuple(armed), unreadable=tuple(unreadable))

    async def _arm_missing(self, session: SessionId) -> list[str]:
        state = (await self._sessions.refresh(session)).state
        wanted = []
        waits_for = WAITS_FOR.get(state.state) if state.state else None
        if waits_for is not None and state.since is not None:
            body = TimerBody(name=waits_for, armed_at=state.since_version)
            wanted.append((body, state.since + self._timeouts.of(waits_for)))
        if state.lease is not None or state.state is State.ACTIVE:
            epoch = state.lease.epoch if state.lease else None
            body = TimerBody(name="lease", armed_at=state.since_version, epoch=epoch)
            wanted.append((body, self._clock.now() + timedelta(seconds=self._timeouts.lease_s)))
        missing = [(body, at) for body, at in wanted if not await self._timers.armed(session, body.name)]
        for body, at in missing:
            await arm(self._timers, session, body, at)
        return [body.name for body, _ in missing]


def no_timer(session: SessionId, problem: LucidError) -> None:
    """Tell that nobody knows what `session` waits for; a problem that passes is raised."""
    if problem.retry:
        raise problem
    extra = {"session": session, "reason": problem.message}
    _log.error("a session has no timers: its history can't be used", extra=extra)
