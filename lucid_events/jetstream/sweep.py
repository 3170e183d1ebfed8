"""Takes away pieces that no metadata names: what a crashed or beaten writer left in a bucket.

    1. list nuids, then names: pieces without metadata, the newest older than the grace period
    2. add a fence, one empty piece, to each
    3. list names again: whoever has metadata now is spared, and loses the fence again
    4. purge the others

A writer publishes metadata and *then* counts its pieces. If its metadata came before step 3, it is
spared. If it came later, its count follows the fence, finds one piece too many or none at all, and
it puts again. Ages are measured on the server's clock.
"""

import logging
from datetime import timedelta

from lucid_events.jetstream.bucket import Bucket
from lucid_events.jetstream.connection import StoredMessage
from lucid_events.jetstream.messages import server_time
from lucid_events.ports import Orphan
from lucid_events.subjects import object_pieces

log = logging.getLogger(__name__)


async def sweep(bucket: Bucket, *, older_than_s: float, dry_run: bool) -> list[Orphan]:
    """Remove pieces without metadata older than the grace period; returns what was found.

    With `dry_run` nothing is changed. A sweep that was cut short leaves at most fences, which
    readers pass by and the next sweep takes.
    """
    counts, now = await bucket.counts()
    latest = server_time(now) - timedelta(seconds=older_than_s)
    live = await _live(bucket)
    orphans = []
    for counted in counts:
        if counted.nuid in live:
            continue
        newest = await _newest(bucket, counted.nuid)
        if newest is not None and newest.stored_at <= latest:
            orphans.append(Orphan(counted.nuid, counted.pieces, newest.stored_at))
    if dry_run or not orphans:
        return orphans
    fences = {}
    for orphan in orphans:
        ack = await bucket.connection.publish_acked(object_pieces(bucket.name, orphan.nuid), b"")
        fences[orphan.nuid] = ack.sequence
    live = await _live(bucket)
    swept = []
    for orphan in orphans:
        if orphan.nuid in live:
            await bucket.connection.api(
                f"STREAM.MSG.DELETE.{bucket.stream}", {"seq": fences[orphan.nuid], "no_erase": True}
            )
            continue
        await bucket.drop(orphan.nuid)
        swept.append(orphan)
        log.info("swept pieces without metadata", extra={"subject": orphan.nuid, "count": orphan.pieces})
    return swept


async def _live(bucket: Bucket) -> set[str]:
    return {found.nuid async for found in bucket.entries() if found.live}


async def _newest(bucket: Bucket, nuid: str) -> StoredMessage | None:
    return await bucket.connection.leader_get(bucket.stream, last_by_subj=object_pieces(bucket.name, nuid))
