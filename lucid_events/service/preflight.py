"""What `lucid doctor` looks at: the server, the streams, what was seen of the log, room in capture."""

from functools import partial
from pathlib import Path

from lucid_events.domain.transitions import UNDER_WAY
from lucid_events.domain.values import MIB
from lucid_events.errors import IntegrityError, LucidError, StoreFull
from lucid_events.jetstream.definitions import DEFAULT_SETTINGS, load
from lucid_events.jetstream.faults import ROOM_ON_THE_DISK
from lucid_events.jetstream.preflight import Finding, preflight
from lucid_events.projections.checkpoints import Checkpoints
from lucid_events.service.adapters import Adapters, current_topology
from lucid_events.service.health import HealthCheck, Trouble, probes_of
from lucid_events.service.indexes import live_index
from lucid_events.service.lagging import lags
from lucid_events.service.witnessing import check_witnessed

CHUNKS_PER_SESSION = 2
"""Chunks an open session may have in capture at any time: one being written, one being stored."""

NOTHING = "lucid.no-such-subject"
"""Matches no message of any stream."""


async def examine(adapters: Adapters) -> list[Finding]:
    """Return what is wrong and what to change, worst first; nothing is changed."""
    found = await preflight(adapters.connection, adapters.subjects, await current_topology(adapters))
    try:
        position = await adapters.store.last_position()
        checkpoints = Checkpoints(adapters.meta, position.stream, position.incarnation)
        await checkpoints.check(adapters.store.last_position)
        await check_witnessed(adapters, position)
        if (full := await unwritten(adapters)) is not None:
            found.insert(0, Finding("error", full.what, full.change))
        found += await _room(adapters)
        found += await _probed(adapters)
    except IntegrityError as exc:
        found.insert(0, Finding("error", exc.message, "restore the log, or raise its incarnation"))
    except LucidError as exc:
        # Behind the errors, of which it may be a consequence: or it is the one thing they do not say.
        errors = [finding for finding in found if finding.level == "error"]
        if not any(exc.message in finding.what for finding in errors):
            change = "see above" if errors else "see what it says"
            found.insert(len(errors), Finding("error", exc.message, change))
    return found


async def why_not_written(adapters: Adapters) -> str:
    """Return which streams the server can't write any more, why, and what to do; empty when there is none."""
    trouble = await unwritten(adapters)
    return str(trouble) if trouble else ""


async def unwritten(adapters: Adapters) -> Trouble | None:
    """Return which streams the server can't write any more, None when it can write them all.

    Asked by a purge that matches nothing: a stream whose disk was full refuses that with the reason,
    where a publish is never answered. Who has no right to purge gets no answer here.
    """
    streams = [one for one in load(adapters.subjects, DEFAULT_SETTINGS) if one.kind == "stream"]
    refused, reason = [], ""
    for stream in streams:
        if not stream.config.get("deny_purge"):
            try:
                await adapters.connection.api(f"STREAM.PURGE.{stream.name}", {"filter": NOTHING})
            except StoreFull as exc:
                refused.append(stream.name)
                reason = reason or str(exc.fields.get("description", ""))
            except LucidError:
                pass  # not there, or not ours to purge: others look at that
    if not refused:
        return None
    what = f"the server's disk is or was full, nothing goes into {', '.join(refused)} ({reason})"
    return Trouble(what, ROOM_ON_THE_DISK)


async def _probed(adapters: Adapters) -> list[Finding]:
    """Look at those probes of `/health` that the checks above do not include."""
    folders = [Path(one) for one in (adapters.settings.spool, adapters.settings.chunk_output) if one]
    probes = [
        probe
        for probe in probes_of(adapters, partial(lags, adapters), folders=folders)
        if probe.name in {"consumers", "disk"}
    ]
    troubles = (await HealthCheck(probes).look()).troubles
    return [
        Finding("warning", one.what if one.change else f"{name}: {one.what}", one.change or "look at the log")
        for name, one in troubles.items()
    ]


async def _room(adapters: Adapters) -> list[Finding]:
    """Compare the capture stream's limit with what the open sessions may need."""
    info = await adapters.connection.api(f"STREAM.INFO.{adapters.subjects.capture_stream}")
    limit, used = info["config"]["max_bytes"], info["state"]["bytes"]
    index = await live_index(adapters)
    open_sessions = len({session async for session in index.sessions(UNDER_WAY)})
    needed = open_sessions * CHUNKS_PER_SESSION * adapters.settings.session_defaults.chunk_bytes
    if limit > 0 and needed > limit:
        what = f"capture takes {limit // MIB} MiB, {open_sessions} open sessions may need {needed // MIB} MiB"
        return [Finding("warning", what, "raise LUCID_CAPTURE_MAX_MB, then `lucid deploy --update`")]
    if limit > 0 and used > 0.8 * limit:
        what = f"capture holds {used // MIB} of {limit // MIB} MiB"
        return [Finding("warning", what, "run more workers, or raise LUCID_CAPTURE_MAX_MB")]
    return []
