"""The stages of the pipeline: which there are, which depend on which, and what their settings drive.

The stages share pools: one pass of a worker takes a chunk from capture through compression into the
store, and reads it once. So not each of the thirty variables has something of its own to drive; one
that has not says so (`idle`), here, in the table of settings and at the start of a service.
"""

from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType
from typing import Annotated, Any, Final

import msgspec

from lucid_events.config.declaring import Group, setting

BUILT: Final = ("recording", "chunk_generation", "compression", "merkle_building", "storage")
"""Stages that exist; the default of `LUCID_STAGES`."""

NOT_BUILT: Final = ("encryption",)

DEPENDS_ON: Final[Mapping[str, tuple[tuple[str, ...], ...]]] = MappingProxyType(
    {
        "recording": (),
        "chunk_generation": (("recording",),),
        "compression": (("chunk_generation",),),
        "encryption": (("compression",),),
        "merkle_building": (("encryption", "compression"),),
        "storage": (("merkle_building",),),
    }
)
"""Stage -> what it needs: of each group of alternatives one."""

STORING: Final = ("chunk_generation", "compression", "merkle_building", "storage")
"""What the workers do with a sealed chunk, in one pass: all of it or, in this process, nothing."""

_ENCRYPTION = "encryption is not built"


class StageSettings(Group, frozen=True, kw_only=True):
    """Limits of one stage; each stage has its own defaults."""

    workers: int
    buffer: int
    timeout_s: float
    retries: int
    memory_mib: int


def _stage(
    name: str,
    variable: str,
    workers: tuple[int, str],
    buffer: tuple[int, str],
    timeout_s: tuple[float, str],
    retries: tuple[int, str],
    memory: str,
) -> StageSettings:
    """Return the group of one stage: defaults, and what each drives (`!` begins why it drives nothing)."""
    rows: tuple[tuple[str, Any, str, object, str, int, str], ...] = (
        ("workers", int, f"{variable}_WORKERS", workers[0], "", 256, workers[1]),
        ("buffer", int, f"{variable}_BUFFER_SIZE", buffer[0], "", 100_000, buffer[1]),
        ("timeout_s", float, f"{variable}_TIMEOUT", timeout_s[0], "s", 3600, timeout_s[1]),
        ("retries", int, f"{variable}_RETRY_COUNT", retries[0], "", 100, retries[1]),
        ("memory_mib", int, f"{variable}_MAX_MEMORY_MB", MEMORY_MIB, "MiB", 65_536, memory),
    )
    made = msgspec.defstruct(
        f"{name}_settings",
        [
            (
                field,
                Annotated[kind, setting(env, _why(what), unit, idle=_idle(what), ge=1, le=most)],
                default,
            )
            for field, kind, env, default, unit, most, what in rows
        ],
        bases=(StageSettings,),
        frozen=True,
        kw_only=True,
        module=__name__,
    )
    return made()  # type: ignore[return-value]  # a subclass made at run time


def _why(what: str) -> str:
    return f"no effect: {what[1:]}" if what.startswith("!") else what


def _idle(what: str) -> str:
    return what[1:] if what.startswith("!") else ""


MEMORY_MIB: Final = 64
"""Ceiling of a pool unless set. Three chunks of 10 MiB fit with their copies; half leaves cores idle,
twice only lets more chunks wait in memory instead of in capture."""


