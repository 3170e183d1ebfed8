"""`jetstream.faults`: every code the design names becomes the error a catcher can act on."""

import pytest

from lucid_events.errors import (
    AppendUncertain,
    ConfigError,
    ContractError,
    LucidError,
    NotFound,
    StoreFull,
    StoreUnavailable,
    VersionConflict,
)
from lucid_events.jetstream.faults import api_fault


def fault(code: int, status: int = 400, description: str = "") -> LucidError:
    """Return the error for one code."""
    return api_fault({"code": status, "err_code": code, "description": description}, "publish to s")


@pytest.mark.parametrize(
    ("code", "status", "description", "kind"),
    [
        (10071, 400, "wrong last sequence: 7", VersionConflict),
        (10164, 400, "wrong last sequence", VersionConflict),
        (10158, 409, "duplicate message id is in process", AppendUncertain),
        (10201, 400, "atomic publish batch contains duplicate message id", AppendUncertain),
        (10176, 400, "atomic publish batch is incomplete", StoreUnavailable),
        (10210, 429, "atomic publish too many inflight", StoreUnavailable),
        (10167, 429, "too many requests", StoreUnavailable),
        (10077, 503, "maximum bytes exceeded", StoreFull),
        (10077, 503, "input/output error", StoreUnavailable),
        (10051, 500, "write /store/msgs/6.blk: no space left on device", StoreFull),
        (10047, 500, "insufficient storage resources available", StoreFull),
        (10023, 503, "insufficient resources", StoreUnavailable),
        (10008, 503, "JetStream system temporarily unavailable", StoreUnavailable),
        (10059, 404, "stream not found", ConfigError),
        (10014, 404, "consumer not found", ConfigError),
        (10039, 503, "JetStream not enabled for account", ConfigError),
        (10037, 404, "no message found", NotFound),
        (10054, 400, "message size exceeds maximum allowed", ContractError),
        (19999, 503, "something new", StoreUnavailable),
        (19999, 400, "something new", ConfigError),
    ],
)
def test_codes_are_sorted(code: int, status: int, description: str, kind: type[LucidError]) -> None:
    """A code becomes exactly the class that says what to do next, and travels along."""
    found = fault(code, status, description)
    assert type(found) is kind
    assert found.fields["err_code"] == code
    assert found.fields["status"] == status
    assert "publish to s" in found.message


def test_a_conflict_tells_the_sequence_when_the_server_does() -> None:
    """The last sequence is read out of the description; a replicated stream doesn't tell it."""
    assert fault(10071, description="wrong last sequence: 41").fields["actual"] == 41
    assert fault(10164, description="wrong last sequence").fields["actual"] is None
