"""Objects in a bucket that no history knows: left by a crash, put there by somebody, or cut off from theirs.

Counted first, session by session; only where there are too many is a history read for their names. So
memory is two numbers a session, and the names of a few sessions' chunks.
"""

from collections import Counter
from collections.abc import AsyncIterator

from lucid_events.domain import events as ev
from lucid_events.domain.envelope import Recorded
from lucid_events.domain.ids import SESSION_ID, SessionId, Version
from lucid_events.domain.transitions import State
from lucid_events.errors import ContractError
from lucid_events.evidence.differences import Remark
from lucid_events.ports import BlobStore, EventStore
from lucid_events.service.verifying import SessionReport

SESSIONS_KNOWN = 16
"""Sessions whose chunks are known by name at a time: 1 MB for each terabyte. Objects of sessions recorded
beside each other take turns in the bucket; with half as many more histories are read twice."""


_ERASED = "its history says that this chunk was erased, and the object is still there"


class Inventory:
    """Takes what was verified, then says what else there is."""

    def __init__(self) -> None:
        self._ready: dict[int, int] = {}

    def add(self, report: SessionReport) -> None:
        """Note how many objects the history of a session accounts for."""
        self._ready[hash(report.session)] = 0 if report.state is State.DESTROYED else report.ready

    async def unknown(self, store: EventStore, bucket: BlobStore) -> AsyncIterator[Remark]:
        """Yield every object of `bucket` that no chunk says is its own.

        A chunk that is just being stored is among them: it is put before it is said to be ready. Of a session
        with an event that can't be read, which verification has named, one remark says how much is known.
        """
        there: Counter[int] = Counter()
        async for about in bucket.names():
            there[hash(about.name.partition("/")[0])] += 1
        if all(count <= self._ready.get(session, 0) for session, count in there.items()):
            return
        known: dict[int, tuple[set[str], set[str]]] = {}
        damaged = set[int]()
        async for about in bucket.names():
            session = about.name.partition("/")[0]
            if there[hash(session)] <= self._ready.get(hash(session), 0):
                continue
            if hash(session) not in known:
                if len(known) == SESSIONS_KNOWN:
                    known.clear()
                try:
                    known[hash(session)] = await _objects(store, session)
                except ContractError as exc:
                    known[hash(session)] = set(), set()
                    damaged.add(hash(session))
                    yield Remark(
                        session=session,
                        reason=f"its history can't be read to the end, so it can't be told which of its "
                        f"{there[hash(session)]} objects are chunks: {exc.message}"[:500],
                    )
            if hash(session) in damaged:
                continue
            chunks, erased = known[hash(session)]
            if about.name not in chunks:
                yield Remark(
                    session=session if SESSION_ID.fullmatch(session) else "",
                    object=f"{bucket.bucket}/{about.name}"[:300],
                    reason=_ERASED if about.name in erased else "no history says that this object is a chunk",
                )


async def _objects(store: EventStore, session: str) -> tuple[set[str], set[str]]:
    """Return the objects a history says are its chunks, and those it says were erased."""
    names, erased = set[str](), set[str]()
    if SESSION_ID.fullmatch(session) is None:
        return names, erased
    async for message in store.read(SessionId(session), after=Version(0)):
        if isinstance(message, Recorded):
            if isinstance(message.event, ev.ChunkReady):
                names.add(message.event.object)
            elif isinstance(message.event, ev.SessionDestroyed):
                erased |= names
                names.clear()
    return names, erased
