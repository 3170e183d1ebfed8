"""`lucid audit verify`: one session checked against everything it says of itself, from the stored bytes.

    history   every link, every transition, every manifest and signature      evidence/histories.py
    chunks    object, its metadata, both digests, measured in threads         evidence/chunks.py
    erased    of a destroyed session, that every object is gone               service/erased.py

The history is read twice, first to judge it, then for its chunks, so memory does not grow with the
recording: a page of events and a few pieces of `PARALLEL` chunks. Reads only; writes nothing.
"""

import asyncio
import hashlib
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from datetime import datetime

import msgspec

from lucid_events.compression.measuring import Measurer
from lucid_events.domain import events as ev
from lucid_events.domain.codecs import check_codec
from lucid_events.domain.envelope import Recorded, Stray
from lucid_events.domain.ids import SESSION_ID, SessionId, Version
from lucid_events.domain.state import Erasure
from lucid_events.domain.transitions import ERASING, State
from lucid_events.errors import ConfigError, ContractError, IntegrityError, NotFound
from lucid_events.evidence.chunks import (
    BUCKET,
    MeasuredChunk,
    ObjectFacts,
    compare_bytes,
    compare_object,
    difference,
)
from lucid_events.evidence.differences import Difference, Remark, What
from lucid_events.evidence.histories import HistoryCheck, KnownHead, Signed
from lucid_events.evidence.keys import KeyList
from lucid_events.ports import BlobStore, EventStore
from lucid_events.service.erased import is_there, objects_left, tolerate_no_bucket

PARALLEL = 4
"""Chunks in work at once: two in the threads of two cores, two on their way from the server, so that a
thread finds the next one there. Half leaves threads idle, twice only holds more."""

Progress = Callable[[int], None]
"""Told how many more raw bytes have been checked."""


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """Which chunks are looked at: a `fraction` of them, chosen by `seed`, the same ones every time."""

    fraction: float
    seed: str

    def chooses(self, session: SessionId, index: int) -> bool:
        """Return whether the chunk is in the sample; nothing has to be remembered for that."""
        drawn = hashlib.sha256(f"{self.seed}/{session}/{index}".encode()).digest()
        return int.from_bytes(drawn[:8], "big") < self.fraction * 2**64


EVERYTHING = Sample(fraction=1.0, seed="")


class SessionReport(msgspec.Struct, frozen=True, kw_only=True):
    """What came of verifying one session, as of `version`.

    `chunks` were checked of `ready` that there are; `erased` have no object any more, as the history
    says, and `erasure` says by whom or by which policy, and when. `differences` are the first ones of
    `found`, of which `missing` are objects that are not there and `left` those that an erasure left.
    """

    session: SessionId
    holds: bool
    state: State | None
    version: int
    head: str
    events: int
    strays: int
    ready: int
    chunks: int
    erased: int
    erasure: Erasure | None
    raw_bytes: int
    stored_bytes: int
    signature: Signed
    found: int
    missing: int = 0
    left: int = 0
    differences: tuple[Difference, ...]
    remarks: tuple[Remark, ...]


class Unreadable(msgspec.Struct, frozen=True):
    """A message of a history that has an event's headers and can't be decoded."""

    sequence: int
    reason: str


class _Counts:
    """Chunks and bytes of one session so far."""

    def __init__(self) -> None:
        self.chunks = self.erased = self.missing = self.left = self.raw = self.stored = 0


