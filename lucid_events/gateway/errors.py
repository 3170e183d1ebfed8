"""Which error is answered with which code, and the body of every error; the statuses are in `errors.py`.

`Lucid` codes are those the services have always had; what they can't tell apart is in `details.reason`.
A test fails when an error of the tree has no row.
"""

import logging
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec
from litestar import MediaType, Request, Response
from litestar.exceptions import HTTPException

from lucid_events import __version__, codec, errors
from lucid_events.domain.transitions import Trigger
from lucid_events.errors import LucidError, status_of

NOT_FOUND = "LUCID_ERR_3001"
INVALID = "LUCID_ERR_3002"
EXISTS = "LUCID_ERR_3003"
NOT_STARTED = "LUCID_ERR_3004"
CHUNK_NOT_FOUND = "LUCID_ERR_3005"
PIPELINE = "LUCID_ERR_3006"
STORAGE = "LUCID_ERR_3007"
COMPRESSION = "LUCID_ERR_3008"
ENCRYPTION = "LUCID_ERR_3009"
RATE_LIMIT = "LUCID_ERR_3010"
UNAUTHENTICATED = "LUCID_ERR_3011"
FORBIDDEN = "LUCID_ERR_3012"

RETRY_AFTER_S = 1
"""Told with every answer that may come out differently soon."""
FALLBACK_SERVICE = "lucid_events"

CODES: dict[type[LucidError], str] = {
    errors.LucidError: PIPELINE,
    errors.CommandRejected: PIPELINE,
    errors.CommandExpired: PIPELINE,
    errors.NotFound: NOT_FOUND,
    errors.ContractError: INVALID,
    errors.VersionConflict: PIPELINE,
    errors.StoreUnavailable: STORAGE,
    errors.StoreFull: STORAGE,
    errors.NotReady: STORAGE,
    errors.AppendUncertain: STORAGE,
    errors.Fenced: NOT_STARTED,
    errors.IntegrityError: STORAGE,
    errors.ConfigError: STORAGE,
    errors.AccessDenied: FORBIDDEN,
    errors.Unauthenticated: UNAUTHENTICATED,
    errors.Forbidden: FORBIDDEN,
}

REASON_CODES: dict[str, str] = {
    "exists": EXISTS,
    "not_active": NOT_STARTED,
    "invalid": INVALID,
    "too_many_sessions": RATE_LIMIT,
}
"""What the rules said, where it decides more than the class of the error."""

_STATUSES: dict[int, str] = {
    404: NOT_FOUND,
    408: NOT_STARTED,
    409: PIPELINE,
    412: PIPELINE,
    413: INVALID,
    416: CHUNK_NOT_FOUND,
    429: RATE_LIMIT,
    503: STORAGE,
}
"""Code of an error that is one of HTTP alone; every other one is 3002, an invalid request."""

_VERBS: dict[str, str] = {Trigger.ERROR: "fail", Trigger.CLEANUP: "delete", Trigger.DESTROY: "delete"}
"""What a trigger is called here when a request has another word for it."""

_DETAILS = ("state", "allowed", "offset", "field", "index", "recorder", "safe_offset")

_log = logging.getLogger(__name__)


