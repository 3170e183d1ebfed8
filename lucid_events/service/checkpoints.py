"""`lucid audit checkpoints`: every checkpoint against the one before it and against the log as it is now."""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import aclosing
from datetime import datetime
from pathlib import Path

import msgspec

from lucid_events.durable_files import write_whole
from lucid_events.errors import ConfigError, IntegrityError
from lucid_events.evidence import bundle
from lucid_events.evidence.bundle import Line, Log
from lucid_events.evidence.checkpoint import KEY, Checkpoint, check_signature, decode_checkpoint
from lucid_events.evidence.checkpoint_check import CheckpointCheck
from lucid_events.evidence.differences import Difference, Remark
from lucid_events.evidence.keys import KeyList
from lucid_events.jetstream.checkpoints import JetStreamCheckpoints
from lucid_events.jetstream.connection import StoredMessage
from lucid_events.jetstream.pages import pages
from lucid_events.service.adapters import Adapters
from lucid_events.service.witnessing import digest_of, session_of


class Listed(msgspec.Struct, frozen=True, kw_only=True):
    """One checkpoint as a list shows it: without its edge, its proof and its sessions."""

    number: int
    place: int
    time: datetime
    incarnation: int
    sequence: int
    size: int
    sessions: int
    root: str
    digest: str
    key: str
    holds: bool


class CheckpointsReport(msgspec.Struct, frozen=True, kw_only=True):
    """What came of checking all checkpoints; `uncovered` messages of the log came behind the last."""

    holds: bool
    checkpoints: int
    unsigned: int
    sequence: int
    uncovered: int
    found: int
    differences: tuple[Difference, ...]
    remarks: tuple[Remark, ...] = ()


Told = Callable[[Listed], None]


async def verify_checkpoints(
    adapters: Adapters,
    *,
    keys: KeyList | None = None,
    require_signature: bool = False,
    remembered: Checkpoint | None = None,
    cut_back: Mapping[int, int] | None = None,
    stream: str = "",
    told: Told = lambda _: None,
) -> CheckpointsReport:
    """Check every checkpoint, and the whole log against them; reads only.

    Those of earlier incarnations are compared with the log of now, too: the log is read once for each.

    Args:
        adapters: where log and checkpoints are.
        keys: whose signatures are believed; None: nobody's in particular.
        require_signature: a checkpoint without a trusted signature does not hold.
        remembered: a checkpoint kept elsewhere, which has to be among them and fit the log.
        cut_back: incarnation -> sequence the log stood at when that began with a log cut back, as by a
            restore: what earlier checkpoints have seen behind that is not missed.
        stream: where the checkpoints are read, when it is a mirror.
        told: called with each checkpoint, in order.

    Raises:
        ConfigError: the log never had an incarnation that `cut_back` names, or it is its first.
        NotFound: there is no such stream of checkpoints.
        StoreUnavailable: it could not be read to the end; nothing is said about it.
    """
    position = await adapters.store.last_position()
    log = Log(stream=position.stream, incarnation=position.incarnation)
    for began in cut_back or {}:
        if not 2 <= began <= log.incarnation:
            raise ConfigError(
                f"no incarnation {began} began with a log cut back: {log.stream} is of {log.incarnation} "
                "now, and the first began empty"
            )
    check = CheckpointCheck(
        log, cut_back=cut_back, keys=keys, require_signature=require_signature, remembered=remembered
    )
    checkpoints = JetStreamCheckpoints(adapters.connection, adapters.subjects, stream)
    async with aclosing(checkpoints.all()) as messages:
        async for message in messages:
            before = check.found
            found = check.begin(message.sequence, message.headers, message.data, message.stored_at)
            if found is None:
                continue
            await _give(adapters, check, min(check.reach(found), position.sequence))
            check.end()
            told(_listed(message, found, holds=check.found == before))
    await _give(adapters, check, min(check.recall(), position.sequence))
    check.finish()
    covered = check.reach(check.last) if check.last is not None else 0
    return CheckpointsReport(
        holds=check.holds,
        checkpoints=check.checkpoints,
        unsigned=check.unsigned,
        sequence=covered,
        uncovered=max(position.sequence - covered, 0),
        found=check.found,
        differences=tuple(check.differences),
        remarks=tuple(check.remarks),
    )


BEGINNING = b'{"sequence":'
"""Of every file a checkpoint is kept in; what begins otherwise was never one."""


def load_checkpoint(path: Path) -> Checkpoint:
    """Return the checkpoint that was kept in a file.

    Raises:
        ConfigError: it can't be read, or is another kind of file.
        IntegrityError: it is a damaged checkpoint, or not what its signature was made for.
    """
    try:
        text = path.read_bytes()
    except OSError as exc:
        raise ConfigError(f"the checkpoint {path} can't be read: {exc.strerror}") from exc
    if not text.startswith(BEGINNING):
        raise ConfigError(f"{path} is no checkpoint: `lucid audit checkpoint -o FILE` makes such files")
    try:
        message = bundle.decoded(text, Line).message()
        found = decode_checkpoint(message.data)
    except IntegrityError as exc:
        raise IntegrityError(f"{path} {exc.message}", file=str(path)) from exc
    if check_signature(message.headers, message.data) is False:
        raise IntegrityError(f"{path} is not what its signature was made for", file=str(path))
    return found


async def keep_checkpoint(adapters: Adapters, place: int, path: Path) -> None:
    """Write the checkpoint at `place` of its stream to a file: one line of JSON, as bundles have them.

    Raises:
        ConfigError: the file can't be written.
        IntegrityError: there is none at that place any more.
    """
    stream = adapters.subjects.checkpoints_stream
    found = await adapters.connection.leader_get(stream, seq=place)
    if found is None:
        raise IntegrityError(f"{stream} has no message {place} any more", sequence=place)
    try:
        await asyncio.to_thread(write_whole, path, bundle.encoded(bundle.line_of(found)))
    except OSError as exc:
        raise ConfigError(f"can't write {path}: {exc.strerror}") from exc


async def _give(adapters: Adapters, check: CheckpointCheck, upto: int) -> None:
    """Give the log behind what was taken so far to `check`, up to sequence `upto`."""
    first = check.sequence + 1
    if first > upto:
        return
    stream = adapters.subjects.events_stream
    found = pages(adapters.connection, stream, None, first=first, last=upto, known=upto)
    async with aclosing(found):
        async for page in found:
            for message in page:
                check.take(message.sequence, session_of(message), digest_of(message))


def _listed(message: StoredMessage, found: Checkpoint, *, holds: bool) -> Listed:
    return Listed(
        number=found.number,
        place=message.sequence,
        time=found.time,
        incarnation=found.log.incarnation,
        sequence=found.sequence,
        size=found.size,
        sessions=len(found.sessions),
        root=found.root,
        digest=found.digest,
        key=message.headers.get(KEY, ""),
        holds=holds,
    )
