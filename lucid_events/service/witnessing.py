"""The witness: makes checkpoints of the log while it grows, each on top of the one before.

Only what came since the last checkpoint is read, however long the log is. Several workers may do it:
the stream takes one of them. A log that lost messages goes on to be witnessed, holes named; one that
ends before its last checkpoint does not, loudly.

Who signs goes on from what a trusted key has signed and steps over the rest: anybody's checkpoint is well
formed, and would become the ground that the signed ones stand on. When nothing is signed yet, as where the
seed was set later, the newest that the log itself bears out is taken: for that it is read once.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import aclosing, suppress
from typing import Final, NamedTuple

import msgspec

from lucid_events.domain.ids import Digest
from lucid_events.errors import ConfigError, IntegrityError, LucidError, NotFound, VersionConflict
from lucid_events.evidence import chain
from lucid_events.evidence.bundle import Log
from lucid_events.evidence.checkpoint import (
    KEY,
    Checkpoint,
    CheckpointBuilder,
    check_signature,
    decode_checkpoint,
    sign_checkpoint,
)
from lucid_events.evidence.keys import KeyList
from lucid_events.evidence.merkle import MerkleTree
from lucid_events.evidence.signing import Signer
from lucid_events.jetstream.checkpoints import JetStreamCheckpoints
from lucid_events.jetstream.connection import StoredMessage
from lucid_events.jetstream.pages import pages
from lucid_events.ports import Position
from lucid_events.service.adapters import Adapters
from lucid_events.service.keys import load_signer, trusted_keys

_log = logging.getLogger(__name__)

LOOK_S: Final = 5.0
"""How often the log's end is looked at. Half asks twice as often for nothing, twice as much makes a
checkpoint that is due by events that much later."""
FORGED_MAX: Final = 100
"""Messages that are no checkpoints, or of nobody who is trusted, stepped over to find the last one."""
RACES_MAX: Final = 20
"""Races lost to other workers before it is left to them: each one lost is a checkpoint of theirs."""


class Standing(NamedTuple):
    """A checkpoint and its place in its stream."""

    checkpoint: Checkpoint
    place: int


class Last(NamedTuple):
    """The last checkpoint that is believed, and the place of the last message, checkpoint or not.

    `doubtful` are well formed ones, newest first, that no trusted key has signed: all of the stream, or
    the newest `FORGED_MAX` messages of it (`deeper`), when no other was found.
    """

    standing: Standing | None
    newest: int
    doubtful: tuple[Standing, ...] = ()
    deeper: bool = False


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
        keys: gives the keys that are believed besides the signer's own. Without them and without a signer
            every checkpoint is believed whose signature, if it has one, is right.
        interval_s: a checkpoint is due when the last one is so old, if anything came since.
        messages: a checkpoint is due when so many messages came since.
    """

    def __init__(
        self,
        adapters: Adapters,
        signer: Callable[[], Signer | None],
        *,
        keys: Callable[[], KeyList | None] = lambda: None,
        interval_s: float = 0,
        messages: int = 0,
    ) -> None:
        self._adapters, self._signer, self._keys = adapters, signer, keys
        self._interval_s, self._messages = interval_s, messages
        self._checkpoints = JetStreamCheckpoints(adapters.connection, adapters.subjects)
        self._stopping = asyncio.Event()
        self._told = ""
        self._told_of: set[tuple[str, int]] = set()
        self._borne_out = ""
        """Digest of the unsigned checkpoint that was found to fit the log."""

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
            found = await self.last()
            standing = found.standing or await self._fitting(found, log, position.sequence)
            last = standing.checkpoint if standing is not None else None
            _refuse_cut(last, position)
            builder = CheckpointBuilder(log, last)
            await self._read(builder, position.sequence)
            if not builder.messages:
                if standing is None:
                    raise NotFound(f"{log.stream} is empty: there is nothing to be witnessed")
                return Made(standing.checkpoint, standing.place, made)
            fresh = builder.make(self._adapters.clock.now())
            try:
                place = await self._store(fresh, found.newest)
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
        standing = (await self.last()).standing
        last = standing.checkpoint if standing is not None else None
        if last is None or last.log != Log(stream=position.stream, incarnation=position.incarnation):
            return position.sequence > 0
        behind = position.sequence - last.sequence
        if behind < 0:
            return True  # making one says what is wrong
        age_s = (self._adapters.clock.now() - last.time).total_seconds()
        by_messages = bool(self._messages) and behind >= self._messages
        return bool(behind) and (by_messages or (bool(self._interval_s) and age_s >= self._interval_s))

    async def last(self) -> Last:
        """Return the last checkpoint that is believed; what is stepped over to find it is told.

        Raises:
            NotFound: there is no stream of checkpoints.
            IntegrityError: the newest `FORGED_MAX` messages are no checkpoints.
            ConfigError: the seed, or the list of keys, can't be read.
        """
        signer, keys = self._signer(), self._keys()
        message = await self._checkpoints.last()
        newest = message.sequence if message is not None else 0
        doubtful: list[Standing] = []
        for _ in range(FORGED_MAX):
            if message is None:
                break
            place = message.sequence
            try:
                standing = Standing(_checked(message), place)
            except IntegrityError as exc:
                what = "a message among the checkpoints is none: who may write there?"
                self._tell_once(logging.ERROR, what, place, exc.message)
            else:
                if standing.checkpoint.digest == self._borne_out or _believed(message, signer, keys):
                    return Last(standing, newest)
                doubtful.append(standing)
                what = "a checkpoint is signed by nobody who is trusted: stepped over"
                self._tell_once(logging.WARNING, what, place, message.headers.get(KEY, "unsigned"))
            message = await self._checkpoints.before(place)
        deeper = message is not None
        if deeper and not doubtful:
            raise IntegrityError(
                f"the last {FORGED_MAX} messages of {self._checkpoints.stream} are no checkpoints"
            )
        if doubtful and signer is None and not deeper:  # none is signed: the list is of others' keys
            return Last(doubtful[0], newest)
        return Last(None, newest, tuple(doubtful), deeper)

    async def _fitting(self, found: Last, log: Log, end: int) -> Standing | None:
        """Return the newest of the doubtful checkpoints that the log bears out; None when none is there.

        Of an earlier incarnation only number and digest are gone on from, so the newest will do.

        Raises:
            IntegrityError: none of those looked at does, and there are more before them.
        """
        logs = [(one, one.checkpoint.log) for one in found.doubtful]
        chosen = await self._borne_out_by_log(
            [one for one, its in logs if its == log and one.checkpoint.sequence <= end]
        ) or next((one for one, its in logs if its.incarnation < log.incarnation), None)
        if chosen is None and found.deeper:
            raise IntegrityError(
                f"the last {FORGED_MAX} messages of {self._checkpoints.stream} are signed by nobody who is "
                "trusted, and do not fit the log: who may write there?"
            )
        if chosen is not None:
            self._borne_out = chosen.checkpoint.digest
            what = "going on from a checkpoint that no trusted key has signed"
            self._tell_once(logging.WARNING, what, chosen.place, "it fits the log")
        elif found.doubtful:
            _log.error("no checkpoint is signed by a trusted key or fits the log: beginning anew")
        return chosen

    async def _borne_out_by_log(self, candidates: Sequence[Standing]) -> Standing | None:
        tree, fits = MerkleTree(), None
        left = sorted(candidates, key=lambda one: one.checkpoint.sequence)
        if not left:
            return None
        adapters, upto = self._adapters, left[-1].checkpoint.sequence
        stream = adapters.subjects.events_stream
        found = pages(adapters.connection, stream, None, first=1, last=upto, known=upto)

        def judge(coming: int) -> None:
            nonlocal fits
            while left and left[0].checkpoint.sequence < coming:
                one = left.pop(0)
                if (one.checkpoint.size, one.checkpoint.root) == (tree.size, tree.root):
                    fits = one

        async with aclosing(found):
            async for page in found:
                for message in page:
                    judge(message.sequence)
                    tree.add(digest_of(message))
                await asyncio.sleep(0)
        judge(upto + 1)
        return fits

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

    def _tell_once(self, level: int, what: str, place: int, reason: str) -> None:
        """Log a message that is stepped over, at the first look at it."""
        if (what, place) not in self._told_of:
            self._told_of.add((what, place))
            _log.log(level, what, extra={"sequence": place, "reason": reason})

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
        # Who does not sign goes on from what nobody signed: that is their own.
        keys=lambda: trusted_keys(evidence) if evidence.signing_seed else None,
        interval_s=evidence.checkpoint_interval_s,
        messages=evidence.checkpoint_messages,
    )


