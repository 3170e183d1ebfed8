"""The table of errors."""

import logging

import pytest
from litestar import Litestar, get
from litestar.testing import TestClient

from lucid_events import errors
from lucid_events.domain.transitions import Trigger
from lucid_events.errors import STATUSES, status_of
from lucid_events.gateway.access import ROUTES
from lucid_events.gateway.errors import (
    CODES,
    REASON_CODES,
    Details,
    Unrecordable,
    answer_http_error,
    answer_lucid_error,
    code_of,
    headers_of,
    verbs_of,
)
from lucid_events.jetstream.faults import api_fault, forbidden

LOG = "lucid_events.gateway.errors"
MISSING_STREAM = {"code": 404, "err_code": 10059, "description": "stream not found"}


def _leaves(kind: type[errors.LucidError]) -> list[type[errors.LucidError]]:
    return [kind, *(leaf for sub in kind.__subclasses__() for leaf in _leaves(sub))]


def test_every_error_has_a_row() -> None:
    """An error that is added to the tree is given a status and a code on purpose."""
    ours = {kind for kind in _leaves(errors.LucidError) if kind.__module__ == errors.__name__}
    assert ours == set(STATUSES) == set(CODES)


def test_what_the_rules_said_decides() -> None:
    """A rejection that exists, is held, has moved on or is one too many each has its own status."""
    told = {
        reason: _told(errors.CommandRejected("no", reason=reason))
        for reason in ("exists", "held", "invalid", "version_mismatch", "too_many_sessions", "not_active")
    }
    assert told == {
        "exists": (409, "LUCID_ERR_3003"),
        "held": (409, "LUCID_ERR_3006"),
        "invalid": (422, "LUCID_ERR_3002"),
        "version_mismatch": (412, "LUCID_ERR_3006"),
        "too_many_sessions": (429, "LUCID_ERR_3010"),
        "not_active": (409, "LUCID_ERR_3004"),
    }
    assert _told(errors.NotFound("no", index=3)) == (404, "LUCID_ERR_3005")
    assert _told(errors.NotFound("no")) == (404, "LUCID_ERR_3001")
    assert _told(errors.CommandRejected("no", reason="internal")) == (500, "LUCID_ERR_3006")
    assert set(REASON_CODES) >= set(errors.REASON_STATUSES) - {"internal", "version_mismatch"}


@pytest.mark.parametrize(
    ("error", "status", "code", "level"),
    [
        (api_fault(MISSING_STREAM, "STREAM.INFO.X"), 500, "LUCID_ERR_3007", "ERROR"),
        (forbidden("publish to", "lucid.cmd.s1.create"), 500, "LUCID_ERR_3007", "ERROR"),
        (errors.IntegrityError("no"), 500, "LUCID_ERR_3007", "ERROR"),
        (errors.StoreUnavailable("no"), 503, "LUCID_ERR_3007", "WARNING"),
        (errors.ContractError("no"), 422, "LUCID_ERR_3002", None),
        (Unrecordable("sh may not be run", field="command"), 422, "LUCID_ERR_3002", None),
    ],
    ids=["missing stream", "forbidden subject", "damage", "away", "malformed", "program"],
)
def test_what_is_ours_to_mend_is_told_from_what_the_asker_did(
    error: Exception, status: int, code: str, level: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """A pipeline that is set up wrongly is 500 and logged as an error; 422 is for the asker alone."""
    with caplog.at_level(logging.INFO, logger=LOG):
        answer = _asked(error)
    assert (answer[0], answer[1]["code"]) == (status, code)
    assert answer[1]["message"] == str(error)
    assert [one.levelname for one in caplog.records if one.name == LOG] == ([level] if level else [])


def _told(error: errors.LucidError) -> tuple[int, str]:
    return status_of(error), code_of(error)


def _asked(error: Exception) -> tuple[int, dict[str, str]]:
    """Ask a route that raises `error`; returns status and error."""

    @get("/")
    async def route() -> None:
        raise error

    handlers = {errors.LucidError: answer_lucid_error, Unrecordable: answer_http_error}
    with TestClient(Litestar([route], exception_handlers=handlers, logging_config=None)) as client:  # type: ignore[arg-type]  # each takes its own error
        answer = client.get("/")
    return answer.status_code, answer.json()["error"]


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
