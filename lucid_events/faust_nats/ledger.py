"""What an app has done so far, in one stream: committed offsets and the changelogs of its tables.

A commit is one atomic batch of both, so they cannot disagree. It is guarded by the offset records it
replaces: a worker that lost its partitions has its commit refused, whatever it still believes.
"""

import asyncio
import random
import secrets
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec
from faust.types import TP

from lucid_events.faust_nats.errors import (
    CommitInDoubt,
    Fenced,
    Refused,
    Unavailable,
    Unsupported,
    first_of,
)
from lucid_events.faust_nats.link import MAX_BATCH, STREAM_EXISTS, WRONG_SEQUENCE, Link, Outgoing
from lucid_events.faust_nats.protocol import EXPECT
from lucid_events.faust_nats.topology import Names

CLAIM_TRIES: Final = 50
CLAIMS_AT_ONCE: Final = 32
COMMIT_S: Final = 60.0
"""How long a commit is tried: a restarted server is back in seconds, and a worker that could not
commit for a minute has lost its session anyway."""
RETRY_FIRST_S, RETRY_MOST_S = 0.05, 1.0
AGAIN: Final = frozenset({10008, 10176, 10210, 10211})
"""Refusals after which nothing was stored and the same batch may be sent again: no leader yet, a part
of it went missing, too many batches open."""


class Offset(msgspec.Struct):
    """The offset to read next (0: nothing committed), who wrote it, and the id of that commit."""

    next: int
    generation: int
    member: str
    commit: str


class _Partitions(msgspec.Struct):
    partitions: int


_encode = msgspec.json.Encoder().encode
_read_offset = msgspec.json.Decoder(Offset).decode
_read_partitions = msgspec.json.Decoder(_Partitions).decode