async def check_witnessed(adapters: Adapters, position: Position) -> None:
    """Compare the end of the log with its last checkpoint; a log that was never witnessed passes.

    Raises:
        IntegrityError: it ends before that: it was cut back, and would use sequences a second time.
    """
    evidence = adapters.settings.evidence

    signer, keys = None, None
    # What can't be read is told by those who need it; not every process that starts has to sign.
    with suppress(ConfigError):
        signer = load_signer(evidence.signing_seed) if evidence.signing_seed else None
    with suppress(ConfigError):
        keys = trusted_keys(evidence)
    try:
        found = await Witness(adapters, lambda: signer, keys=lambda: keys).last()
    except NotFound:
        return  # a server that was set up before there were checkpoints
    _refuse_cut(found.standing.checkpoint if found.standing is not None else None, position)


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


def _checked(message: StoredMessage) -> Checkpoint:
    """Return the checkpoint in a message.

    Raises:
        IntegrityError: it is none, or not what its signature was made for.
    """
    if check_signature(message.headers, message.data) is False:
        raise IntegrityError("its signature is wrong")
    return decode_checkpoint(message.data)


def _believed(message: StoredMessage, signer: Signer | None, keys: KeyList | None) -> bool:
    """Return whether the signature, which is right if there is one, is of somebody who is trusted."""
    if signer is None and keys is None:
        return True
    key = message.headers.get(KEY, "")
    if signer is not None and key == signer.key:
        return True
    known = keys.find(key) if keys is not None else None
    return known is not None and known.valid_at(message.stored_at)


def session_of(message: StoredMessage) -> str:
    """Return whose history a message of the log stands on; of one on no session's subject, the subject."""
    tokens = message.subject.split(".", 3)
    return tokens[2] if len(tokens) > 3 else message.subject


def digest_of(message: StoredMessage) -> Digest:
    """Return the digest of a message of the log, event or not."""
    return chain.digest(message.subject, message.headers, message.data)
