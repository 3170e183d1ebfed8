"""`lucid backup create`: every stream a restore needs, in an order that adds up, while recordings go on.

    consumers' floors            what is done before the log is taken has its effects in the log
    dead letters, outcomes,      point into the log: what they say has to be in it
    commands, checkpoints
    the log                      its end is the position of the backup
    capture                      the log points here: bytes it knows of are in capture,
    buckets of chunks            or were stored before they left capture, so they are in a bucket

So nothing in the backup points to something that is not. The other way round there is more than needed:
objects of chunks the log does not know yet, and capture of chunks that are stored, which are harmless.
Views, snapshots of states and timers are left out: a restore makes them anew from the log.
"""

import re
import secrets
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any, Final

import msgspec

from lucid_events import __version__
from lucid_events.domain.ids import SESSION_ID
from lucid_events.handlers.base import Checkpoint, no_checkpoint
from lucid_events.jetstream.connection import StoredMessage
from lucid_events.jetstream.definitions import load
from lucid_events.jetstream.replay import replayed
from lucid_events.jetstream.restore_mark import refuse_half_restored
from lucid_events.jetstream.snapshots import StreamSnapshot, take_snapshot
from lucid_events.jetstream.store import INCARNATION
from lucid_events.jetstream.topology import stream_names
from lucid_events.service.adapters import Adapters
from lucid_events.service.backup_files import FORMAT, Follower, LogPosition, Manifest, Part, Progress
from lucid_events.service.backup_folder import BackupFolder, new_backup
from lucid_events.subjects import Subjects, object_stream

CHUNK_READY: Final = "chunk.ready"
ERASURE: Final = "session.cleanup_started"
MAX_LOST: Final = 1000
"""Buckets that are gone, of those that chunks name, that the manifest lists: the first ones by name."""


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """A finished backup: where it is, what it is of, and its manifest's SHA-256, to be kept elsewhere."""

    path: str
    sha256: str
    manifest: Manifest


class _Ready(msgspec.Struct):
    bucket: str = ""


_ready = msgspec.json.Decoder(_Ready)


async def create_backup(
    adapters: Adapters,
    path: Path,
    *,
    progress: Progress = lambda _: None,
    checkpoint: Checkpoint = no_checkpoint,
) -> Made:
    """Write a backup of the pipeline to the folder `path`, which appears when it is whole.

    Recordings go on meanwhile. What the log holds when its turn comes can be restored and verified;
    memory is bounded by what the server sends unacknowledged. `checkpoint` is called after each stream,
    by the name of that.

    Raises:
        ConfigError: `path` exists or can't be written, there is no pipeline, or no right to back it up.
        StoreUnavailable: it broke off; nothing stands under `path`. Begin again.
        IntegrityError: the server can't read what it has stored.
    """
    subjects = adapters.subjects
    await refuse_half_restored(adapters.connection, subjects)
    async with new_backup(path) as folder:
        work = _Work(adapters, folder, progress, checkpoint)
        began = adapters.clock.now()
        there = set(await stream_names(adapters.connection))
        consumers: list[Follower] = []
        for stream in sorted(there & _followed(subjects)):
            consumers += await _followers(adapters, stream)
        for stream in _before_the_log(subjects):
            if stream in there:
                await work.take(stream)
        log = await work.take(subjects.events_stream)
        position = LogPosition(
            stream=subjects.events_stream,
            incarnation=int((log.config.get("metadata") or {}).get(INCARNATION, 1)),
            sequence=log.state["last_seq"],
        )
        chunks, buckets = await named_buckets(adapters, position.sequence)
        for stream in (subjects.capture_stream, *map(object_stream, sorted(buckets))):
            if stream in there:
                await work.take(stream)
        taken = {part.stream for part in work.parts}
        lost = sorted(bucket for bucket in buckets if object_stream(bucket) not in there)
        manifest = Manifest(
            format=FORMAT,
            id=secrets.token_hex(8),
            version=__version__,
            server=".".join(map(str, adapters.connection.server_version)),
            prefix=subjects.prefix,
            began_at=began,
            ended_at=adapters.clock.now(),
            log=position,
            chunks=chunks,
            parts=tuple(work.parts),
            consumers=tuple(consumers),
            erased=tuple(sorted(await _erased_since(adapters, position.sequence))),
            missing_buckets=tuple(lost[:MAX_LOST]),
            missing_buckets_count=len(lost),
            left_out=tuple(sorted(own_streams(subjects, there) - taken)),
        )
        return Made(path=str(folder.path), sha256=await folder.finish(manifest), manifest=manifest)