class Verifier:
    """Verifies sessions; one for any number of them.

    Args:
        store: the histories.
        bucket: gives the object store of a name.
        chunks: where chunks are stored now: an object that was never said to be ready is looked for there
            when its session was erased; None: it is not.
        measurer: makes the digests; its workers are how many cores are used.
        keys: whose signatures are believed; None: nobody's in particular.
        require_signature: a session that has ended without a trusted signature does not hold.
        sample: which chunks are looked at; a history is always checked whole.
        allow_strays: messages in a history that are no events are no differences.
        progress: told of bytes as they are checked.
    """

    def __init__(
        self,
        store: EventStore,
        bucket: Callable[[str], BlobStore],
        measurer: Measurer,
        *,
        chunks: BlobStore | None = None,
        keys: KeyList | None = None,
        require_signature: bool = False,
        sample: Sample = EVERYTHING,
        allow_strays: bool = False,
        progress: Progress = lambda _: None,
    ) -> None:
        self._store, self._bucket, self._measurer, self._chunks = store, bucket, measurer, chunks
        self._allow_strays = allow_strays
        self._keys, self._require_signature = keys, require_signature
        self._sample, self._progress = sample, progress

    async def history(self, session: SessionId, heads: Sequence[KnownHead] = ()) -> HistoryCheck:
        """Return the history, judged from its first message to its last as of now.

        Args:
            heads: what other places remember, read before this call.

        Raises:
            NotFound: there is no such session, and no other place remembers one.
            StoreUnavailable: it could not be read; nothing is said about it.
        """
        check = HistoryCheck(session, keys=self._keys, heads=heads, allow_strays=self._allow_strays)
        version = await self._store.version(session)
        if not version and not heads:
            raise NotFound(f"there is no session {session}", session=session)
        async with aclosing(self._messages(session, version)) as messages:
            async for message in messages:
                if isinstance(message, Unreadable):
                    check.take_unreadable(message.sequence, message.reason)
                else:
                    check.take(message)
        check.end(require_signature=self._require_signature)
        return check

    async def verify(self, session: SessionId, heads: Sequence[KnownHead] = ()) -> SessionReport:
        """Check the history, then every chunk of the sample that it says is ready.

        Raises:
            NotFound, StoreUnavailable: as `history`.
        """
        check = await self.history(session, heads)
        return await self.chunks(check)

    async def chunks(self, check: HistoryCheck) -> SessionReport:
        """Check the chunks of a history that was judged, and return what came of both.

        Raises:
            StoreUnavailable: a chunk could not be read; nothing is said about it.
            ConfigError: this login may not read it; nothing is said about it.
        """
        session, counts = check.state.id, _Counts()
        if check.state.state not in ERASING:
            await self._check_chunks(check, counts)
        else:
            counts.erased = check.state.ready_chunks
        if check.state.state is State.DESTROYED:
            await self._check_erased(check, counts)
        return SessionReport(
            session=session,
            holds=check.holds,
            state=check.state.state,
            version=check.version,
            head=check.head or "",
            events=check.events,
            strays=check.strays,
            ready=check.state.ready_chunks,
            chunks=counts.chunks,
            erased=counts.erased,
            erasure=check.state.erasure,
            raw_bytes=counts.raw,
            stored_bytes=counts.stored,
            signature=check.signed,
            found=check.found,
            missing=counts.missing,
            left=counts.left,
            differences=tuple(check.differences),
            remarks=tuple(check.remarks),
        )

    async def _check_chunks(self, check: HistoryCheck, counts: _Counts) -> None:
        """Check chunks beside each other; what is found is told in the order of the history."""
        session, standing = check.state.id, True
        ahead: deque[tuple[ev.ChunkReady, asyncio.Task[Difference | None]]] = deque()
        try:
            async with aclosing(self._messages(session, check.version)) as messages:
                async for message in messages:
                    event = message.event if isinstance(message, Recorded) else None
                    if not isinstance(event, ev.ChunkReady) or not self._sample.chooses(session, event.index):
                        continue
                    if not standing:
                        continue  # the history is read to its end, which is soon
                    ahead.append((event, asyncio.create_task(self._chunk(session, event))))
                    if len(ahead) == PARALLEL:
                        standing = await self._settle(check, counts, *ahead.popleft())
            while ahead and standing:
                standing = await self._settle(check, counts, *ahead.popleft())
        finally:
            for _, task in ahead:
                task.cancel()
            await asyncio.gather(*(task for _, task in ahead), return_exceptions=True)

    async def _settle(
        self,
        check: HistoryCheck,
        counts: _Counts,
        ready: ev.ChunkReady,
        task: asyncio.Task[Difference | None],
    ) -> bool:
        """Count one chunk; False when the session began to be erased meanwhile."""
        try:
            found = await task
        finally:
            task.cancel()  # when we are cancelled while it runs: nobody else has it any more
        if found is not None and found.what is What.OBJECT_MISSING:
            if ready.index < check.erased_below:
                counts.erased += 1
                return True
            if await self._erased_since(check.state.id, check.version):
                check.remark("was erased while it was verified: its chunks were not checked to the end")
                return False
        counts.chunks += 1
        if found is not None:
            check.add(found)
            counts.missing += found.what is What.OBJECT_MISSING
        else:
            counts.raw += ready.size
            counts.stored += ready.stored_size
        self._progress(ready.size)
        return True

    async def _chunk(self, session: SessionId, ready: ev.ChunkReady) -> Difference | None:
        """Return the first difference of one chunk."""
        try:
            check_codec(ready.codec)
        except ConfigError as exc:
            return difference(What.CHUNK_BYTES, session, ready, exc.message)
        if BUCKET.fullmatch(ready.bucket) is None:
            return difference(What.OBJECT_MISSING, session, ready, "what its event names is no bucket")
        bucket, about = self._bucket(ready.bucket), None
        try:
            about = await bucket.info(ready.object)
            facts = None
            if about is not None:
                facts = ObjectFacts(size=about.size, digest=about.digest, metadata=about.metadata)
            outside = compare_object(session, ready, facts)
            if about is None:
                return outside
            measured = await self._measurer.measure(
                bucket.stream(ready.object, verify=False), ready.codec, size=ready.size
            )
        except NotFound:
            return compare_object(session, ready, None)
        except IntegrityError as exc:
            if about is not None and not await is_there(bucket, ready.object):
                return compare_object(session, ready, None)  # deleted while it was read
            return difference(What.OBJECT_BYTES, session, ready, exc.message)
        except ConfigError as exc:
            tolerate_no_bucket(exc)
            return compare_object(session, ready, None)
        return outside or compare_bytes(session, ready, MeasuredChunk(**msgspec.structs.asdict(measured)))

    async def _check_erased(self, check: HistoryCheck, counts: _Counts) -> None:
        """Note every object of the sample's chunks that an erasure left."""
        session = check.state.id
        async with aclosing(self._messages(session, check.version)) as messages:
            found = objects_left(
                messages,
                check.state,
                self._bucket,
                chunks=self._chunks,
                chooses=lambda index: self._sample.chooses(session, index),
            )
            async for one in found:
                check.add(one)
                counts.left += 1

    async def _erased_since(self, session: SessionId, version: int) -> bool:
        async with aclosing(self._messages(session, await self._store.version(session), version)) as messages:
            async for message in messages:
                if isinstance(message, Recorded) and isinstance(message.event, ev.SessionCleanupStarted):
                    return True
        return False

    async def _messages(
        self, session: SessionId, upto: int, after: int = 0
    ) -> AsyncGenerator[Recorded | Stray | Unreadable, None]:
        """Yield the history behind `after` up to `upto`, going on behind what can't be decoded."""
        while after < upto:
            try:
                async for message in self._store.read(session, after=Version(after), upto=upto):
                    after = int(message.sequence)
                    yield message
                return
            except ContractError as exc:
                after = _place(exc)
                yield Unreadable(after, exc.message)


