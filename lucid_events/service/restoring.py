"""`lucid backup restore`: a backup back onto an empty server, whole or marked as not whole.

    mark the server ──> check every file ──> streams, in the order they were taken
        ──> consumers behind what was done ──> views ──> what else is defined ──> high-water mark ──> unmark

The log comes back as the next incarnation, so no position, snapshot or view of before is taken for one
of now. While the mark stands no worker starts on the server and nobody deploys to it or backs it up; a
restore that is run again begins anew. The check takes as long as it reads, so the mark comes before it:
killed there, too, the server is no empty one that a pipeline may begin on.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

from lucid_events.config import Settings
from lucid_events.errors import CommandRejected, ConfigError, ContractError, IntegrityError
from lucid_events.handlers.base import Checkpoint, no_checkpoint
from lucid_events.jetstream import restore_mark, topology
from lucid_events.jetstream.definitions import TopologySettings
from lucid_events.jetstream.embedded import capture_bytes_for, embedded_server
from lucid_events.jetstream.faults import RESTORE_NAME_TAKEN, STREAM_NOT_FOUND
from lucid_events.jetstream.preflight import failures, server_findings
from lucid_events.jetstream.snapshots import StreamSnapshot, restore_snapshot
from lucid_events.jetstream.store import INCARNATION
from lucid_events.projections.checkpoints import Checkpoints
from lucid_events.projections.generations import FIRST
from lucid_events.service.adapters import Adapters, open_adapters, topology_settings
from lucid_events.service.backing_up import own_streams
from lucid_events.service.backup_files import (
    Manifest,
    Part,
    Progress,
    check_files,
    pieces_of,
    read_description,
    read_manifest,
)
from lucid_events.service.rebuilding import fill_first
from lucid_events.subjects import Subjects

RESTORED: Final = "lucid-restored"
"""Key in the log's metadata: the id of the backup it came from."""
STALL_S: Final = 15.0
"""How long the server may go on holding a stream of a restore that was interrupted: it gives one up
after 5 s without a piece."""
LOOK_S: Final = 0.5
"""Pause between two attempts to take the name over; each deletes what is there."""


class Restored(msgspec.Struct, frozen=True, kw_only=True):
    """What was restored: the log of `incarnation` up to `sequence`.

    `removed` is what an interrupted restore had left. `views` says why they could not be built, empty
    when they are: workers fill them then, as far as they can.
    """

    manifest: Manifest
    incarnation: int
    sequence: int
    removed: tuple[str, ...]
    views: str


@asynccontextmanager
async def restore_target(settings: Settings, data: Path | None) -> AsyncIterator[Adapters]:
    """Connect to the server to restore to: that of the settings, or one of our own on the folder `data`.

    Raises:
        StoreUnavailable: no server answers.
        ConfigError: credentials are wrong, or the folder is in use.
    """
    if data is None:
        async with open_adapters(settings, name="lucid-restore") as adapters:
            yield adapters
        return
    async with embedded_server(data, sync_interval=settings.sync) as server:
        there = msgspec.structs.replace(
            settings, nats_url=server.url, nats_context="", nats_creds="", nats_nkey_seed="", data=str(data)
        )
        async with open_adapters(there, name="lucid-restore") as adapters:
            yield adapters


async def restore_backup(
    adapters: Adapters,
    path: Path,
    *,
    data: Path | None = None,
    digest: str = "",
    progress: Progress = lambda _: None,
    checkpoint: Checkpoint = no_checkpoint,
) -> Restored:
    """Restore the backup at `path`; its files are all checked before anything of it is on the server.

    A damaged one leaves an empty server empty.

    Args:
        data: folder of an embedded server, whose disk limits the room for capture.
        digest: SHA-256 of the manifest that was kept elsewhere.
        progress: told of bytes, those of the check first.
        checkpoint: called after `restore.begun`, `restore.checked`, each stream, `restore.consumers` and
            `restore.views`.

    Raises:
        IntegrityError: the backup is damaged, or the server holds something else than it was given.
        CommandRejected: the server is not empty.
        ConfigError: there is no backup, or the server is unfit for it.
        StoreUnavailable, AppendUncertain: it broke off; run it again.
    """
    manifest, _ = await asyncio.to_thread(read_manifest, path, digest=digest)
    _fits(adapters, manifest)
    left = await _left_behind(adapters, manifest)
    connection, subjects = adapters.connection, adapters.subjects
    room = capture_bytes_for(data) if data is not None else None
    wanted = topology_settings(adapters.settings, capture_max_bytes=room)
    await restore_mark.begin(connection, subjects, wanted, backup=manifest.id)
    await checkpoint("restore.begun")
    try:
        await asyncio.to_thread(check_files, path, manifest, progress=progress)
    except IntegrityError:
        if not left:  # nothing but the mark is there: another backup, or a pipeline, may have the server
            await _delete(adapters, restore_mark.stream_of(subjects))
        raise
    await checkpoint("restore.checked")
    for name in left:
        await _delete(adapters, name)
    for part in manifest.parts:
        snapshot = await asyncio.to_thread(read_description, path, part)
        await _restore(
            adapters, path, part, _config(subjects, manifest, part, snapshot, wanted), snapshot, progress
        )
        await checkpoint(f"restore.{part.stream}")
    for follower in manifest.consumers:
        config = topology.resuming(follower.config, behind=follower.done)
        body = {"stream_name": follower.stream, "config": config, "action": ""}
        await connection.api(f"CONSUMER.CREATE.{follower.stream}.{follower.name}", body)
    await checkpoint("restore.consumers")
    views = ""
    try:
        await fill_first(adapters, wanted)
    except ContractError as exc:
        views = exc.message
        await topology.delete_generation(connection, subjects, generation=FIRST)
    await checkpoint("restore.views")
    await topology.apply(connection, subjects, wanted, restoring=True)
    await adapters.capture.reserve()
    position = await adapters.store.last_position()
    await Checkpoints(adapters.meta, position.stream, position.incarnation).note(position.sequence)
    await restore_mark.end(connection, subjects)
    return Restored(
        manifest=manifest,
        incarnation=position.incarnation,
        sequence=position.sequence,
        removed=left,
        views=views,
    )


