"""What a command is answered with, on the wire and in `LUCID_OUTCOMES`."""

from typing import Literal

from lucid_events.domain.values import Fact, SessionSettings


class EventRef(Fact, frozen=True, kw_only=True):
    """An event a command brought about."""

    type: str
    id: str
    sequence: int


class Accepted(Fact, frozen=True, kw_only=True):
    """The command took effect, or had nothing to do (`events` is empty).

    `version` is the history's version after it, `offset` where the sealed bytes end, `epoch` the
    latest attachment, `next_index` the index the next sealed chunk gets. `repeated` means that
    this command id had taken effect before: `version` and `state` are those of its first time.
    """

    outcome: Literal["accepted"] = "accepted"
    session_id: str
    command_id: str
    state: str
    version: int
    epoch: int
    offset: int
    next_index: int
    settings: SessionSettings
    events: tuple[EventRef, ...] = ()
    repeated: bool = False


class ErrorBody(Fact, frozen=True, kw_only=True, omit_defaults=True):
    """Why a command was not taken; `retry` says whether the same command may succeed later."""

    code: str
    message: str
    retry: bool
    field: str | None = None
    allowed: tuple[str, ...] = ()
    state: str | None = None


class Failure(Fact, frozen=True, kw_only=True):
    """The reply `{"error": {…}}`; nothing of it is in the history."""

    error: ErrorBody


class Beat(Fact, frozen=True, kw_only=True):
    """What a recorder says every few seconds: alive, and captured up to `offset`."""

    offset: int


class BeatReply(Fact, frozen=True, kw_only=True):
    """What it hears: the session's state, and whether the epoch is still the one that may write.

    Every chunk with an index below `ready` is stored: the receipt of a recorder that may read no history.
    """

    state: str
    epoch: int
    attached: bool
    offset: int
    version: int
    ready: int = 0