class Details(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What code may need of an error.

    `allowed` are the requests that move the session from its `state`: the last word of the path, `delete`
    for DELETE, `release` for a hold's. `offset` is where its bytes go on; `recorder` is who records it, as
    it named itself: `host:process id` of a gateway, where the bytes have to go. `retry` says that the same
    request may succeed later.
    """

    reason: str
    retry: bool = False
    state: str | None = None
    allowed: tuple[str, ...] = ()
    offset: int | None = None
    index: int | None = None
    recorder: str | None = None
    field: str | None = None


class ErrorBody(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One error, as both services have always told it."""

    code: str
    message: str
    request_id: str
    timestamp: datetime
    service: str
    version: str
    details: Details | None = None


class ErrorAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The body of every answer that is an error."""

    error: ErrorBody


class HttpError(Exception):
    """An error that only HTTP knows: a body too large, a range that is none, a time-out."""

    def __init__(
        self,
        status: int,
        reason: str,
        message: str,
        *,
        headers: Mapping[str, str] | None = None,
        **details: Any,
    ) -> None:
        super().__init__(message)
        self.status, self.reason, self.message = status, reason, message
        self.headers, self.details = dict(headers or {}), details


class Unrecordable(HttpError):
    """What was asked for can't be recorded here, a program or a screen; `field` is where it was asked for."""

    def __init__(self, message: str, *, field: str) -> None:
        super().__init__(422, "unrecordable", message, field=field)


def code_of(error: LucidError) -> str:
    """Return the code of `error`: by what the rules said, else by the nearest class with a row."""
    reason = str(error.fields.get("reason") or error.code)
    if isinstance(error, errors.CommandRejected) and reason in REASON_CODES:
        return REASON_CODES[reason]
    if isinstance(error, errors.NotFound) and error.fields.get("index") is not None:
        return CHUNK_NOT_FOUND
    return next(CODES[kind] for kind in type(error).__mro__ if kind in CODES)


def answer_lucid_error(request: Request[Any, Any, Any], error: LucidError) -> Response[ErrorAnswer]:
    """Answer an error of the package by the tables; what is ours to mend is logged."""
    status, code = status_of(error), code_of(error)
    fields = {name: value for name in _DETAILS if (value := error.fields.get(name)) not in (None, ())}
    safe = fields.pop("safe_offset", None)
    fields.setdefault("offset", safe) if safe is not None else None
    if isinstance(allowed := fields.get("allowed"), Iterable):
        fields["allowed"] = verbs_of(allowed)
    details = msgspec.convert(
        {"reason": str(error.fields.get("reason") or error.code), "retry": error.retry, **fields},
        Details,
        strict=False,
    )
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    if status >= 500:
        level = logging.WARNING if error.retry else logging.ERROR
        _log.log(level, "not done", extra={"code": error.code, "reason": error.message})
    return _answer(request, status, code, error.message, details, headers=headers)


def verbs_of(triggers: Iterable[object]) -> tuple[str, ...]:
    """Return what to ask of these services for `triggers`; what the pipeline completes has no request.

    >>> verbs_of(["pause_complete", "stop", "error"]), verbs_of(["recover", "cleanup", "destroy"])
    (('stop', 'fail'), ('recover', 'delete'))
    """
    named = (str(trigger) for trigger in triggers)
    verbs = (_VERBS.get(name, name) for name in named if not name.endswith("_complete"))
    return tuple(dict.fromkeys(verbs))


def answer_http_error(request: Request[Any, Any, Any], error: HttpError) -> Response[ErrorAnswer]:
    """Answer an error that only HTTP knows."""
    details = Details(reason=error.reason, **error.details)
    code = _STATUSES.get(error.status, INVALID)
    return _answer(request, error.status, code, error.message, details, headers=error.headers)


def answer_framework_error(request: Request[Any, Any, Any], error: HTTPException) -> Response[ErrorAnswer]:
    """Answer what the framework refuses: no such path, no such method, parameters that do not fit."""
    status, message = error.status_code, error.detail
    if status >= 500:
        return answer_bug(request, error)
    field = None
    if status == 400:  # parameters and bodies that do not fit are one kind of error here, whoever finds it
        status = 422
        extra: Any = error.extra if isinstance(error.extra, list) and error.extra else None
        if extra:
            first = extra[0]
            message, field = str(first.get("message", message)), first.get("key")
            message = f"{field}: {message}" if field else message
    elif status == 404:
        message = f"there is nothing at {request.url.path[:200]}: /schema lists what there is"
    headers = {k: v for k, v in (error.headers or {}).items() if k.lower() == "allow"}
    reason = {404: "no_such_path", 405: "method_not_allowed", 413: "too_large"}.get(status, "invalid_request")
    code = _STATUSES.get(status, INVALID)
    return _answer(request, status, code, message, Details(reason=reason, field=field), headers=headers)


def answer_bug(request: Request[Any, Any, Any], error: Exception) -> Response[ErrorAnswer]:
    """Answer a bug: nothing about our insides leaves the process, the log has them."""
    _log.error("a request met a bug", exc_info=error, extra={"reason": request.url.path[:200]})
    message = "the service met a bug on this request: its log says which, under the request id"
    return _answer(request, 500, PIPELINE, message, Details(reason="internal"))


def error_body(
    *, code: str, message: str, request_id: str, service: str, details: Details | None = None
) -> ErrorAnswer:
    """Return the body of an error."""
    return ErrorAnswer(
        error=ErrorBody(
            code=code,
            message=message,
            request_id=request_id,
            timestamp=datetime.now(UTC),
            service=service,
            version=__version__,
            details=details,
        )
    )


def headers_of(details: Details) -> dict[str, str]:
    """Return what code needs of an error as headers: an answer to HEAD has no body to say it in."""
    told = {
        "Lucid-Reason": details.reason,
        "Lucid-State": details.state,
        "Lucid-Allowed": ", ".join(details.allowed),
        "Lucid-Recorder": details.recorder,
    }
    return {name: codec.header_safe(value) for name, value in told.items() if value}


def _answer(
    request: Request[Any, Any, Any],
    status: int,
    code: str,
    message: str,
    details: Details,
    *,
    headers: Mapping[str, str] | None = None,
) -> Response[ErrorAnswer]:
    told = {**(headers or {}), **headers_of(details)}
    if details.offset is not None:
        told["Upload-Offset"] = str(details.offset)
    if details.retry or details.reason == "busy" or status in (429, 503):
        told["Retry-After"] = str(RETRY_AFTER_S)
    content = error_body(
        code=code,
        message=message,
        request_id=request.scope.get("state", {}).get("request_id", ""),
        service=getattr(request.app.state, "service_name", FALLBACK_SERVICE),
        details=details,
    )
    return Response(content, status_code=status, headers=told, media_type=MediaType.JSON)
