"""The witness: makes checkpoints of the log while it grows, each on top of the one before.

Only what came since the last checkpoint is read, however long the log is. Several workers may do it:
the stream takes one of them. A log that lost messages goes on to be witnessed, holes named; one that
ends before its last checkpoint does not, loudly.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import aclosing
from typing import Final

import msgspec

from lucid_events.domain.ids import Digest
from lucid_events.errors import IntegrityError, LucidError, NotFound, VersionConflict
from lucid_events.evidence import chain
from lucid_events.evidence.bundle import Log
from lucid_events.evidence.checkpoint import (
    Checkpoint,
    CheckpointBuilder,
    check_signature,
    decode_checkpoint,
    sign_checkpoint,
)
from lucid_events.evidence.signing import Signer
from lucid_events.jetstream.checkpoints import JetStreamCheckpoints
from lucid_events.jetstream.connection import StoredMessage
from lucid_events.jetstream.pages import pages
from lucid_events.ports import Position
from lucid_events.service.adapters import Adapters
from lucid_events.service.keys import load_signer

_log = logging.getLogger(__name__)

LOOK_S: Final = 5.0
"""How often the log's end is looked at. Half asks twice as often for nothing, twice as much makes a
checkpoint that is due by events that much later."""
FORGED_MAX: Final = 100
"""Messages that are no checkpoints which are stepped over to find the last one."""
RACES_MAX: Final = 20
"""Races lost to other workers before it is left to them: each one lost is a checkpoint of theirs."""


class Made(msgspec.Struct, frozen=True):
    """The newest checkpoint, its place in its stream, and how many were made to get there."""

    checkpoint: Checkpoint
    place: int
    made: int


class Witness:
    """Makes checkpoints of one log.

    Args:
        adapters: where the log is.
        signer: gives the signer of now, so that a rotated seed is taken up; none: they are not signed.
        interval_s: a checkpoint is due when the last one is so old, if anything came since.
        messages: a checkpoint is due when so many messages came since.
    """

    def __init__(
        self,
        adapters: Adapters,
        signer: Callable[[], Signer | None],
        *,
        interval_s: float = 0,
        messages: int = 0,
    ) -> None:
        self._adapters, self._signer = adapters, signer
        self._interval_s, self._messages = interval_s, messages
        self._checkpoints = JetStreamCheckpoints(adapters.connection, adapters.subjects)
        self._stopping = asyncio.Event()
        self._told = ""

    def stop(self) -> None:
        """Let `run` end after what is in hand."""
        self._stopping.set()

    async def run(self) -> None:
        """Make checkpoints when they are due, until `stop`; what goes wrong is told and tried again."""
        while not self._stopping.is_set():
            try:
                if await self._due():
                    await self.checkpoint()
                self._told = ""
            except LucidError as exc:
                self._tell(exc)
            try:
                async with asyncio.timeout(min(LOOK_S, self._interval_s or LOOK_S)):
                    await self._stopping.wait()
            except TimeoutError:
                continue

    async def checkpoint(self) -> Made:
        """Bring the checkpoints up to the end of the log as of now, and return the newest.

        Raises:
            NotFound: the log is empty, or there is no stream of checkpoints.
            IntegrityError: the log ends before its last checkpoint, or has too many holes.
            StoreUnavailable, AppendUncertain, VersionConflict: try again.
        """
        position = await self._adapters.store.last_position()
        log = Log(stream=position.stream, incarnation=position.incarnation)
        made = lost = 0
        while True:
            last, kept, newest = await self.last()
            _refuse_cut(last, position)
            builder = CheckpointBuilder(log, last)
            await self._read(builder, position.sequence)
            if not builder.messages:
                if last is None:
                    raise NotFound(f"{log.stream} is empty: there is nothing to be witnessed")
                return Made(last, kept, made)
            fresh = builder.make(self._adapters.clock.now())
            try:
                place = await self._store(fresh, newest)
            except VersionConflict:
                lost += 1
                if lost == RACES_MAX:
                    raise
                continue  # another worker's is there now: go on from that
            made += 1
            _log.info(
                "checkpoint made",
                extra={"sequence": fresh.sequence, "count": builder.messages, "reason": f"{fresh.number}"},
            )
            if fresh.missing:
                first = fresh.missing[0]
                _log.error(
                    "the log lacks messages: verify it",
                    extra={
                        "sequence": first.first,
                        "count": sum(h.last - h.first + 1 for h in fresh.missing),
                    },
                )
            if fresh.sequence >= position.sequence:
                return Made(fresh, place, made)

    async def _due(self) -> bool:
        position = await self._adapters.store.last_position()
        last, _, _ = await self.last()
        if last is None or last.log != Log(stream=position.stream, incarnation=position.incarnation):
            return position.sequence > 0
        behind = position.sequence - last.sequence
        if behind < 0:
            return True  # making one says what is wrong
        age_s = (self._adapters.clock.now() - last.time).total_seconds()
        by_messages = bool(self._messages) and behind >= self._messages
        return bool(behind) and (by_messages or (bool(self._interval_s) and age_s >= self._interval_s))

    async def last(self) -> tuple[Checkpoint | None, int, int]:
        """Return the last checkpoint, its place, and the place of the last message, checkpoint or not."""
        found = await self._checkpoints.last()
        newest = found.sequence if found is not None else 0
        for _ in range(FORGED_MAX):
            if found is None:
                break
            try:
                if check_signature(found.headers, found.data) is not False:
                    return decode_checkpoint(found.data), found.sequence, newest
                reason = "its signature is wrong"
            except IntegrityError as exc:
                reason = exc.message
            _log.error(
                "a message among the checkpoints is none: who may write there?",
                extra={"sequence": found.sequence, "reason": reason},
            )
            found = await self._checkpoints.before(found.sequence)
        if found is not None:
            raise IntegrityError(
                f"the last {FORGED_MAX} messages of {self._checkpoints.stream} are no checkpoints"
            )
        return None, 0, newest

    async def _read(self, builder: CheckpointBuilder, upto: int) -> None:
        """Give the log behind the builder's sequence to it, until it is full or `upto` is reached."""
        first = builder.sequence + 1
        if first > upto:
            return
        adapters = self._adapters
        stream = adapters.subjects.events_stream
        found = pages(adapters.connection, stream, None, first=first, last=upto, known=upto)
        async with aclosing(found):
            async for page in found:
                for message in page:
                    if builder.full:
                        return
                    builder.take(message.sequence, session_of(message), digest_of(message))
                await asyncio.sleep(0)

    async def _store(self, fresh: Checkpoint, newest: int) -> int:
        body = fresh.body
        return await self._checkpoints.append(body, sign_checkpoint(self._signer(), body), expected=newest)

    def _tell(self, exc: LucidError) -> None:
        """Log what is wrong once, not at every look."""
        if exc.message != self._told:
            level = logging.WARNING if exc.retry else logging.ERROR
            _log.log(level, "no checkpoint could be made", extra={"reason": exc.message})
        self._told = exc.message


