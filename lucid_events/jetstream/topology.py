"""Compares the definitions with what the server has, creates what is missing, and changes only on demand.

Only keys that a definition names are compared: the server adds defaults of its own. Configuration
is read and written as raw JSON, because client libraries drop the settings they do not know.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from lucid_events.domain.values import MIB
from lucid_events.errors import ConfigError, LucidError, StoreFull
from lucid_events.jetstream.connection import Connection
from lucid_events.jetstream.definitions import DEFAULT_SETTINGS, Definition, TopologySettings, load
from lucid_events.jetstream.faults import CONSUMER_NOT_FOUND, STREAM_NOT_FOUND
from lucid_events.jetstream.restore_mark import refuse_half_restored
from lucid_events.subjects import Subjects, kv_stream

MISSING = "missing"
_MORE_ROOM: Final = (
    "make room on the server's disk, or raise its max_file_store; an embedded server needs 5 GB that are "
    "free (docs/operations.md, sizing)"
)

RESUMES: Final = "lucid-resumes-behind"
"""Key in a consumer's metadata: it was made to go on behind this sequence, not to begin as defined."""


class Difference(msgspec.Struct, frozen=True):
    """One setting that is not as defined; `path` is empty when the whole thing is `missing`."""

    kind: str
    name: str
    path: str
    defined: Any
    actual: Any

    def __str__(self) -> str:
        if not self.path:
            return f"{self.kind} {self.name} is missing"
        return f"{self.kind} {self.name}: {self.path} is {self.actual!r}, defined is {self.defined!r}"


class Applied(msgspec.Struct, frozen=True):
    """What `apply` did: labels of what was created and updated, and what still differs."""

    created: tuple[str, ...]
    updated: tuple[str, ...]
    differences: tuple[Difference, ...]


async def compare(
    connection: Connection, subjects: Subjects, settings: TopologySettings = DEFAULT_SETTINGS
) -> list[Difference]:
    """Return every setting of the server that is not as defined, in the order of the definitions."""
    found = []
    for definition in load(subjects, settings):
        found += differences(definition, await _read(connection, definition))
    return found


async def apply(
    connection: Connection,
    subjects: Subjects,
    settings: TopologySettings = DEFAULT_SETTINGS,
    *,
    update: bool = False,
    restoring: bool = False,
) -> Applied:
    """Create what is missing; what exists and differs is reported, and changed only with `update`.

    Repeating it is harmless, also from two processes at once. `restoring` is for the restore itself.

    Raises:
        ConfigError: the server refuses a definition, the message names it; or a restore has begun and
            not ended: what is missing will come out of a backup.
        StoreUnavailable: the server could not be asked.
    """
    if not restoring:
        await refuse_half_restored(connection, subjects)
    created, updated, remaining = [], [], []
    for definition in load(subjects, settings):
        actual = await _read(connection, definition)
        if actual is None:
            await _write(connection, definition, definition.config, "CREATE")
            created.append(definition.label)
            continue
        different = differences(definition, actual)
        if different and update:
            # What the definition does not name stays as it is: an update replaces everything.
            await _write(connection, definition, {**actual, **definition.config}, "UPDATE")
            updated.append(definition.label)
            different = differences(definition, await _read(connection, definition))
        remaining += different
    return Applied(tuple(created), tuple(updated), tuple(remaining))


async def capture_limit(connection: Connection, subjects: Subjects) -> int | None:
    """Return the byte limit of the capture stream that is there, None when there is none yet."""
    config = await _stream(connection, subjects.capture_stream)
    return None if config is None else int(config["max_bytes"])


async def exists(connection: Connection, stream: str) -> bool:
    """Return whether there is a stream of that name."""
    return await _stream(connection, stream) is not None


async def create_generation(
    connection: Connection,
    subjects: Subjects,
    settings: TopologySettings,
    *,
    generation: int,
    after: int | None,
) -> None:
    """Create the empty status bucket of `generation`, and the consumer that fills it from behind `after`.

    Without `after` there is no consumer: nobody fills it but who created it. What is there under these
    names already is deleted: nothing else has them.

    Raises:
        ConfigError: the server refuses a definition.
        StoreUnavailable: the server could not be asked.
    """
    await delete_generation(connection, subjects, generation=generation)
    for definition in _of_generation(subjects, settings, generation):
        config = dict(definition.config)
        if definition.kind == "consumer":
            if after is None:
                continue
            config = resuming(config, behind=after)
        await _write(connection, definition, config, "CREATE")


async def generations(connection: Connection, subjects: Subjects) -> list[int]:
    """Return the numbers of all status buckets on the server, known to anyone or not.

    Raises:
        StoreUnavailable: the server could not be asked.
    """
    return [n for name in await stream_names(connection) if (n := subjects.generation_of(name)) is not None]


