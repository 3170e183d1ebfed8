"""The buckets that chunks are in, listed: how many objects of each session, and their names where asked.

Knows nothing of histories but which buckets they name; holds names of some sessions at a time.
"""

import hashlib
from collections.abc import AsyncIterator, Iterator

from lucid_events.domain.ids import SESSION_ID, SessionId
from lucid_events.evidence.chunks import BUCKET
from lucid_events.jetstream.topology import exists
from lucid_events.ports import BlobStore
from lucid_events.service.adapters import Adapters
from lucid_events.service.backing_up import named_buckets
from lucid_events.subjects import object_stream

MAX_LISTED = 100_000
"""Names held at once of sessions that don't add up: 30 MB. Half lists the buckets twice as often when
everything differs; of one session all are held, whatever their number."""


class Buckets:
    """The buckets that chunks are in; an object is known as `<bucket>/<name>`."""

    def __init__(self, stores: dict[str, BlobStore], default: str) -> None:
        self._stores, self._default = stores, default

    @classmethod
    async def of(cls, adapters: Adapters, session: SessionId | None) -> "Buckets":
        """Return the default bucket and those the log names; what is not there has no objects."""
        position = await adapters.store.last_position()
        _, named = await named_buckets(adapters, position.sequence, session or "*")
        default = adapters.subjects.chunks_bucket
        there = {default} | {
            name
            for name in named - {default}
            if BUCKET.fullmatch(name) and await exists(adapters.connection, object_stream(name))
        }
        return cls({name: adapters.bucket(name) for name in sorted(there)}, default)

    async def names(self, prefix: str) -> AsyncIterator[tuple[str, str]]:
        """Yield (session, object) of every object whose name begins with `prefix`, bucket by bucket."""
        for bucket, store in self._stores.items():
            async for about in store.names(prefix):
                yield about.name.partition("/")[0], f"{bucket}/{about.name}"

    async def has(self, name: str) -> bool:
        """Return whether the object is there, as the leader knows it."""
        bucket, _, place = name.partition("/")
        return bucket in self._stores and await self._stores[bucket].info(place) is not None

    def shown(self, name: str) -> str:
        """Return the object as people read it: the default bucket goes without saying."""
        return name.removeprefix(f"{self._default}/")


class Found:
    """A session that objects are named after, and their names; the session is cut short when it is none."""

    def __init__(self, session: str) -> None:
        self.session, self.names = session, set[str]()


def some(there: dict[int, tuple[int, int]], wanted: set[int]) -> Iterator[set[int]]:
    """Cut the sessions to be looked at into sets of at most `MAX_LISTED` objects each."""
    taken, listed = set[int](), 0
    for key in sorted(wanted & there.keys()):
        count = there[key][0]
        if taken and listed + count > MAX_LISTED:
            yield taken
            taken, listed = set(), 0
        taken.add(key)
        listed += count
    if taken:
        yield taken


async def names_of(buckets: Buckets, prefix: str, wanted: set[int]) -> list[Found]:
    """List the objects of the sessions whose hashes are `wanted`, session by session."""
    found: dict[str, Found] = {}
    async for session, name in buckets.names(prefix):
        if hash(session) in wanted:
            known = session if SESSION_ID.fullmatch(session) else session[:100]
            found.setdefault(known, Found(known)).names.add(name)
    return list(found.values())


def fingerprint(name: str) -> int:
    """Return 64 bits that stand for an object's name in a sum over names."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest())
