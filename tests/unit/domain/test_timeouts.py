"""What comes of a deadline: nothing when what it was armed for is over, else an error that says why."""

from lucid_events.domain import commands as cmd
from lucid_events.domain import events as ev
from tests.unit.domain.specification import Given, active, attached, created


def test_a_stray_timer_changes_nothing() -> None:
    """Another state, or the same state entered anew, is not what it was armed for."""
    given = Given(created(), ev.SessionStarted())
    given.when(cmd.TimeOut(what="stop", armed_at=2)).nothing()
    given.when(cmd.TimeOut(what="start", armed_at=1)).nothing()
    given.when(cmd.TimeOut(what="start", armed_at=2)).then(
        ev.SessionFailed(code="start_timeout", reason="nothing completed the start in time")
    )


def test_an_active_session_without_a_recorder_times_out() -> None:
    """A recorder that left without a stop may come back until the deadline of its leaving, or of a resume."""
    left = ev.RecorderDetached(epoch=1, offset=0)
    failed = ev.SessionFailed(
        code="attach_timeout", reason="its recorder left without a stop, and no other one attached in time"
    )
    alone = Given(*active(), left)
    alone.when(cmd.TimeOut(what="attach", armed_at=3)).nothing()
    alone.when(cmd.TimeOut(what="attach", armed_at=4)).then(failed)
    back = Given(*active(), left, attached(2, 0))
    back.when(cmd.TimeOut(what="attach", armed_at=4)).nothing()
    paused = (*active(), left, ev.SessionPausing(), ev.SessionPaused(offset=0))
    Given(*paused).when(cmd.TimeOut(what="attach", armed_at=4)).nothing()
    resumed = Given(*paused, ev.SessionResumed(offset=0))
    resumed.when(cmd.TimeOut(what="attach", armed_at=4)).nothing()
    resumed.when(cmd.TimeOut(what="attach", armed_at=7)).then(failed)
    Given(*active()).when(cmd.TimeOut(what="attach", armed_at=0)).nothing()
