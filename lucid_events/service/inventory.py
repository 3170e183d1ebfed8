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
from lucid_events.evidence.chunks import left
from lucid_events.evidence.differences import Difference, Remark, What
from lucid_events.ports import BlobStore, EventStore
from lucid_events.service.erased import is_there
from lucid_events.service.verifying import SessionReport
from lucid_events.subjects import object_name

SESSIONS_KNOWN = 16
"""Sessions whose chunks are known by name at a time: 1 MB for each terabyte. Objects of sessions recorded
beside each other take turns in the bucket; with half as many more histories are read twice."""


class Inventory:
    """Takes what was verified, then says what else there is."""

    def __init__(self) -> None:
        self._ready: dict[int, int] = {}
        self._told = set[str]()

    def add(self, report: SessionReport) -> None:
        """Note how many objects the history of a session accounts for, and which were told of already."""
        self._ready[hash(report.session)] = 0 if report.state is State.DESTROYED else report.ready
        self._told |= {one.object for one in report.differences if one.what is What.OBJECT_LEFT}

    async def unknown(self, store: EventStore, bucket: BlobStore) -> AsyncIterator[Remark | Difference]:
        """Yield every object of `bucket` that no chunk says is its own, as a remark.

        What an erasure left is a difference, unless verifying its session told of it. A chunk that is just
        being stored is among them: it is put before it is said to be ready. Of a session with an event that
        can't be read, which verification has named, one remark says how much is known.
        """
        there: Counter[int] = Counter()
        async for about in bucket.names():
            there[hash(about.name.partition("/")[0])] += 1
        if all(count <= self._ready.get(session, 0) for session, count in there.items()):
            return
        known: dict[int, tuple[set[str], dict[str, int]]] = {}
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
                    known[hash(session)] = set(), {}
                    damaged.add(hash(session))
                    yield Remark(
                        session=session,
                        reason=f"its history can't be read to the end, so it can't be told which of its "
                        f"{there[hash(session)]} objects are chunks: {exc.message}"[:500],
                    )
            if hash(session) in damaged:
                continue
            chunks, erased = known[hash(session)]
            name = f"{bucket.bucket}/{about.name}"
            if about.name in chunks or name in self._told:
                continue
            if about.name not in erased:
                yield Remark(
                    session=session if SESSION_ID.fullmatch(session) else "",
                    object=name[:300],
                    reason="no history says that this object is a chunk",
                )
            elif await is_there(bucket, about.name):  # and not erased since it was listed
                yield left(SessionId(session), erased[about.name], name)


async def _objects(store: EventStore, session: str) -> tuple[set[str], dict[str, int]]:
    """Return the objects a history says are its chunks, and the chunks of those it says were erased."""
    ready, named = dict[str, int](), dict[str, int]()
    if SESSION_ID.fullmatch(session) is None:
        return set(), {}
    destroyed = False
    async for message in store.read(SessionId(session), after=Version(0)):
        match message:
            case Recorded(event=ev.ChunkReady(index=index, object=name)):
                ready[name] = index
            case Recorded(event=ev.ChunkSealed(index=index, sha256=sha256)):
                named[object_name(session, index, sha256)] = index
            case Recorded(event=ev.SessionDestroyed()):
                destroyed = True
            case _:
                pass
    return (set(), named | ready) if destroyed else (set(ready), {})
