"""The vocabulary of identifiers: what they look like and how one is derived from another.

Derived ids are what makes a retry the same event: nothing here is random.
"""

import hashlib
import re
import uuid
from typing import NewType

from lucid_events.errors import ContractError

SessionId = NewType("SessionId", str)
CommandId = NewType("CommandId", str)
EventId = NewType("EventId", str)
Version = NewType("Version", int)
"""Stream sequence of the last message of a history; 0 when it is empty."""
Sequence = NewType("Sequence", int)
"""A position in a stream, from 1."""
Digest = NewType("Digest", str)
"""SHA-256, 64 lower-case hexadecimal digits."""

NO_DIGEST = Digest("")
"""The link before a history's first event."""

SESSION_ID = re.compile(r"[A-Za-z0-9_-]{1,100}", re.ASCII)
COMMAND_ID = re.compile(r"[A-Za-z0-9_-]{1,100}", re.ASCII)
DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)

_EVENTS = uuid.uuid5(uuid.NAMESPACE_URL, "lucid_events/event-id")
_EVENTS_HASHED = hashlib.sha1(_EVENTS.bytes, usedforsecurity=False)
_VARIANT = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}


def session_id(text: object) -> SessionId:
    """Return `text` as a session id.

    Raises:
        ContractError: it is not 1 to 100 characters of `A-Z a-z 0-9 _ -`.
    """
    if not isinstance(text, str) or SESSION_ID.fullmatch(text) is None:
        raise ContractError(
            f"session id {_shown(text)} is not valid: use 1 to 100 characters out of A-Z a-z 0-9 _ -",
            field="session_id",
        )
    return SessionId(text)


def command_id(text: object) -> CommandId:
    """Return `text` as a command id.

    Raises:
        ContractError: it is not 1 to 100 characters of `A-Z a-z 0-9 _ -`.
    """
    if not isinstance(text, str) or COMMAND_ID.fullmatch(text) is None:
        raise ContractError(
            f"command id {_shown(text)} is not valid: use 1 to 100 characters out of A-Z a-z 0-9 _ -",
            field="ce-id",
        )
    return CommandId(text)


def event_id(session: SessionId, cause: str, index: int) -> EventId:
    """Derive the id of the `index`-th event that `cause` (a command or event id) brings about.

    The session is part of it, so no other session's id can suppress this event
    (the server's dedupe window is stream-wide).
    """
    return EventId(_uuid5(f"{session}\n{cause}\n{index}"))


def derived_command_id(session: SessionId, cause: str, purpose: str) -> CommandId:
    """Derive the id of the command that a reaction to `cause` issues for `purpose`."""
    return CommandId(_uuid5(f"{session}\n{cause}\n{purpose}"))


def _uuid5(name: str) -> str:
    # `str(uuid.uuid5(_EVENTS, name))` at a quarter of its price (RFC 9562, 5.5): each event needs one.
    hashed = _EVENTS_HASHED.copy()
    hashed.update(name.encode())
    digits = hashed.hexdigest()
    variant = _VARIANT[digits[16]]
    return f"{digits[:8]}-{digits[8:12]}-5{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:32]}"


def _shown(text: object) -> str:
    shown = repr(text)
    return shown if len(shown) <= 60 else shown[:57] + "..."
