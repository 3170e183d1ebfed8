"""Cursors: opaque to clients, checked when they come back, and worthless for another list.

base64url( "<list> <place>" )
"""

import base64
import binascii

from lucid_events.errors import ContractError

MAX_PAGE = 1000


def cursor(list_name: str, place: int | None) -> str | None:
    """Return the cursor that goes on behind `place`; None at the end."""
    if place is None:
        return None
    return base64.urlsafe_b64encode(f"{list_name} {place}".encode()).decode().rstrip("=")


def place(list_name: str, text: str | None) -> int:
    """Return where the page begins, 0 without a cursor.

    Raises:
        ContractError: it is no cursor, or that of another list.
    """
    if text is None:
        return 0
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True).decode("ascii")
        name, _, number = raw.partition(" ")
        if name == list_name and number.isdigit() and len(number) <= 19:
            return int(number)
    except (binascii.Error, ValueError):
        pass
    raise ContractError(
        f"cursor {text[:60]!r} is none of this list: leave it out to begin, then use the one in the answer",
        field="cursor",
    )