async def stream_names(connection: Connection) -> list[str]:
    """Return the names of all streams of the account."""
    found: list[str] = []
    while True:
        answer = await connection.api("STREAM.NAMES", {"offset": len(found)})
        page = answer.get("streams") or []
        found += page
        if not page or len(found) >= answer["total"]:
            return found


def resuming(config: Mapping[str, Any], *, behind: int) -> dict[str, Any]:
    """Return the configuration of a consumer that goes on behind the sequence `behind`."""
    made = {key: value for key, value in config.items() if key not in ("opt_start_seq", "opt_start_time")}
    made["metadata"] = {**(config.get("metadata") or {}), RESUMES: str(behind)}
    return {**made, "deliver_policy": "by_start_sequence", "opt_start_seq": behind + 1}


async def delete_generation(connection: Connection, subjects: Subjects, *, generation: int) -> bool:
    """Delete bucket and consumer of a generation of the status view; returns whether any was there.

    Raises:
        StoreUnavailable: the server could not be asked.
    """
    there = False
    for definition in reversed(_of_generation(subjects, DEFAULT_SETTINGS, generation)):
        if await _read(connection, definition) is None:
            continue
        there = True
        name = f"CONSUMER.DELETE.{definition.stream}.{definition.name}"
        await connection.api(f"STREAM.DELETE.{definition.name}" if definition.kind == "stream" else name)
    return there


def _of_generation(subjects: Subjects, settings: TopologySettings, generation: int) -> list[Definition]:
    wanted = msgspec.structs.replace(settings, status_generation=generation)
    names = {kv_stream(subjects.status_bucket(generation)), subjects.status_consumer(generation)}
    return [one for one in load(subjects, wanted) if one.name in names]


def differences(definition: Definition, actual: dict[str, Any] | None) -> list[Difference]:
    """Return what in `actual` is not as `definition` has it."""
    if actual is None:
        return [Difference(definition.kind, definition.label, "", "defined", MISSING)]
    return [
        Difference(definition.kind, definition.label, path, defined, found)
        for path, defined, found in _unequal(definition.config, actual, "")
    ]


def _unequal(defined: dict[str, Any], actual: dict[str, Any], at: str) -> list[tuple[str, Any, Any]]:
    found: list[tuple[str, Any, Any]] = []
    began_behind = RESUMES in (actual.get("metadata") or {})
    for key, value in defined.items():
        if began_behind and key == "deliver_policy":
            continue  # chosen when it was made, and never changed by the server
        # The server leaves out what is off, empty or zero.
        other = actual.get(key, type(value)())
        if isinstance(value, dict) and isinstance(other, dict):
            found += _unequal(value, other, f"{at}{key}.")
        elif _comparable(value) != _comparable(other):
            found.append((f"{at}{key}", value, actual.get(key)))
    return found


def _comparable(value: Any) -> Any:
    return sorted(value) if isinstance(value, Sequence) and not isinstance(value, str) else value


async def _read(connection: Connection, definition: Definition) -> dict[str, Any] | None:
    if definition.kind == "stream":
        return await _stream(connection, definition.name)
    try:
        answer = await connection.api(f"CONSUMER.INFO.{definition.stream}.{definition.name}")
    except ConfigError as exc:
        if exc.fields.get("err_code") in (STREAM_NOT_FOUND, CONSUMER_NOT_FOUND):
            return None
        raise
    return answer["config"]  # type: ignore[no-any-return]  # an object


async def _stream(connection: Connection, name: str) -> dict[str, Any] | None:
    info = await connection.stream_info(name)
    return None if info is None else info["config"]


async def _write(connection: Connection, definition: Definition, config: dict[str, Any], action: str) -> None:
    try:
        if definition.kind == "stream":
            await connection.api(f"STREAM.{action}.{definition.name}", config)
        else:
            # An empty action creates or updates; CREATE alone would fail when two processes apply.
            body = {"stream_name": definition.stream, "config": config, "action": ""}
            await connection.api(f"CONSUMER.CREATE.{definition.stream}.{definition.name}", body)
    except StoreFull as exc:
        cure = "lower LUCID_CAPTURE_MAX_MB" if definition.name.endswith("_CAPTURE") else _MORE_ROOM
        raise ConfigError(
            f"{definition.label} does not fit into the server's storage: it reserves "
            f"{int(config.get('max_bytes', 0)) // MIB} MiB; {cure}",
            **exc.fields,
        ) from exc
    except LucidError as exc:
        if exc.retry:
            raise
        raise ConfigError(f"{definition.kind} {definition.label}: {exc.message}", **exc.fields) from exc
