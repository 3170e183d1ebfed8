"""The mark of a restore that has begun and not ended, so that nobody takes half a pipeline for a whole one.

It stands in the metadata of the first stream a restore makes, and goes with its last step: both are
single calls of the server. While it stands, everything of the prefix on that server is the restore's.
"""

from typing import Any, Final

from lucid_events.errors import ConfigError
from lucid_events.jetstream.connection import Connection
from lucid_events.jetstream.definitions import TopologySettings, load
from lucid_events.subjects import Subjects, kv_stream

MARK: Final = "lucid-restoring"
FINISH: Final = "run `lucid backup restore` again, to its end"
"""What ends the state that the mark stands for."""


def stream_of(subjects: Subjects) -> str:
    """Return the stream that carries the mark."""
    return kv_stream(subjects.meta_bucket)


def marked(config: dict[str, Any]) -> str:
    """Return which backup a stream's configuration says is being restored, empty when none is."""
    return str((config.get("metadata") or {}).get(MARK, ""))


def half_restored(backup: str) -> str:
    """Return what is said of a server that carries the mark of `backup`."""
    return f"backup {backup} is being restored on this server, or its restore was interrupted"


async def restoring(connection: Connection, subjects: Subjects) -> str:
    """Return the id of the backup whose restore has begun and not ended, empty when there is none."""
    config = await _meta(connection, subjects)
    return "" if config is None else marked(config)


async def refuse_half_restored(connection: Connection, subjects: Subjects) -> None:
    """Refuse to work beside a restore, or on what an interrupted one has left.

    Raises:
        ConfigError: a restore has begun and not ended.
    """
    if backup := await restoring(connection, subjects):
        raise ConfigError(f"{half_restored(backup)}: {FINISH}", backup=backup)


async def begin(
    connection: Connection, subjects: Subjects, settings: TopologySettings, *, backup: str
) -> None:
    """Set the mark, on a server without a stream of the prefix or on one that is marked already."""
    config = await _meta(connection, subjects)
    name, action = kv_stream(subjects.meta_bucket), "UPDATE"
    if config is None:
        found = next(one for one in load(subjects, settings) if one.name == name)
        config, action = dict(found.config), "CREATE"
    config["metadata"] = {**(config.get("metadata") or {}), MARK: backup}
    await connection.api(f"STREAM.{action}.{name}", config)


async def end(connection: Connection, subjects: Subjects) -> None:
    """Take the mark away: from here on the pipeline is whole."""
    config = await _meta(connection, subjects)
    if config is None or not marked(config):
        return
    config["metadata"] = {key: value for key, value in config["metadata"].items() if key != MARK}
    await connection.api(f"STREAM.UPDATE.{kv_stream(subjects.meta_bucket)}", config)


async def _meta(connection: Connection, subjects: Subjects) -> dict[str, Any] | None:
    info = await connection.stream_info(kv_stream(subjects.meta_bucket))
    return None if info is None else dict(info["config"])