async def all_sessions(
    store: EventStore, *, since: datetime | None = None
) -> AsyncIterator[SessionId | Stray]:
    """Yield every session that has a message in the log, or one stored since, as it first comes up.

    Read from the log itself: a session that is missing in an index would never be looked at. What
    stands on no session's subject is yielded as the stray that it is. Remembers 64 bits a session.
    """
    seen: set[int] = set()
    after, end = 0, (await store.last_position()).sequence
    while after < end:
        try:
            async for message in store.replay(after=after, upto=end, since=since):
                after, since = int(message.sequence), None
                if SESSION_ID.fullmatch(message.session) is None or _is_beside(message):
                    if isinstance(message, Stray):
                        yield message
                elif hash(message.session) not in seen:
                    seen.add(hash(message.session))
                    yield message.session
            return
        except ContractError as exc:
            after, since = _place(exc), None
            name = str(exc.fields.get("subject", "")).split(".", 3)[2:3]
            for session in name:
                if SESSION_ID.fullmatch(session) and hash(session) not in seen:
                    seen.add(hash(session))
                    yield SessionId(session)


def _is_beside(message: Recorded | Stray) -> bool:
    """Return whether a stray stands beside all histories: on `<prefix>.evt.<session>` and nothing more."""
    return isinstance(message, Stray) and message.subject.count(".") < 3


def _place(exc: ContractError) -> int:
    sequence = exc.fields.get("sequence")
    if not isinstance(sequence, int):
        raise exc
    return sequence
