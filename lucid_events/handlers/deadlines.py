"""Arms the deadlines of a session, from the server's time of the event that begins them.

Only this durable reaction (and the look at a due one) arms timers: a process that died between an
event and its timer arms it when the event is delivered again.
"""

from datetime import datetime, timedelta
from typing import ClassVar, Literal

import msgspec

from lucid_events import codec
from lucid_events.domain import events as ev
from lucid_events.domain.envelope import Recorded
from lucid_events.domain.ids import SessionId
from lucid_events.domain.transitions import State
from lucid_events.handlers.base import Done, EventReaction, Outcome, Skip
from lucid_events.ports import Timers

TimerName = Literal["start", "pause", "stop", "lease"]

WAITS_FOR: dict[State, TimerName] = {State.STARTING: "start", State.PAUSING: "pause", State.STOPPING: "stop"}
"""The states that must not last, and the timer that sees to it."""


class Timeouts(msgspec.Struct, frozen=True, kw_only=True):
    """How long each wait may last, in seconds; `lease_s` is a recorder's silence.

    `start_s` is what a session may be without a recorder, before its first one and after one that
    left without a stop.
    """

    start_s: float = 60.0
    pause_s: float = 60.0
    stop_s: float = 300.0
    lease_s: float = 30.0

    def of(self, name: TimerName) -> timedelta:
        """Return the timeout of the timer `name`."""
        match name:
            case "start":
                return timedelta(seconds=self.start_s)
            case "pause":
                return timedelta(seconds=self.pause_s)
            case "stop":
                return timedelta(seconds=self.stop_s)
            case "lease":
                return timedelta(seconds=self.lease_s)


class TimerBody(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a due message says: a reminder to look, never a fact to act on.

    `armed_at` is the version of the event that began the wait, `epoch` a lease's, `settled` how many
    chunks were ready or failed when a stop was last looked at. `retention` is no time-out: how long it
    waits is the session's own (`handlers/retention.py`).
    """

    name: TimerName | Literal["retention"]
    armed_at: int
    epoch: int | None = None
    settled: int = 0


async def arm(timers: Timers, session: SessionId, body: TimerBody, at: datetime) -> None:
    """Arm `body` at `at`; arming again replaces it, so it is safe to repeat."""
    await timers.arm(session, body.name, at=at, payload=codec.encode(body))


class Deadlines(EventReaction):
    """On `session.started`, `session.pausing`, `session.stopping`, `session.resumed`, `recorder.attached`.

    A recorder that leaves arms nothing: the lease armed when it attached is still to come.
    """

    name: ClassVar[str] = "deadlines"

    def __init__(self, timers: Timers, timeouts: Timeouts) -> None:
        self._timers, self._timeouts = timers, timeouts

    async def react(self, recorded: Recorded) -> Outcome:
        """Arm the timer the event begins; one that is due already is delivered at once."""
        begun = _begun(recorded)
        if begun is None:
            return Skip("no deadline")
        name, epoch = begun
        at = recorded.stored_at + self._timeouts.of(name)
        body = TimerBody(name=name, armed_at=int(recorded.sequence), epoch=epoch)
        await arm(self._timers, recorded.session, body, at)
        return Done()


def _begun(recorded: Recorded) -> tuple[TimerName, int | None] | None:
    """Return the wait that the event begins, with the epoch when it is for a recorder."""
    match recorded.event:
        case ev.SessionStarted():
            return "start", None
        case ev.SessionPausing():
            return "pause", None
        case ev.SessionStopping():
            return "stop", None
        case ev.RecorderAttached(epoch=epoch):
            return "lease", epoch
        case ev.SessionResumed():
            # Its recorder may have left in the pause; whether one is there is looked at when it is due.
            return "lease", None
        case _:
            return None
