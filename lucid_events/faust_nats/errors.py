"""What the driver raises, sorted by what the one who catches it must do.

DriverError
├── Unsupported      change the app or the server; raised before any event is handled
├── Unavailable      nothing was written; try again
├── Refused          the server said no; `err_code` says why
├── CommitInDoubt    a commit may have been stored; read the offsets before anything else
└── Fenced           another worker owns the partitions; restart this one
"""

from collections.abc import Iterator

from faust.exceptions import FaustError, ImproperlyConfigured


class DriverError(FaustError):
    """Base of everything the driver raises."""


class Unsupported(DriverError, ImproperlyConfigured):
    """The app or the server is not fit for the driver; the message names what to change."""


class Unavailable(DriverError):
    """The server did not answer, or refused for now; nothing was written."""


class Refused(DriverError):
    """The server refused a request; nothing was written. `err_code` is the JetStream API's."""

    def __init__(self, message: str, err_code: int = 0) -> None:
        super().__init__(message)
        self.err_code = err_code


class CommitInDoubt(DriverError):
    """No answer to a commit, and none can be had by reading either: it may have been stored."""


class Fenced(DriverError):
    """Another worker owns these partitions now; what this one computed is void, so it must restart."""


def first_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the driver's own error out of `group` if there is one, else the first."""
    leaves = list(_leaves(group))
    return next((leaf for leaf in leaves if isinstance(leaf, DriverError)), leaves[0])


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for exc in group.exceptions:
        if isinstance(exc, BaseExceptionGroup):
            yield from _leaves(exc)
        else:
            yield exc
