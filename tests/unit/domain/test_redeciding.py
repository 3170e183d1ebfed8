"""Recorded histories under the rules of today: the same rules agree, other ones are told."""

from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from lucid_events.domain import commands as cmd
from lucid_events.domain import decider, redeciding
from lucid_events.domain import events as ev
from lucid_events.domain.envelope import Recorded
from lucid_events.domain.redeciding import Disagreement, Redecider

from .specification import SID, T0, active, ready, recorded, sealed
from .test_any_history_is_legal import AnySession

VERBS: list[cmd.Command] = [
    *(cmd.Pause(reason="lunch"), cmd.Resume(), cmd.Stop(), cmd.Fail(reason="r"), cmd.Recover(), cmd.Start()),
    *(cmd.Mark(label="m"), cmd.Hold(hold="h"), cmd.Release(hold="h"), cmd.Cleanup(), cmd.Destroy()),
]
STEPS = ["verb", "verb", "attach", "attach", "seal", "seal", "gap", "drained", "detach", "lose", "finish"]


def again(history: list[Recorded]) -> tuple[Redecider, list[Disagreement]]:
    """The history, decided again."""
    redecider = Redecider(SID)
    found = [one for message in history for one in redecider.take(message)]
    return redecider, [*found, *redecider.finish()]


def in_appends(history: list[Recorded]) -> list[Recorded]:
    """The history with one time for all events of an append, as the log has it."""
    times = {one.cause: T0 + timedelta(seconds=number) for number, one in enumerate(history)}
    return [replace(one, time=times[one.cause]) for one in history]


@given(data=st.data())
@settings(max_examples=200, deadline=None)
def test_what_these_rules_wrote_they_write_again(data: st.DataObject) -> None:
    """Any history of the decider, salvages included, comes out the same when it is decided again."""
    session = AnySession()
    session.ask(cmd.Create(owner="ann", metadata={"a": "b"}))
    session.ask(cmd.Start())
    few = st.lists(st.integers(1, 50), max_size=3)
    for step in data.draw(st.lists(st.sampled_from(STEPS), max_size=25)):
        match step:
            case "verb":
                session.ask(data.draw(st.sampled_from(VERBS)))
            case "attach":
                session.attach(takeover=data.draw(st.booleans()), alive=False, leftovers=data.draw(few))
            case "seal":
                session.seal(size=data.draw(st.integers(1, 100)), skew=0)
            case "gap":
                session.gap(length=data.draw(st.integers(1, 20)))
            case "drained":
                session.drained(skew=0)
            case "detach":
                session.detach(leftovers=data.draw(few))
            case "lose":
                session.lose(leftovers=data.draw(few))
            case "finish":
                session.finish()
    redecider, found = again(in_appends(session.history))
    assert found == []
    assert (redecider.events, redecider.untold) == (len(session.history), 0)


def test_an_event_the_rules_do_not_allow_is_named() -> None:
    """A chunk that was ready before it was sealed is illegal, and what follows it is still looked at."""
    history = [
        recorded(event, n) for n, event in enumerate([*active(), ready(0, 0, 10), sealed(0, 0, 10)], 1)
    ]
    _, found = again(history)
    assert [(one.kind, one.sequence) for one in found if one.kind == "illegal"] == [
        ("illegal", len(history) - 1)
    ]


def test_rules_that_came_to_decide_otherwise_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """When a stop comes to carry another reason, every recorded stop differs, at its sequence, by field."""

    def decide(asked: cmd.Asked, session: object) -> object:
        if isinstance(asked.command, cmd.Stop):
            return [ev.SessionStopping(reason="changed")]
        return decider.decide(asked, session)  # type: ignore[arg-type] # passed on as it came

    history = [recorded(e, n) for n, e in enumerate([*active(), ev.SessionStopping(reason="done")], 1)]
    assert again(history)[1] == []
    monkeypatch.setattr(redeciding, "decide", decide)
    (found,) = again(history)[1]
    assert (found.kind, found.sequence, found.type) == ("decision", len(history), "session.stopping.v1")
    assert "reason 'changed' now, not 'done'" in found.reason


def test_a_recorder_that_leaves_in_a_pause_is_decided_again() -> None:
    """A detach that ends a pause is told from a pause without a recorder."""
    session = AnySession()
    session.ask(cmd.Create())
    session.ask(cmd.Start())
    session.attach(takeover=False, alive=False, leftovers=[])
    session.ask(cmd.Pause())
    session.detach(leftovers=[7])
    redecider, found = again(in_appends(session.history))
    assert (found, redecider.untold, redecider.decided) == ([], 0, 5)
