"""Objects that the erasure of a session left, each one asked of the leader.

Names follow from the history, so no bucket is listed: what stands under another name, and pieces
without metadata, are not seen. Memory: `ASKED_AT_ONCE` names.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from typing import Final

from lucid_events.domain import events as ev
from lucid_events.domain.envelope import Recorded
from lucid_events.domain.state import Session, chunk_is_ready
from lucid_events.errors import ConfigError, IntegrityError
from lucid_events.evidence.chunks import BUCKET, left
from lucid_events.evidence.differences import Difference
from lucid_events.ports import BlobStore
from lucid_events.subjects import object_name

ASKED_AT_ONCE: Final = 16
"""Objects that the leader is asked for at once: half takes twice as long for a long recording, twice asks
for more than it answers in one go."""
SETTLE_S = 2.0
"""How long an object may still be there: a worker that finds the session erased deletes what it has just
written, and this is how long that takes on a busy machine."""

Bucket = Callable[[str], BlobStore]
"""Gives the object store of that name."""


async def objects_left(
    messages: AsyncIterator[object],
    state: Session,
    bucket: Bucket,
    *,
    chunks: BlobStore | None = None,
    chooses: Callable[[int], bool] = lambda _: True,
) -> AsyncIterator[Difference]:
    """Yield every object of a destroyed session that is still there.

    Args:
        messages: the session's history; what is no event is passed by.
        state: that at its end.
        chunks: where what was sealed and never said to be ready is looked for; None: it is not.
        chooses: which chunks are looked at, by index.

    Raises:
        StoreUnavailable: the leader could not be asked.
        ConfigError: this login may not ask.
    """
    batch: dict[str, int] = {}
    settled = False
    async for message in messages:
        event = message.event if isinstance(message, Recorded) else None
        match event:
            case ev.ChunkReady(index=index) if BUCKET.fullmatch(event.bucket):
                name = f"{event.bucket}/{event.object}"
            case ev.ChunkSealed(index=index) if chunks is not None and not chunk_is_ready(state, index):
                name = f"{chunks.bucket}/{object_name(state.id, index, event.sha256)}"
            case _:
                continue
        if chooses(index):
            batch[name] = index
        if len(batch) == ASKED_AT_ONCE:
            found, settled = await _found(bucket, batch, settled=settled)
            for name in found:
                yield left(state.id, batch[name], name)
            batch.clear()
    found, _ = await _found(bucket, batch, settled=settled)
    for name in found:
        yield left(state.id, batch[name], name)


async def is_there(bucket: BlobStore, name: str) -> bool:
    """Return whether anything that is not deleted stands under the name, readable or not."""
    try:
        return await bucket.info(name) is not None
    except IntegrityError:
        return True
    except ConfigError as exc:
        tolerate_no_bucket(exc)
        return False


def tolerate_no_bucket(exc: ConfigError) -> None:
    """Raise `exc` again unless it says that there is no such bucket: then it holds no object either.

    What this login may not read was not looked at, which is no difference.
    """
    if exc.fields.get("status") != NO_STREAM:
        raise exc


NO_STREAM: Final = 404
"""What the server answers for a stream that it does not have."""


async def _found(bucket: Bucket, names: Collection[str], *, settled: bool) -> tuple[list[str], bool]:
    """Return those of `names`, as `<bucket>/<name>`, that are there, and whether that has been waited for."""

    async def there(name: str) -> bool:
        home, _, place = name.partition("/")
        return await is_there(bucket(home), place)

    for pause in (0.0, SETTLE_S):
        asked = list(names)
        answers = await asyncio.gather(*map(there, asked))
        names = [name for name, answer in zip(asked, answers, strict=True) if answer]
        if not names or settled:
            return names, settled
        if not pause:
            await asyncio.sleep(SETTLE_S)
    return list(names), True
