"""Whether the pipeline is well: probes, looked at together, each with its reason when it is not.

A probe is a name and a function that returns what is wrong and what to change; `lucid doctor` and the HTTP
services look at the same ones. What is costly to find out is kept for a while, the connection never.
"""

import asyncio
import shutil
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from lucid_events.domain.values import MIB
from lucid_events.errors import LucidError
from lucid_events.handlers.progress import Lag
from lucid_events.jetstream import topology
from lucid_events.jetstream.preflight import SAFETY_KEYS
from lucid_events.service.adapters import Adapters, current_topology

PROBE_TIMEOUT_S: Final = 5.0
"""Longest one probe may take. Half calls a busy server dead, twice keeps an orchestrator waiting."""
STUCK_S: Final = 300.0
"""How long a consumer may have work and get nothing done. A chunk of 100 MiB at zstd 22 takes two
minutes; half calls that stuck, twice finds a dead worker ten minutes late."""


class Trouble(msgspec.Struct, frozen=True):
    """What is wrong, and what to do about it where that is known."""

    what: str
    change: str = ""

    def __str__(self) -> str:
        return f"{self.what}: {self.change}" if self.change else self.what


Check = Callable[[], Awaitable[Trouble | None]]
"""Returns what is wrong, None when nothing is."""


class Probe(msgspec.Struct, frozen=True):
    """One thing to look at; `kept_s` is how long its finding may be given again."""

    name: str
    check: Check
    kept_s: float = 0.0


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What one probe found; no `trouble` when it is well."""

    name: str
    trouble: Trouble | None = None

    @property
    def well(self) -> bool:
        """Whether nothing is wrong."""
        return self.trouble is None


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """What all probes found."""

    findings: tuple[Finding, ...]

    @property
    def well(self) -> bool:
        """Whether every probe is."""
        return all(finding.well for finding in self.findings)

    @property
    def down(self) -> dict[str, str]:
        """What is not well, why and what to do, in words."""
        return {name: str(trouble) for name, trouble in self.troubles.items()}

    @property
    def troubles(self) -> dict[str, Trouble]:
        """What is not well, and why."""
        return {finding.name: finding.trouble for finding in self.findings if finding.trouble is not None}


class HealthCheck:
    """Looks at `probes`; a probe that raises or takes too long is not well."""

    def __init__(
        self,
        probes: Sequence[Probe],
        *,
        timeout_s: float = PROBE_TIMEOUT_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._probes, self._timeout_s, self._clock = tuple(probes), timeout_s, clock
        self._kept: dict[str, tuple[float, Finding]] = {}
        self._looking = {probe.name: asyncio.Lock() for probe in probes}

    async def look(self) -> Health:
        """Return what every probe finds, in their order; they are asked side by side."""
        return Health(findings=tuple(await asyncio.gather(*(self._look(one) for one in self._probes))))

    async def _look(self, probe: Probe) -> Finding:
        async with self._looking[probe.name]:  # askers at the same time share one look
            kept = self._kept.get(probe.name)
            if kept is not None and self._clock() - kept[0] < probe.kept_s:
                return kept[1]
            found = await self._asked(probe)
            self._kept[probe.name] = (self._clock(), found)
            return found

    async def _asked(self, probe: Probe) -> Finding:
        try:
            async with asyncio.timeout(self._timeout_s):
                trouble = await probe.check()
        except TimeoutError:
            trouble = Trouble(f"no answer within {self._timeout_s:g} s")
        except LucidError as exc:
            trouble = Trouble(exc.message)
        except OSError as exc:
            trouble = Trouble(str(exc))
        return Finding(name=probe.name, trouble=trouble)


def probes_of(
    adapters: Adapters, lags: Callable[[], Awaitable[Mapping[str, Lag]]], *, folders: Sequence[Path] = ()
) -> list[Probe]:
    """Return the probes of a pipeline.

    Args:
        adapters: of the connection that the process works with.
        lags: how far behind the consumers are.
        folders: where this process writes files; the disks under them need `LUCID_DISK_FLOOR_MB`.
    """
    kept_s = adapters.settings.http.health_check_interval_s
    floor = adapters.settings.disk_floor_mib * MIB

    async def nats() -> Trouble | None:
        if not adapters.connection.connected:
            return Trouble("not connected to NATS", "is the server of NATS_URL up?")
        await adapters.connection.api("INFO")
        return None

    async def streams() -> Trouble | None:
        wanted = await current_topology(adapters)
        different = await topology.compare(adapters.connection, adapters.subjects, wanted)
        wrong = [str(one) for one in different if not one.path or one.path in SAFETY_KEYS]
        return Trouble("; ".join(wrong), "run `lucid deploy`") if wrong else None

    async def consumers() -> Trouble | None:
        stuck = [
            f"{name} has {lag.events_behind} messages and did nothing for {lag.seconds_since_progress:.0f} s"
            for name, lag in (await lags()).items()
            if lag.events_behind and lag.seconds_since_progress > STUCK_S
        ]
        return Trouble("; ".join(stuck), "are workers running?") if stuck else None

    async def disk() -> Trouble | None:
        low, hidden = [], []
        for folder in folders:
            try:
                free = await asyncio.to_thread(_free, folder)
            except OSError as exc:
                hidden.append(f"{folder}: {exc.strerror}")
                continue
            if free < floor:
                low.append(f"{folder} has {free // MIB} MiB free, LUCID_DISK_FLOOR_MB is {floor // MIB}")
        changes = (["make room"] if low else []) + (["let this process look at it"] if hidden else [])
        return Trouble("; ".join(low + hidden), ", ".join(changes)) if changes else None

    return [
        Probe("nats", nats),
        Probe("streams", streams, kept_s),
        Probe("consumers", consumers, kept_s),
        Probe("disk", disk, kept_s),
    ]


def _free(folder: Path) -> int:
    there = folder.absolute()
    while not there.exists():
        there = there.parent
    return shutil.disk_usage(there).free
