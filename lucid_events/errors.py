"""Every exception the package raises, sorted by what the catcher must do next.

    LucidError
    ├── CommandRejected      the rules refuse the command in this state: report, never retry
    │   └── CommandExpired   the command is older than the horizon of repeated ids
    ├── AccessDenied         who asks may not
    │   ├── Unauthenticated  nothing proves who asks: send a token or a certificate
    │   └── Forbidden        none of their roles may: ask somebody who has one
    ├── NotFound             no such history, view, chunk or blob
    ├── ContractError        bytes do not fit a schema, or the type is unknown: set aside
    ├── VersionConflict      another writer came first: reload, decide again
    ├── StoreUnavailable     nothing was written: back off, retry
    │   ├── StoreFull        the stream's byte limit is reached: make room, retry
    │   └── NotReady         a read waited in vain for a position to be applied
    ├── AppendUncertain      the reply was lost: read, then retry under the same id
    ├── Fenced               this writer was replaced: stop writing
    ├── IntegrityError       a digest, a size or a sequence does not match: a person looks
    └── ConfigError          a setting or the topology is wrong: fix it before any work

The module imports nothing. Messages are for people and say what to do; code reads the fields. `STATUSES`
is the one table of which error is answered with which status, over HTTP and over NATS.
"""


class LucidError(Exception):
    """Base of every error the package raises on purpose; `fields` carries what code may need."""

    code = "error"
    retry = False

    def __init__(self, message: str, /, **fields: object) -> None:
        super().__init__(message)
        self.message = message
        self.fields = fields

    def __getattr__(self, name: str) -> object:
        try:
            return self.__dict__["fields"][name]
        except KeyError:
            raise AttributeError(f"{type(self).__name__} has no field {name!r}") from None


class CommandRejected(LucidError):
    """The rules refuse the command in this state; `allowed` lists what they accept now."""

    code = "rejected"


class CommandExpired(CommandRejected):
    """The command's id is older than the horizon in which a repeat can be recognised."""

    code = "expired"


class AccessDenied(LucidError):
    """Who asks may not; nothing was done."""

    code = "denied"


class Unauthenticated(AccessDenied):
    """Nothing proves who asks."""

    code = "unauthenticated"


class Forbidden(AccessDenied):
    """Who asks is known, and none of their roles may do this."""

    code = "forbidden"


class NotFound(LucidError):
    """No such session, view, chunk or blob."""

    code = "not_found"


class ContractError(LucidError):
    """Bytes do not fit their schema, or the type is unknown; `field` names where."""

    code = "contract"


class VersionConflict(LucidError):
    """`expected` is not the history's version any more; nothing was written."""

    code = "conflict"
    retry = True


class StoreUnavailable(LucidError):
    """Not connected, no responders, or no leader; nothing was written."""

    code = "unavailable"
    retry = True


class StoreFull(StoreUnavailable):
    """A stream has reached its byte limit and pushes back; nothing was written."""

    code = "full"


class NotReady(StoreUnavailable):
    """A view did not reach the position asked for in time."""

    code = "not_ready"


class AppendUncertain(LucidError):
    """No reply came; the write may have landed, so read before doing anything else."""

    code = "uncertain"
    retry = True


class Fenced(LucidError):
    """This recorder's epoch was closed by another writer; no further byte is accepted."""

    code = "fenced"


class IntegrityError(LucidError):
    """A digest, a size or a sequence does not match what the history says."""

    code = "integrity"


class ConfigError(LucidError):
    """A setting or the topology is wrong; raised before any work."""

    code = "config"


STATUSES: dict[type[LucidError], int] = {
    LucidError: 500,
    CommandRejected: 409,
    CommandExpired: 409,
    AccessDenied: 403,
    Unauthenticated: 401,
    Forbidden: 403,
    NotFound: 404,
    ContractError: 422,
    VersionConflict: 409,
    StoreUnavailable: 503,
    StoreFull: 503,
    NotReady: 503,
    AppendUncertain: 503,
    Fenced: 409,
    IntegrityError: 500,
    ConfigError: 500,
}
"""Status of an answer that is an error: of HTTP, and in the error headers of a NATS service.

500 is ours to mend, 503 may come out differently soon, anything else is the asker's. A test fails when an
error has no row.
"""

REASON_STATUSES: dict[str, int] = {
    "internal": 500,
    "invalid": 422,
    "too_many_sessions": 429,
    "version_mismatch": 412,
}
"""What the answer to a command said, where it decides more than the class of the error."""


def status_of(error: LucidError) -> int:
    """Return the status of `error`: by what the rules said, else by the nearest class with a row."""
    if isinstance(error, CommandRejected):
        reason = str(error.fields.get("reason") or error.code)
        if reason in REASON_STATUSES:
            return REASON_STATUSES[reason]
    return next(STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES)
