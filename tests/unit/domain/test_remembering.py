"""What a session remembers of its commands: their first outcomes, for a day and within bounds."""

from datetime import timedelta

from lucid_events.domain import commands as cmd
from lucid_events.domain import events as ev
from lucid_events.domain.envelope import Recorded
from lucid_events.domain.state import MAX_REMEMBERED, REPEAT_HORIZON

from .specification import T0, Given, created, recorded

MARK = cmd.Mark(label="again")


def marks(first: int, count: int, *, apart: timedelta) -> list[Recorded]:
    """Marks `first`, `first + 1`, …, each by a command of its own (`cause-2`, …), `apart` in time."""
    event = ev.SessionMarked(label="m", offset=0)
    return [recorded(event, number, at=T0 + number * apart) for number in range(first, first + count)]


def test_a_command_is_remembered_with_its_first_outcome() -> None:
    """Whichever of many commands is repeated, it gets the version it had led to."""
    history = Given(recorded(created(), 1), *marks(2, MAX_REMEMBERED - 1, apart=timedelta(seconds=1)))
    for sequence in (2, 100, MAX_REMEMBERED):
        history.when(MARK, id=f"cause-{sequence}").repeats(sequence)


def test_a_command_with_several_events_is_remembered_once() -> None:
    """Of events of one cause the last says what came of it, wherever the first ones stand."""
    event = ev.SessionMarked(label="m", offset=0)
    history = Given(created(), *marks(2, 5, apart=timedelta(seconds=1)), recorded(event, 7, cause="cause-2"))
    history.when(MARK, id="cause-2").repeats(7)
    assert list(history.session.remembered)[-2:] == ["cause-6", "cause-2"]


def test_beyond_the_bound_the_oldest_is_forgotten_and_says_so() -> None:
    """Whether a command as old as those forgotten is a repeat the history says; one issued later is taken."""
    apart = timedelta(seconds=1)
    history = Given(recorded(created(), 1, at=T0), *marks(2, MAX_REMEMBERED + 9, apart=apart))
    assert len(history.session.remembered) == MAX_REMEMBERED
    forgotten = T0 + 10 * apart  # the creation and nine marks
    assert history.session.forgotten_until == forgotten
    marked = ev.SessionMarked(label="again", offset=0)
    history.when(MARK, id="cause-10", issued_at=forgotten).needs(stored=True)
    history.when(MARK, id="cause-10", issued_at=forgotten, stored=True).rejected("expired", field="ce-id")
    history.when(MARK, id="other", issued_at=forgotten, stored=False).then(marked)
    history.when(MARK, id="cause-11").repeats(11)
    history.when(MARK, id="new", issued_at=forgotten + apart).then(marked)


def test_a_command_without_a_time_may_be_a_repeat_of_what_is_forgotten() -> None:
    """Nobody said when it was issued: only the history tells, and only once something is forgotten."""
    marked, apart = ev.SessionMarked(label="again", offset=0), timedelta(seconds=1)
    Given(created()).when(MARK, id="new", timed=False).then(marked)
    history = Given(recorded(created(), 1, at=T0), *marks(2, MAX_REMEMBERED + 9, apart=apart))
    history.when(MARK, id="cause-11", timed=False).repeats(11)
    history.when(MARK, id="cause-10", timed=False).needs(stored=True)
    history.when(MARK, id="cause-10", timed=False, stored=True).rejected("expired", field="ce-id")
    history.when(MARK, id="new", timed=False, stored=False).then(marked)


def test_a_clock_a_day_ahead_forgets_nothing_in_silence() -> None:
    """One event of a writer whose clock is 25 h ahead drops what is remembered, and the state says so."""
    ahead = recorded(ev.SessionMarked(label="m", offset=0), 4, at=T0 + timedelta(hours=25))
    history = Given(*marks(2, 2, apart=timedelta(seconds=1)), ahead)
    assert list(history.session.remembered) == ["cause-4"]
    assert history.session.forgotten_until == T0 + timedelta(seconds=3)
    history.when(MARK, id="cause-2", timed=False).needs(stored=True)
    history.when(MARK, id="cause-2", issued_at=T0 + timedelta(seconds=2)).needs(stored=True)


def test_after_a_day_a_command_is_forgotten() -> None:
    """What is past the horizon leaves the state, and nothing that is not."""
    history = marks(2, 4, apart=REPEAT_HORIZON / 3)
    session = Given(recorded(created(), 1, at=T0), *history).session
    assert list(session.remembered) == ["cause-3", "cause-4", "cause-5"]
    assert session.forgotten_until == T0 + 2 * REPEAT_HORIZON / 3