class Ledger:
    """The state stream of one app, as the worker `member` of `generation` may write it."""

    def __init__(self, link: Link, names: Names, member: str) -> None:
        self._link, self._names, self._member = link, names, member
        self._generation = 0
        self._revisions: dict[TP, int] = {}
        self.offsets: dict[TP, int] = {}

    async def create(self, replicas: int) -> None:
        """Create the state stream unless it is there."""
        config = {
            "name": self._names.state_stream,
            "subjects": self._names.state_subjects,
            "max_msgs_per_subject": 1,
            "num_replicas": replicas,
            "storage": "file",
            "allow_atomic": True,
            "allow_direct": True,
            "allow_msg_ttl": True,
        }
        try:
            await self._link.api(f"STREAM.CREATE.{self._names.state_stream}", config)
        except Refused as exc:
            if exc.err_code != STREAM_EXISTS:
                raise

    async def hold_partitions(self, topic: str, partitions: int) -> None:
        """Note the number of partitions the state is written with.

        Raises:
            Unsupported: it was another number before: keys would be looked for in the wrong place.
        """
        subject, stream = self._names.topic_record(topic), self._names.state_stream
        while True:
            record = await self._link.last(stream, subject)
            if record is not None:
                before = _read_partitions(record.data).partitions
                if before == partitions:
                    return
                raise Unsupported(
                    f"topic {topic!r} has {partitions} partitions, the state in {stream} was written with "
                    f"{before}: go back to {before}, or give the app a new version, to start afresh"
                )
            try:
                await (await self._link.publish(subject, _encode(_Partitions(partitions)), {EXPECT: "0"}))
            except Refused as exc:
                if exc.err_code not in WRONG_SEQUENCE:
                    raise

    async def claim(self, tps: Iterable[TP], generation: int) -> None:
        """Take `tps` over: from now on every commit of an earlier owner is refused.

        Raises:
            Fenced: a later generation owns one of them.
        """
        self._generation = generation
        self.offsets.clear()
        self._revisions.clear()
        at_once = asyncio.Semaphore(CLAIMS_AT_ONCE)

        async def one(tp: TP) -> None:
            async with at_once:
                await self._claim(tp)

        try:
            async with asyncio.TaskGroup() as tasks:
                for tp in tps:
                    tasks.create_task(one(tp))
        except BaseExceptionGroup as group:
            raise first_of(group) from group

    async def _claim(self, tp: TP) -> None:
        subject, mark = self._names.offset(*tp), secrets.token_hex(8)
        for _ in range(CLAIM_TRIES):
            record = await self._link.last(self._names.state_stream, subject)
            found = _read_offset(record.data) if record is not None else None
            if record is not None and found is not None and found.commit == mark:
                self._revisions[tp], self.offsets[tp] = record.sequence, found.next
                return
            if found is not None and found.generation > self._generation:
                raise Fenced(f"{tp}: generation {found.generation} owns it, this is {self._generation}")
            going_on = found.next if found is not None else 0
            guard = {EXPECT: str(record.sequence if record is not None else 0)}
            data = _encode(Offset(going_on, self._generation, self._member, mark))
            try:
                ack = await (await self._link.publish(subject, data, guard))
            except Refused as exc:
                # An earlier attempt of this very publish, or a commit of the last owner, came first.
                if exc.err_code not in WRONG_SEQUENCE:
                    raise
                continue
            self._revisions[tp], self.offsets[tp] = ack.seq, going_on
            return
        raise Unavailable(f"{tp}: its last owner commits faster than it can be taken over")

    async def commit(self, offsets: Mapping[TP, int], entries: Sequence[Outgoing] = ()) -> int:
        """Store `offsets` and `entries` together; returns the sequence of the first entry.

        Raises:
            Fenced: another worker owns one of the partitions; nothing was stored.
            CommitInDoubt: the server could not be asked within `COMMIT_S`.
            Unsupported: more than the server takes at once; the caller cuts before.
        """
        if len(offsets) + len(entries) > MAX_BATCH:
            raise Unsupported(f"{len(entries)} keys in one commit: at most {MAX_BATCH - len(offsets)} fit")
        strange = [tp for tp in offsets if tp not in self._revisions]
        if strange:
            raise Fenced(f"{strange[0]} is not this worker's to commit")
        mark = secrets.token_hex(8)
        guarded = [self._guarded(tp, offset, mark) for tp, offset in offsets.items()]
        first = await self._store([*guarded, *entries], tuple(offsets), mark)
        for number, (tp, offset) in enumerate(offsets.items()):
            self._revisions[tp], self.offsets[tp] = first + number, offset
        return first + len(offsets)

    def _guarded(self, tp: TP, offset: int, mark: str) -> Outgoing:
        data = _encode(Offset(offset, self._generation, self._member, mark))
        return Outgoing(self._names.offset(*tp), data, {EXPECT: str(self._revisions[tp])})

    async def _store(self, messages: Sequence[Outgoing], tps: Sequence[TP], mark: str) -> int:
        """Store the batch once, whatever becomes of replies; returns the sequence of its first message.

        The batch begins with the offset records of `tps`.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + COMMIT_S
        pause = RETRY_FIRST_S
        while True:
            why: Exception
            try:
                ack = await self._link.batch(messages)
            except Refused as exc:
                if exc.err_code not in WRONG_SEQUENCE and exc.err_code not in AGAIN:
                    raise
                why = exc
            except (CommitInDoubt, Unavailable) as exc:
                why = exc
            else:
                return ack.seq - len(messages) + 1
            refused = isinstance(why, Refused) and why.err_code in WRONG_SEQUENCE
            try:
                settled = await self._settled(tps, mark, refused=refused)
            except Unavailable:
                settled = None
            if settled is not None:
                return settled
            if loop.time() + pause > deadline:
                raise CommitInDoubt(f"a commit could not be settled within {COMMIT_S:g} s: {why}") from why
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, RETRY_MOST_S)

    async def _settled(self, tps: Sequence[TP], mark: str, *, refused: bool) -> int | None:
        """Return where the batch `mark` begins if it was stored, None when it may be sent again."""
        first = await self._link.last(self._names.state_stream, self._names.offset(*tps[0]))
        if first is not None and _read_offset(first.data).commit == mark:
            return first.sequence
        changed = first is not None and first.sequence != self._revisions[tps[0]]
        if refused or changed:
            raise await self._lost(tps)
        return None

    async def _lost(self, tps: Sequence[TP]) -> Fenced:
        """Return the error that names the partition another worker took, and that worker."""
        for tp in tps:
            record = await self._link.last(self._names.state_stream, self._names.offset(*tp))
            if record is None:
                # A claimed partition has a record.
                return Fenced(f"the offset record of {tp} is gone: somebody deleted the app's state")
            if record.sequence != self._revisions[tp]:
                found = _read_offset(record.data)
                return Fenced(
                    f"{tp} belongs to {found.member} of generation {found.generation} now, "
                    f"this is {self._member} of generation {self._generation}: restart this worker"
                )
        return Fenced(
            f"a commit of {self._member} of generation {self._generation} was refused, though its "
            f"{len(tps)} partitions are its own: restart this worker"
        )
