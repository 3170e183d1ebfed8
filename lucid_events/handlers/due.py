"""Looks at a session when one of its timers is due: time it out, give its recorder up, or wait on.

What becomes of the timer of an ended session is said in `retention.py`.

A due message is a reminder, not a fact: whoever can publish one makes us look, and nothing else.
What is done follows from the history, the capture stream and the recorder's beats alone.
"""

from datetime import datetime, timedelta
from typing import ClassVar

from lucid_events import codec
from lucid_events.domain.commands import LoseRecorder, TimeOut
from lucid_events.domain.ids import SessionId
from lucid_events.domain.state import Lease, Session
from lucid_events.domain.transitions import State
from lucid_events.errors import ContractError
from lucid_events.handlers.base import Done, Issued, Message, Outcome, Sessions, Skip
from lucid_events.handlers.deadlines import WAITS_FOR, Timeouts, TimerBody, arm
from lucid_events.handlers.retention import TIMER, Periods
from lucid_events.ports import Beats, CaptureStore, Clock, Timers
from lucid_events.subjects import Subjects

SCHEDULER = "Nats-Scheduler"
"""Header the server's scheduler puts on what it delivers: the subject of the schedule."""
SKEW = timedelta(seconds=2)
"""How far this host's clock may be behind the server's before a timer counts as early."""
BEATS_LISTENED = 2
"""Beat intervals a silent recorder is listened for: at one, a beat lost on the way looks like a death."""


class DueTimers:
    """On every message of `lucid.due.>`.

    Strays (malformed, of no session, not from the scheduler) are skipped and counted, and so is a
    timer whose wait is over, as most are. A timer that comes early, or for a wait that began later,
    is armed again for when it is due.
    """

    name: ClassVar[str] = "due"

    def __init__(
        self,
        sessions: Sessions,
        timers: Timers,
        capture: CaptureStore,
        beats: Beats,
        clock: Clock,
        subjects: Subjects,
        timeouts: Timeouts,
        periods: Periods,
        *,
        beat_interval_s: float = 5.0,
    ) -> None:
        self._sessions, self._timers, self._capture = sessions, timers, capture
        self._beats, self._clock, self._subjects = beats, clock, subjects
        self._timeouts, self._periods, self._beat_interval_s = timeouts, periods, beat_interval_s

    async def handle(self, message: Message) -> Outcome:
        """Look at the session the timer belongs to."""
        if message.replaying:
            return Skip("replaying")
        try:
            session, name = self._subjects.parse_due(message.subject)
            body = codec.decode(message.data, TimerBody)
        except ContractError:
            return Skip("stray: malformed")
        if message.headers.get(SCHEDULER) != self._subjects.timer(session, name) or body.name != name:
            return Skip("stray: not from the scheduler")
        standing = await self._sessions.refresh(session)
        state = standing.state
        if state.state is None:
            return Skip("stray: no such session")
        if body.name == TIMER:
            return await self._periods.look(message, standing)
        if body.name == "lease":
            return await self._look_at_lease(message, session, state)
        return await self._look_at_wait(message, session, state, body)

    def lane(self, message: Message) -> str | None:
        """Order the session's timers: two looks at one lease would listen twice."""
        return message.owner

    def cost_bytes(self, message: Message) -> int:
        """Count the message alone."""
        return len(message.data)

    async def _look_at_wait(
        self, message: Message, session: SessionId, state: Session, body: TimerBody
    ) -> Outcome:
        what = WAITS_FOR.get(state.state) if state.state else None
        if what is None or what != body.name or what == "lease" or state.since is None:
            return Skip("not needed any more")
        due = state.since + self._timeouts.of(what)
        now = self._clock.now()
        if due > now + SKEW:
            again = TimerBody(name=what, armed_at=state.since_version)
            # In the server's time: by ours a clock that is behind would arm what is past, and spin.
            await arm(self._timers, session, again, message.stored_at + (due - now))
            return Skip("early: armed again")
        settled = state.ready_chunks + len(state.failed)
        if what == "stop" and state.pending and settled > body.settled:
            # A long backlog is no failure while it shrinks: the stop has its time again.
            again = TimerBody(name=what, armed_at=state.since_version, settled=settled)
            await arm(self._timers, session, again, message.stored_at + self._timeouts.of(what))
            return Skip("chunks are being stored: armed again")
        command = TimeOut(what=what, armed_at=state.since_version)
        return Done((Issued(session=session, command=command, cause=f"{what}@{state.since_version}"),))

    async def _look_at_lease(self, message: Message, session: SessionId, state: Session) -> Outcome:
        lease = state.lease
        if lease is None:
            return await self._look_at_absence(message, session, state)
        seen = await self._last_seen(session, lease)
        left = seen + self._timeouts.of("lease") - self._clock.now()
        if left <= timedelta(0):
            within_s = BEATS_LISTENED * self._beat_interval_s
            if not await self._beats.heard(session, epoch=lease.epoch, within_s=within_s):
                return self._lose(session, lease, seen)
            left = self._timeouts.of("lease")
        body = TimerBody(name="lease", armed_at=int(state.since_version), epoch=lease.epoch)
        await arm(self._timers, session, body, message.stored_at + left)
        return Done()

    async def _look_at_absence(self, message: Message, session: SessionId, state: Session) -> Outcome:
        """Time an active session out that nobody records: who left may come back until then, or another."""
        if state.state is not State.ACTIVE or state.unattended_since is None:
            return Skip("not needed any more")
        left = state.unattended_since + self._timeouts.of("start") - self._clock.now()
        if left > timedelta(0):
            body = TimerBody(name="lease", armed_at=state.unattended_version)
            await arm(self._timers, session, body, message.stored_at + left)
            return Done()
        command = TimeOut(what="attach", armed_at=state.unattended_version)
        cause = f"attach@{state.unattended_version}"
        return Done((Issued(session=session, command=command, cause=cause),))

    async def _last_seen(self, session: SessionId, lease: Lease) -> datetime:
        captured = await self._capture.last_time(session, epoch=lease.epoch)
        return max(captured, lease.attached_at) if captured else lease.attached_at

    def _lose(self, session: SessionId, lease: Lease, seen: datetime) -> Outcome:
        reason = (
            f"no byte since {seen.isoformat(timespec='seconds')}, "
            f"no beat in {BEATS_LISTENED * self._beat_interval_s:g} s"
        )
        command = LoseRecorder(epoch=lease.epoch, reason=reason, last_seen=seen)
        return Done((Issued(session=session, command=command, cause=f"lease@{lease.epoch}"),))
