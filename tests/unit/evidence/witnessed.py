"""A log, the checkpoints made of it, and what is said of them: what tests of checkpoints are built from."""

import hashlib
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from lucid_events.domain.ids import Digest
from lucid_events.evidence.bundle import Log
from lucid_events.evidence.checkpoint import (
    Checkpoint,
    CheckpointBuilder,
    decode_checkpoint,
    sign_checkpoint,
)
from lucid_events.evidence.checkpoint_check import CheckpointCheck
from lucid_events.evidence.differences import What
from lucid_events.evidence.keys import KeyList
from lucid_events.evidence.signing import Signer, generate_seed

LETTERS = "aabacbbcaaddcab"
"""Sessions of the messages of the log that most tests are about."""
LOG = Log(stream="LUCID_EVENTS", incarnation=1)
NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
SIGNER = Signer(generate_seed())
TRUSTED = KeyList().add(SIGNER.key, at=NOON - timedelta(days=1))


class Entry(NamedTuple):
    """A message of the log, as far as a checkpoint cares."""

    sequence: int
    session: str
    digest: Digest


class Stored(NamedTuple):
    """A message among the checkpoints."""

    headers: dict[str, str]
    body: bytes


def digest(text: str) -> Digest:
    """Return some digest."""
    return Digest(hashlib.sha256(text.encode()).hexdigest())


def a_log(sessions: str) -> list[Entry]:
    """Return a log with one message for each letter, of the session that the letter is."""
    return [Entry(n, letter, digest(f"{n} {letter}")) for n, letter in enumerate(sessions, 1)]


def witnessed(
    log: Sequence[Entry],
    *sizes: int,
    signer: Signer | None = SIGNER,
    incarnation: int = 1,
    behind: Sequence[Stored] = (),
) -> list[Stored]:
    """Return the checkpoints made when the log had these sizes, `behind` those that are there already."""
    made = list(behind)
    previous = decode_checkpoint(made[-1].body) if made else None
    for size in sizes:
        builder = CheckpointBuilder(Log(stream=LOG.stream, incarnation=incarnation), previous)
        for entry in log:
            if builder.sequence < entry.sequence <= size:
                builder.take(*entry)
        previous = builder.make(NOON + timedelta(minutes=size))
        made.append(Stored(sign_checkpoint(signer, previous.body), previous.body))
    return made


def judged(
    stored: Sequence[Stored],
    log: Sequence[Entry],
    *,
    keys: KeyList | None = TRUSTED,
    require_signature: bool = True,
    remembered: Checkpoint | None = None,
    incarnation: int = 1,
    cut_back: dict[int, int] | None = None,
) -> CheckpointCheck:
    """Return what is said of these checkpoints over this log."""
    check = CheckpointCheck(
        Log(stream=LOG.stream, incarnation=incarnation),
        cut_back=cut_back,
        keys=keys,
        require_signature=require_signature,
        remembered=remembered,
    )
    for place, one in enumerate(stored, 1):
        found = check.begin(place, one.headers, one.body, NOON + timedelta(days=1))
        if found is not None:
            _give(check, log, check.reach(found))
            check.end()
    _give(check, log, check.recall())
    check.finish()
    return check


def _give(check: CheckpointCheck, log: Sequence[Entry], upto: int) -> None:
    for entry in log:
        if check.sequence < entry.sequence <= upto:
            check.take(*entry)


def found(check: CheckpointCheck) -> list[tuple[What, str]]:
    """Return kinds and sessions of what differs."""
    return [(one.what, one.session) for one in check.differences]


def without(number: int) -> Callable[[list[Entry]], list[Entry]]:
    """Return what takes the message of that number out of a log."""
    return lambda log: [entry for entry in log if entry.sequence != number]


def kept_of(stored: Sequence[Stored], number: int) -> Checkpoint:
    """Return the checkpoint of that number, as somebody keeps it elsewhere."""
    return decode_checkpoint(stored[number - 1].body)