class StagesSettings(Group, frozen=True, kw_only=True):
    """The limits of every stage; `Settings.stages`."""

    recording: StageSettings = _stage(
        "recording",
        "RECORDER",
        (2, "!each recording has a task of its own; MAX_CONCURRENT_SESSIONS bounds them"),
        (1000, "!a recorder's unacknowledged bytes are bounded, not messages: LUCID_WINDOW_MB"),
        (60, "!a publish has the connection's own time-out; starting has LUCID_START_TIMEOUT"),
        (3, "!a recorder tries until its bytes are stored; it never gives one up"),
        "!a recorder's unacknowledged bytes are bounded by LUCID_WINDOW_MB",
    )
    chunk_generation: StageSettings = _stage(
        "chunk_generation",
        "CHUNK",
        (3, "chunks read from capture at once, by one process"),
        (800, "sealed chunks one process holds, at most twice what its workers can do"),
        (45, "longest one read of a chunk takes before it is tried again"),
        (3, "!failures are counted per chunk, whatever stage: COMPRESSOR_RETRY_COUNT"),
        "ceiling of raw bytes in work at once, pieces and chunk counted",
    )
    compression: StageSettings = _stage(
        "compression",
        "COMPRESSOR",
        (4, "chunks compressed at once, one thread each, at most as many as there are cores"),
        (500, "most sealed chunks handed out to all workers and not yet done"),
        (30, "a worker silent this long is dead and its chunk given to another"),
        (3, "own failures before a message is set aside"),
        "ceiling of bytes in compression at once, raw and stored",
    )
    encryption: StageSettings = _stage(
        "encryption",
        "ENCRYPTOR",
        (4, f"!{_ENCRYPTION}"),
        (500, f"!{_ENCRYPTION}"),
        (30, f"!{_ENCRYPTION}"),
        (3, f"!{_ENCRYPTION}"),
        f"!{_ENCRYPTION}",
    )
    merkle_building: StageSettings = _stage(
        "merkle_building",
        "MERKLE",
        (2, "sessions finalised at once: root and manifest"),
        (300, "most events handed out to all finalisers and not yet done"),
        (20, "a finaliser silent this long is dead and its event given to another"),
        (3, "own failures before an event is set aside"),
        "ceiling of event bytes in work at once",
    )
    storage: StageSettings = _stage(
        "storage",
        "STORAGE",
        (2, "objects put at once, by one process"),
        (100, "!pieces under way are bounded in bytes by the object store's own window"),
        (60, "longest one put takes before it is tried again"),
        (3, "!failures are counted per chunk, whatever stage: COMPRESSOR_RETRY_COUNT"),
        "ceiling of stored bytes being put at once",
    )


def stage_problems(enabled: Collection[str]) -> list[str]:
    """Return why the stages `enabled` can't run together, as lines that name `LUCID_STAGES`."""
    at = f"LUCID_STAGES={','.join(enabled)}"
    found = [f"{at}: unknown stage {name!r} (allowed: {', '.join(BUILT)})" for name in _unknown(enabled)]
    found += [f"{at}: {name} is not built: leave it out" for name in enabled if name in NOT_BUILT]
    if found:
        return found
    found = [f"{at}: {problem}" for problem in graph_problems(enabled, DEPENDS_ON)]
    storing = [name for name in STORING if name in enabled]
    if not found and storing and len(storing) < len(STORING):
        missing = ", ".join(name for name in STORING if name not in enabled)
        found.append(
            f"{at}: without {missing} no chunk would become ready: these stages are one pass of a worker, "
            "name all of them or none (then this process only takes recordings in)"
        )
    return found


def graph_problems(
    enabled: Iterable[str], depends_on: Mapping[str, tuple[tuple[str, ...], ...]]
) -> list[str]:
    """Return which of `enabled` need a stage that is not enabled or unknown, and every cycle once."""
    on = list(dict.fromkeys(enabled))
    found = []
    for name in on:
        for alternatives in depends_on.get(name, ()):
            strangers = [one for one in alternatives if one not in depends_on]
            if strangers:
                found.append(f"{name} depends on the unknown stage {', '.join(strangers)}")
            elif not any(one in on for one in alternatives):
                found.append(f"{name} depends on {' or '.join(alternatives)}, which is not enabled")
    return found + _cycles(on, depends_on)


def _cycles(on: list[str], depends_on: Mapping[str, tuple[tuple[str, ...], ...]]) -> list[str]:
    found: dict[frozenset[str], str] = {}

    def follow(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            ring = path[path.index(name) :]
            found.setdefault(frozenset(ring), f"stages wait for each other: {' → '.join((*ring, name))}")
            return
        for alternatives in depends_on.get(name, ()):
            for one in alternatives:
                if one in on:
                    follow(one, (*path, name))

    for name in on:
        follow(name, ())
    return list(found.values())


def _unknown(enabled: Iterable[str]) -> list[str]:
    return [name for name in enabled if name not in BUILT and name not in NOT_BUILT]
