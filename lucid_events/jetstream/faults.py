"""What the server's error codes and the client's exceptions mean: the only module that knows either.

A fault is sorted by what the catcher must do next (`errors.py`); the code itself travels along in
the fields `err_code`, `status` and `description`, for the few places that must look closer (a
capture publish tells a fence from a collision by reading the fence).
"""

import asyncio
import re
from collections.abc import Mapping
from typing import Any

import nats.errors

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

# Codes as the server's errors.json names them.

WRONG_LAST_SEQUENCE = 10071
"""A guard does not hold; the description ends in the last sequence."""
WRONG_LAST_SEQUENCE_CONSTANT = 10164
"""The same on a replicated stream while another entry is in flight; no sequence is told."""
EXPECTED_SEQUENCE_NOT_READY = 10163
DUPLICATE_IN_PROCESS = 10158
"""An earlier publish with this id is in flight: it may still fail."""
BATCH_DUPLICATE = 10201
"""A batch holds an id that is stored already: most likely the batch itself, sent before."""
BATCH_INCOMPLETE = 10176
BATCH_TOO_MANY_IN_FLIGHT = 10210
BATCH_TOO_LARGE = 10199
BATCH_DISABLED = 10174
STORE_FAILED = 10077
"""The stream refused to store: a limit is reached (then it is full), or the disk failed."""
STORAGE_EXCEEDED = 10047
MEMORY_EXCEEDED = 10028
ACCOUNT_EXCEEDED = 10002
INSUFFICIENT_RESOURCES = 10023
MESSAGE_TOO_LARGE = 10054
HEADER_TOO_LARGE = 10097
TOO_MANY_REQUESTS = 10167
STREAM_NOT_FOUND = 10059
STREAM_NAME_IN_USE = 10058
RESTORE_NAME_TAKEN = 10130
CONSUMER_NOT_FOUND = 10014
CONSUMER_EXISTS = 10148
MESSAGE_NOT_FOUND = 10037
MESSAGE_DELETE_FAILED = 10057
SEQUENCE_NOT_FOUND = 10043
JETSTREAM_OFF = 10076
JETSTREAM_OFF_FOR_ACCOUNT = 10039
NO_SUITABLE_PEERS = 10005
REPLICAS_NEED_A_CLUSTER = 10074
CLUSTER_NOT_AVAILABLE = 10008
CLUSTER_NOT_LEADER = 10009
CLUSTER_NOT_ASSIGNED = 10007
RAFT_ERROR = 10041
STREAM_OFFLINE = 10118
CONSUMER_OFFLINE = 10119

WRONG_SEQUENCE = frozenset({WRONG_LAST_SEQUENCE, WRONG_LAST_SEQUENCE_CONSTANT})
UNSETTLED = frozenset({DUPLICATE_IN_PROCESS, BATCH_DUPLICATE})
FULL = frozenset({STORAGE_EXCEEDED, MEMORY_EXCEEDED, ACCOUNT_EXCEEDED})
AWAY = frozenset(
    {
        EXPECTED_SEQUENCE_NOT_READY,
        BATCH_INCOMPLETE,
        BATCH_TOO_MANY_IN_FLIGHT,
        INSUFFICIENT_RESOURCES,
        TOO_MANY_REQUESTS,
        CLUSTER_NOT_AVAILABLE,
        CLUSTER_NOT_LEADER,
        CLUSTER_NOT_ASSIGNED,
        RAFT_ERROR,
        STREAM_OFFLINE,
        CONSUMER_OFFLINE,
    }
)
"""Nothing was written; the same bytes may be sent again after a while."""
MISSING = frozenset({MESSAGE_NOT_FOUND, SEQUENCE_NOT_FOUND})
TOPOLOGY = frozenset(
    {
        STREAM_NOT_FOUND,
        CONSUMER_NOT_FOUND,
        STREAM_NAME_IN_USE,
        CONSUMER_EXISTS,
        JETSTREAM_OFF,
        JETSTREAM_OFF_FOR_ACCOUNT,
        BATCH_DISABLED,
        NO_SUITABLE_PEERS,
        REPLICAS_NEED_A_CLUSTER,
    }
)
TOO_LARGE = frozenset({MESSAGE_TOO_LARGE, HEADER_TOO_LARGE, BATCH_TOO_LARGE})

NO_RESPONDERS_STATUS = "503"
DISK_FULL = "no space left on device"
"""In descriptions of any code; the stream takes nothing any more until the server is started again."""
ROOM_ON_THE_DISK = (
    "make room on the disk of the server; one that `lucid up` started goes on by itself then, another has to "
    "be restarted"
)

_violation = re.compile(r'permissions violation for (publish|subscription) to "([^"]+)"')

_too_many_replicas = "lower LUCID_REPLICAS, or start more servers: the cluster has fewer than that"

