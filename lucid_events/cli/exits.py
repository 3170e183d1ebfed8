"""One table: which error ends the process with which status.

A script can tell "refused" from "unreachable" from "damaged" without reading text; the table is
shown in `docs/operations.md`, and a test fails when an error has no row.
"""

from lucid_events import errors

EXIT_CODES: dict[type[errors.LucidError], int] = {
    errors.LucidError: 1,
    errors.ConfigError: 2,
    errors.CommandRejected: 3,
    errors.CommandExpired: 3,
    errors.AccessDenied: 3,
    errors.Unauthenticated: 3,
    errors.Forbidden: 3,
    errors.NotFound: 3,
    errors.ContractError: 4,
    errors.VersionConflict: 5,
    errors.StoreUnavailable: 6,
    errors.StoreFull: 6,
    errors.NotReady: 6,
    errors.AppendUncertain: 6,
    errors.Fenced: 5,
    errors.IntegrityError: 7,
}
"""0 is success, 1 a bug or an unexpected error, 130 an interrupt by the user."""

INTERRUPTED = 130


def exit_code(error: BaseException) -> int:
    """Return the status for `error`: its own row, or the nearest above it in the tree."""
    for kind in type(error).__mro__:
        if kind in EXIT_CODES:
            return EXIT_CODES[kind]
    return 1