async def named_buckets(adapters: Adapters, upto: int, session: str = "*") -> tuple[int, set[str]]:
    """Return how many chunks the log says are ready up to a sequence, and the buckets they are in.

    Of all sessions, or of one. The default bucket is always among them.
    """
    chunks, buckets = 0, {adapters.subjects.chunks_bucket}
    async for message in _events(adapters, CHUNK_READY, session, upto=upto):
        chunks += 1
        try:
            bucket = _ready.decode(message.data).bucket
        except msgspec.DecodeError:
            continue  # verification names it; its bytes are in the log's archive as they are
        if SESSION_ID.fullmatch(bucket):  # the alphabet of buckets, too
            buckets.add(bucket)
    return chunks, buckets


class _Work:
    """Takes stream after stream, never two at once: the order is what makes the backup add up."""

    def __init__(
        self, adapters: Adapters, folder: BackupFolder, progress: Progress, checkpoint: Checkpoint
    ) -> None:
        self._adapters, self._folder = adapters, folder
        self._progress, self._checkpoint = progress, checkpoint
        self.parts: list[Part] = []

    async def take(self, stream: str) -> StreamSnapshot:
        async with self._folder.archive(stream, self._progress) as archive:
            snapshot = await take_snapshot(self._adapters.connection, stream, archive.write)
        self.parts.append(await self._folder.describe(stream, archive, snapshot))
        await self._checkpoint(f"backup.{stream}")
        return snapshot


def _before_the_log(subjects: Subjects) -> tuple[str, ...]:
    return (
        subjects.advisories_stream,
        subjects.dlq_stream,
        subjects.outcomes_stream,
        subjects.commands_stream,
        subjects.checkpoints_stream,
    )


def _followed(subjects: Subjects) -> set[str]:
    """Return the streams whose consumers have a place to go on from; a work queue is its own."""
    return {subjects.events_stream, subjects.outcomes_stream, subjects.checkpoints_stream}


async def _followers(adapters: Adapters, stream: str) -> list[Follower]:
    """Return the durable consumers of a stream but those of views, which a restore makes anew."""
    found: list[dict[str, Any]] = []
    while True:
        answer = await adapters.connection.api(f"CONSUMER.LIST.{stream}", {"offset": len(found)})
        page = answer.get("consumers") or []
        found += page
        if not page or len(found) >= answer["total"]:
            break
    # Exactly those: an integrator's `status-viewer` has a place of its own to go on from.
    views = re.compile(re.escape(adapters.subjects.status_consumer(1)) + r"(-v\d+)?", re.ASCII)
    return [
        Follower(
            stream=stream,
            name=one["name"],
            done=int(one["ack_floor"]["stream_seq"]),
            config=one["config"],
        )
        for one in found
        if one["config"].get("durable_name") and not views.fullmatch(one["name"])
    ]


async def _erased_since(adapters: Adapters, sequence: int) -> set[str]:
    """Return the sessions whose erasure began after `sequence`: it may have taken objects of the backup."""
    sessions = set()
    async for message in _events(adapters, ERASURE, after=sequence):
        sessions.add(message.subject.split(".")[2])
    return sessions


async def _events(
    adapters: Adapters, type_: str, session: str = "*", *, after: int = 0, upto: int | None = None
) -> AsyncIterator[StoredMessage]:
    """Yield the stored messages of one kind of event, not decoded: a damaged one must not stop a backup."""
    end = (await adapters.store.last_position()).sequence
    last = end if upto is None else min(end, upto)
    if last <= after:
        return
    subjects = adapters.subjects
    found = replayed(
        adapters.connection,
        subjects.events_stream,
        [subjects.events_of_type(type_, session)],
        first=after + 1,
        last=last,
    )
    async with aclosing(found):
        async for page in found:
            for message in page:
                yield message


def own_streams(subjects: Subjects, there: set[str]) -> set[str]:
    """Return those of `there` that belong to this prefix: what is defined, and views of any generation."""
    defined = {one.name for one in load(subjects) if one.kind == "stream"}
    return {name for name in there if name in defined or subjects.generation_of(name) is not None}
