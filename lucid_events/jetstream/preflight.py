"""Checks a server before work begins: what is wrong is named, with the setting to change."""

from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec

from lucid_events.domain.values import MIB
from lucid_events.errors import ConfigError
from lucid_events.jetstream.connection import Connection
from lucid_events.jetstream.definitions import DEFAULT_SETTINGS, TopologySettings, load
from lucid_events.jetstream.restore_mark import FINISH, half_restored, marked
from lucid_events.jetstream.topology import Difference, compare
from lucid_events.subjects import Subjects

OLDEST_LTS: Final = (2, 12, 14)
OLDEST: Final = (2, 14, 4)
"""Before these, known faults lose acknowledged writes or leave atomic batches half open."""
LEAST_PAYLOAD: Final = 512 * 1024
"""Events take up to 256 KiB and headers; capture messages below this size waste fsyncs."""

SAFETY_KEYS = frozenset({"persist_mode", "deny_delete", "deny_purge", "discard", "retention", "storage"})


class Finding(msgspec.Struct, frozen=True):
    """One thing found. `error`: don't start; `warning`: a promise is weaker; `info`: not checkable."""

    level: Literal["error", "warning", "info"]
    what: str
    change: str


async def preflight(
    connection: Connection,
    subjects: Subjects,
    settings: TopologySettings = DEFAULT_SETTINGS,
    *,
    checkpoints: Mapping[str, int] | None = None,
    sync_interval: str | None = None,
) -> list[Finding]:
    """Return what is wrong with the server, worst first; nothing is changed.

    Args:
        connection: to the server to check.
        subjects: whose streams.
        settings: as the streams were deployed.
        checkpoints: stream -> highest sequence known from it. A stream that ends below has been cut
            back, and would use sequences a second time.
        sync_interval: the server's setting where it is known (embedded); clients can't see it.

    Raises:
        StoreUnavailable: the server could not be asked.
        ConfigError: this login has no right to ask.
    """
    found = [*server_findings(connection), *_sync(sync_interval)]
    try:
        await connection.api("INFO")
    except ConfigError as exc:
        return [
            *_sorted(found),
            Finding("error", exc.message, "turn JetStream on, for the server and this account"),
        ]
    for difference in await compare(connection, subjects, settings):
        found.append(_smaller_capture(difference, subjects) or _deviation(difference))
    for definition in load(subjects, settings):
        info = await connection.stream_info(definition.name) if definition.kind == "stream" else None
        if info is not None:
            found += _stream_findings(definition.name, info, (checkpoints or {}).get(definition.name, 0))
    return _sorted(found)


def server_findings(connection: Connection) -> list[Finding]:
    """Return what is wrong with the server itself, whatever streams it has."""
    return [*_version(connection), *_payload(connection)]


def failures(findings: list[Finding]) -> list[Finding]:
    """Return those findings that forbid a start."""
    return [finding for finding in findings if finding.level == "error"]


def _sorted(findings: list[Finding]) -> list[Finding]:
    order = ("error", "warning", "info")
    return sorted(findings, key=lambda finding: order.index(finding.level))


def _version(connection: Connection) -> list[Finding]:
    version = connection.server_version
    if version >= OLDEST or OLDEST_LTS <= version < (2, 13, 0):
        return []
    shown, lts, newest = (".".join(map(str, v)) for v in (version, OLDEST_LTS, OLDEST))
    return [
        Finding("error", f"nats-server {shown} is too old", f"install {lts} or later of 2.12, or {newest}")
    ]


def _payload(connection: Connection) -> list[Finding]:
    if connection.max_payload >= LEAST_PAYLOAD:
        return []
    what = f"max_payload is {connection.max_payload} bytes"
    return [Finding("error", what, f"set max_payload to 2MB, at least {LEAST_PAYLOAD}")]


def _sync(sync_interval: str | None) -> list[Finding]:
    if sync_interval == "always":
        return []
    change = "set `sync_interval: always` in the server's jetstream block"
    if sync_interval is None:
        what = "whether an acknowledged write survives a power failure is not visible to clients"
        return [Finding("info", what, f"{change}, unless it is replicated over failure domains")]
    what = f"sync_interval is {sync_interval}: a power failure loses that much of acknowledged writes"
    return [Finding("warning", what, change)]


def _deviation(difference: Difference) -> Finding:
    if not difference.path:
        return Finding("error", str(difference), "run `lucid deploy`")
    level: Literal["error", "warning"] = "error" if difference.path in SAFETY_KEYS else "warning"
    return Finding(level, str(difference), "run `lucid deploy --update`, or change the definition")


def _smaller_capture(difference: Difference, subjects: Subjects) -> Finding | None:
    """Return what to say of a capture stream that was fitted to its disk, None for anything else."""
    if (difference.name, difference.path) != (subjects.capture_stream, "max_bytes"):
        return None
    if not 0 < difference.actual < difference.defined:
        return None
    what = (
        f"capture takes {difference.actual // MIB} MiB, LUCID_CAPTURE_MAX_MB is {difference.defined // MIB}"
    )
    change = (
        "nothing on an embedded server: it takes a quarter of the disk that was free at its first start; "
        "elsewhere run `lucid deploy --update`"
    )
    return Finding("info", what, change)


def _stream_findings(name: str, info: Mapping[str, Any], checkpoint: int) -> list[Finding]:
    found = []
    if info["config"].get("persist_mode") == "async":
        change = "create the stream again without persist_mode async: it can't be changed"
        found.append(Finding("error", f"stream {name} acknowledges before it writes", change))
    if backup := marked(info["config"]):
        found.append(Finding("error", half_restored(backup), FINISH))
    last = info["state"]["last_seq"]
    if last < checkpoint:
        what = f"stream {name} ends at {last}, but {checkpoint} was seen: it has been cut back"
        found.append(Finding("error", what, "restore it from a backup, or raise its incarnation"))
    return found