def witness(adapters: Adapters) -> Witness:
    """Return the witness that the settings ask for.

    Raises:
        ConfigError: the signing seed can't be read.
    """
    evidence = adapters.settings.evidence

    def signer() -> Signer | None:
        return load_signer(evidence.signing_seed) if evidence.signing_seed else None

    if signer() is None:
        _log.warning("checkpoints are not signed", extra={"reason": "LUCID_SIGNING_SEED is not set"})
    return Witness(
        adapters,
        signer,
        interval_s=evidence.checkpoint_interval_s,
        messages=evidence.checkpoint_messages,
    )


async def check_witnessed(adapters: Adapters, position: Position) -> None:
    """Compare the end of the log with its last checkpoint; a log that was never witnessed passes.

    Raises:
        IntegrityError: it ends before that: it was cut back, and would use sequences a second time.
    """
    try:
        last, _, _ = await Witness(adapters, lambda: None).last()
    except NotFound:
        return  # a server that was set up before there were checkpoints
    _refuse_cut(last, position)


def _refuse_cut(last: Checkpoint | None, position: Position) -> None:
    if last is None or last.log != Log(stream=position.stream, incarnation=position.incarnation):
        return
    if last.sequence > position.sequence:
        raise IntegrityError(
            f"{position.stream} ends at {position.sequence}, checkpoint {last.number} has seen it up to "
            f"{last.sequence}: it was cut back. Verify with `lucid audit checkpoints`, restore it from a "
            "backup, or raise its incarnation",
            expected=last.sequence,
            found=position.sequence,
        )


def session_of(message: StoredMessage) -> str:
    """Return whose history a message of the log stands on; of one on no session's subject, the subject."""
    tokens = message.subject.split(".", 3)
    return tokens[2] if len(tokens) > 3 else message.subject


def digest_of(message: StoredMessage) -> Digest:
    """Return the digest of a message of the log, event or not."""
    return chain.digest(message.subject, message.headers, message.data)
