"""Legal histories of any shape, made by asking the decider for this and that."""

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from lucid_events.domain import commands as cmd
from lucid_events.domain import events as ev
from tests.unit.domain.specification import stored
from tests.unit.domain.test_any_history_is_legal import AnySession as _AnySession

VERBS: list[cmd.Command] = [
    cmd.Pause(reason="lunch"),
    cmd.Resume(),
    cmd.Stop(reason="done"),
    cmd.Fail(reason="r"),
    cmd.Recover(reason="again"),
    cmd.Start(),
    cmd.Mark(label="m"),
    cmd.Hold(hold="h"),
    cmd.Release(hold="h"),
    cmd.Cleanup(),
    cmd.Destroy(),
]
ACTIONS = ["verb", "attach", "seal", "seal", "seal", "ready", "ready", "failed", "gap", "slow", "drained"]
ACTIONS += ["detach", "lose", "finish", "finish", "erase", "propose", "carry out"]


@st.composite
def _legal_history(draw: DrawFn, max_steps: int) -> list[ev.SessionEvent]:
    session = _AnySession()
    session.ask(cmd.Create(owner=draw(st.sampled_from(["", "ann", "böb"])), label="demo"))
    if draw(st.booleans()):
        session.ask(cmd.Start())
        session.attach(takeover=False, alive=False, leftovers=[])
    for action in draw(st.lists(st.sampled_from(ACTIONS), max_size=max_steps)):
        _act(draw, session, action)
    return [recorded.event for recorded in session.history]


def _act(draw: DrawFn, session: _AnySession, action: str) -> None:
    few = st.lists(st.integers(1, 50), max_size=2)
    match action:
        case "verb":
            session.ask(draw(st.sampled_from(VERBS)))
        case "attach":
            session.attach(takeover=draw(st.booleans()), alive=False, leftovers=draw(few))
        case "seal":
            session.seal(size=draw(st.integers(1, 100)), skew=0)
        case "ready" | "failed":
            waiting = sorted({**session.session.pending, **session.session.failed})
            if not waiting:
                return
            index = draw(st.sampled_from(waiting))
            sealed = session.session.pending.get(index) or session.session.failed[index]
            if action == "ready":
                session.ask(stored(index, sealed.offset, sealed.size))
            else:
                session.ask(cmd.ChunkRefused(index=index, code="corrupt"))
        case "gap":
            session.gap(length=draw(st.integers(1, 20)))
        case "slow":
            session.slow(step=draw(st.sampled_from(["blocking", "spooling", "flowing"])))
        case "drained":
            session.drained(skew=0)
        case "detach":
            session.detach(leftovers=draw(few))
        case "lose":
            session.lose(leftovers=draw(few))
        case "finish":
            session.finish()
        case "propose":
            session.propose(grace=0)
        case "carry out":
            session.carry_out(stray=False)
        case "erase":
            session.erase(fails=draw(st.booleans()))


def legal_histories(max_steps: int = 30) -> SearchStrategy[list[ev.SessionEvent]]:
    """Histories the decider would have written, from a creation on."""
    return _legal_history(max_steps)