def _fits(adapters: Adapters, manifest: Manifest) -> None:
    """Refuse a server, or settings, that this backup can't be restored to."""
    if manifest.prefix != adapters.subjects.prefix:
        raise ConfigError(
            f"the backup is of the prefix {manifest.prefix}, LUCID_PREFIX is {adapters.subjects.prefix}: "
            "set it to that of the backup"
        )
    wrong = failures(server_findings(adapters.connection))
    if wrong:
        raise ConfigError("; ".join(f"{one.what}: {one.change}" for one in wrong))
    taken_on = tuple(int(number) for number in manifest.server.split("."))
    if adapters.connection.server_version[:2] < taken_on[:2]:
        here = ".".join(map(str, adapters.connection.server_version))
        raise ConfigError(
            f"the backup was taken on nats-server {manifest.server}, this is {here}, which may not read it: "
            "install that version or a later one"
        )


async def _left_behind(adapters: Adapters, manifest: Manifest) -> tuple[str, ...]:
    """Return the streams an interrupted restore has left, but for the mark; refuse those of a pipeline.

    Raises:
        CommandRejected: it holds streams of the pipeline.
    """
    connection, subjects = adapters.connection, adapters.subjects
    there = set(await topology.stream_names(connection))
    found = own_streams(subjects, there) | (there & {part.stream for part in manifest.parts})
    begun = await restore_mark.restoring(connection, subjects)
    if not begun and found:
        here = ", ".join(sorted(found))
        raise CommandRejected(
            f"the server is not empty, it has {here}: restore to a server, or a folder, of its own. "
            "What is restored already is checked with `lucid audit verify --all`",
            reason="not_empty",
        )
    found.discard(restore_mark.stream_of(subjects))
    return tuple(sorted(found))


def _config(
    subjects: Subjects, manifest: Manifest, part: Part, snapshot: StreamSnapshot, wanted: TopologySettings
) -> dict[str, Any]:
    """Return the configuration a stream comes back with: as it was, where this server differs adapted."""
    config = dict(snapshot.config)
    config.pop("placement", None)  # tags and clusters are of the server that is gone
    untrusted = part.stream in (subjects.capture_stream, subjects.commands_stream)
    config["num_replicas"] = wanted.untrusted_replicas if untrusted else wanted.replicas
    limit = wanted.capture_max_bytes
    if part.stream == subjects.capture_stream and part.bytes < limit < config["max_bytes"]:
        config["max_bytes"] = limit
    if part.stream == manifest.log.stream:
        raised = {INCARNATION: str(manifest.log.incarnation + 1), RESTORED: manifest.id}
        config["metadata"] = {**(config.get("metadata") or {}), **raised}
    return config


async def _restore(
    adapters: Adapters,
    path: Path,
    part: Part,
    config: Mapping[str, Any],
    snapshot: StreamSnapshot,
    progress: Progress,
) -> None:
    loop = asyncio.get_running_loop()
    until = loop.time() + STALL_S
    while True:
        try:
            async with aclosing(pieces_of(path, part, progress)) as pieces:
                await restore_snapshot(adapters.connection, config, snapshot.state, pieces)
            return
        except ConfigError as exc:
            if exc.fields.get("err_code") != RESTORE_NAME_TAKEN or loop.time() >= until:
                raise
        # Of an interrupted restore that the server has not given up yet: under the mark all is ours.
        await _delete(adapters, part.stream)
        await asyncio.sleep(LOOK_S)


async def _delete(adapters: Adapters, stream: str) -> None:
    try:
        await adapters.connection.api(f"STREAM.DELETE.{stream}")
    except ConfigError as exc:
        if exc.fields.get("err_code") != STREAM_NOT_FOUND:
            raise
