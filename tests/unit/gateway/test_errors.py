"""The table of errors."""

from lucid_events import errors
from lucid_events.domain.transitions import Trigger
from lucid_events.gateway.access import ROUTES
from lucid_events.gateway.errors import ROWS, Details, headers_of, status_of, verbs_of


def _leaves(kind: type[errors.LucidError]) -> list[type[errors.LucidError]]:
    return [kind, *(leaf for sub in kind.__subclasses__() for leaf in _leaves(sub))]


def test_every_error_has_a_row() -> None:
    """An error that is added to the tree is given a status on purpose."""
    ours = [kind for kind in _leaves(errors.LucidError) if kind.__module__ == errors.__name__]
    assert [kind.__name__ for kind in ours if kind not in ROWS] == []


def test_what_the_rules_said_decides() -> None:
    """A rejection that exists, is held, has moved on or is one too many each has its own status."""
    told = {
        reason: status_of(errors.CommandRejected("no", reason=reason))
        for reason in ("exists", "held", "version_mismatch", "too_many_sessions", "not_active")
    }
    assert told == {
        "exists": (409, "LUCID_ERR_3003"),
        "held": (409, "LUCID_ERR_3006"),
        "version_mismatch": (412, "LUCID_ERR_3006"),
        "too_many_sessions": (429, "LUCID_ERR_3010"),
        "not_active": (409, "LUCID_ERR_3004"),
    }
    assert status_of(errors.NotFound("no", index=3)) == (404, "LUCID_ERR_3005")
    assert status_of(errors.NotFound("no")) == (404, "LUCID_ERR_3001")


def test_what_a_header_can_not_hold_is_encoded() -> None:
    """A recorder may call itself anything: its name never breaks an answer, nor adds a header to it."""
    told = headers_of(
        Details(reason="recorder_alive", recorder="desk\r\nX-Evil: 1 é", allowed=("stop", "fail"))
    )
    assert told == {
        "Lucid-Reason": "recorder_alive",
        "Lucid-Allowed": "stop, fail",
        "Lucid-Recorder": "desk%0D%0AX-Evil: 1 %C3%A9",
    }


def test_what_is_allowed_are_requests() -> None:
    """Whatever the rules allow, each word told is that of a route, and no route is left out."""
    moving = {path.rpartition("/")[2] for _, path in ROUTES if path.startswith("/pipelines/{sid}/")}
    told = verbs_of(Trigger)
    assert set(told) <= moving | {"create", "delete"}
    assert set(told) >= {"start", "pause", "resume", "stop", "recover", "fail", "delete"}
    assert verbs_of(["recover", "cleanup", "destroy", "pause_complete"]) == ("recover", "delete")