_cures = {
    NO_SUITABLE_PEERS: _too_many_replicas,
    REPLICAS_NEED_A_CLUSTER: _too_many_replicas,
    STREAM_NOT_FOUND: "run `lucid deploy` to create the streams",
    CONSUMER_NOT_FOUND: "run `lucid deploy` to create the consumers",
    JETSTREAM_OFF: "turn JetStream on in the server's configuration",
    JETSTREAM_OFF_FOR_ACCOUNT: "turn JetStream on for this account, or set the API prefix of the import",
    BATCH_DISABLED: "set `allow_atomic` on the stream: `lucid deploy --update`",
}


def api_fault(error: Mapping[str, Any], doing: str) -> LucidError:
    """Return the error of `errors.py` for an `error` object of a JetStream reply.

    Args:
        error: `{"code", "err_code", "description"}` as the server sent it.
        doing: what was asked for, as the message's beginning ("publish to lucid.evt.s1.session.started").
    """
    status = int(error.get("code", 0))
    code = int(error.get("err_code", 0))
    description = str(error.get("description", ""))
    fields: dict[str, Any] = {"status": status, "err_code": code, "description": description}
    text = f"{doing}: {description} (error {code})"
    if code in WRONG_SEQUENCE:
        actual = description.rpartition(": ")[2]
        fields["actual"] = int(actual) if actual.isdigit() else None
        return VersionConflict(f"{text}: another writer came first", **fields)
    if code in UNSETTLED:
        return AppendUncertain(f"{text}: read what is stored before sending again", **fields)
    if DISK_FULL in description:
        return StoreFull(f"{text}: {ROOM_ON_THE_DISK}", **fields)
    if code in FULL or (code == STORE_FAILED and "exceeded" in description):
        return StoreFull(f"{text}: make room, or raise the limit", **fields)
    if code in MISSING or (code == MESSAGE_DELETE_FAILED and "no message found" in description):
        return NotFound(text, **fields)
    if code in TOPOLOGY:
        return ConfigError(f"{text}: {_cures.get(code, 'compare with `lucid deploy --check`')}", **fields)
    if code in TOO_LARGE:
        return ContractError(f"{text}: send less at once", **fields)
    if code in AWAY or code == STORE_FAILED or status in (408, 429, 503):
        return StoreUnavailable(f"{text}: try again", **fields)
    return ConfigError(text, **fields)


def no_responders(subject: str) -> StoreUnavailable:
    """Return the error for a request nobody was there to take: nothing was written."""
    return StoreUnavailable(
        f"nobody serves {subject!r}: its stream or service does not exist, or has no leader right now",
        status=503,
        err_code=0,
        description="no responders",
    )


def no_reply(subject: str, waited_s: float) -> AppendUncertain:
    """Return the error for a request that went out and was not answered; 0 s: the connection was lost."""
    when = f"within {waited_s:.3g} s" if waited_s else "before the connection was lost"
    return AppendUncertain(f"no reply on {subject!r} {when}: it may have been done, read first")


def not_connected(subject: str, server: str) -> StoreUnavailable:
    """Return the error for a request that was never sent."""
    return StoreUnavailable(f"not connected to {server}: {subject!r} was not sent")


def client_fault(exc: Exception, doing: str) -> LucidError:
    """Return the error of `errors.py` for an exception the client raised before anything was sent."""
    match exc:
        case LucidError():
            return exc
        case nats.errors.MaxPayloadError():
            return ContractError(f"{doing}: larger than the server's max_payload")
        case nats.errors.BadSubjectError() | nats.errors.BadHeaderError():
            return ContractError(f"{doing}: {exc}")
        case _:
            return StoreUnavailable(f"{doing}: {described(exc)}")


def is_refusal(exc: BaseException) -> bool:
    """Return whether the server refused the credentials: trying again does not help."""
    text = str(exc).lower()
    return (
        isinstance(exc, nats.errors.AuthorizationError) or "authorization" in text or "authentication" in text
    )


def forbidden_subject(exc: BaseException) -> tuple[str, str] | None:
    """Return what the server forbade, in lower case: (`publish` or `subscription`, the subject)."""
    found = _violation.search(str(exc).lower())
    return None if found is None else (found[1], found[2])


def forbidden(doing: str, subject: str) -> ConfigError:
    """Return the error for a subject that this login has no right to: nothing was done."""
    return ConfigError(
        f"the server does not let this login {doing} {subject!r}: use one of a role that may "
        "(deploy/nats/roles.conf), or set the prefixes of inbox and JetStream API that it has",
        forbidden=subject,
    )


def described(exc: BaseException) -> str:
    """Return what an exception says, or its name when it says nothing."""
    return str(exc) or type(exc).__name__


CLIENT_ERRORS: tuple[type[Exception], ...] = (nats.errors.Error, OSError, asyncio.TimeoutError, LucidError)
"""What the client raises when the server is away; anything else is a bug and is not caught."""
