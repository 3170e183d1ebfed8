"""Health: every probe is asked, each answer has its reason, and none hangs the others."""

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from lucid_events.config import Settings
from lucid_events.errors import StoreUnavailable
from lucid_events.service.adapters import Adapters
from lucid_events.service.health import Finding, HealthCheck, Probe, Trouble, probes_of


async def well() -> Trouble | None:
    """Find nothing wrong."""
    return None


def test_what_is_down_is_named_with_its_reason() -> None:
    """A probe that says, raises, or never answers is down; the others are told all the same."""

    async def low() -> Trouble | None:
        return Trouble("12 MiB free", "make room")

    async def away() -> Trouble | None:
        raise StoreUnavailable("not connected")

    async def hangs() -> Trouble | None:
        await asyncio.Event().wait()
        return None

    async def hidden() -> Trouble | None:
        raise PermissionError(13, "Permission denied", "/spool")

    async def main() -> None:
        probes = [
            Probe("a", well),
            Probe("b", low),
            Probe("c", away),
            Probe("d", hangs),
            Probe("e", hidden),
        ]
        found = await HealthCheck(probes, timeout_s=0.05).look()
        assert not found.well
        assert [one.name for one in found.findings] == ["a", "b", "c", "d", "e"]
        assert found.down == {
            "b": "12 MiB free: make room",
            "c": "not connected",
            "d": "no answer within 0.05 s",
            "e": "[Errno 13] Permission denied: '/spool'",
        }
        assert found.troubles["b"] == Trouble("12 MiB free", "make room")

    asyncio.run(main())


def test_findings_are_kept_as_long_as_their_probe_says() -> None:
    """A costly probe is asked once however many ask; one that keeps nothing is asked every time."""
    asked = {"costly": 0, "fresh": 0}
    now = 0.0

    def counting(name: str) -> Probe:
        async def check() -> Trouble | None:
            asked[name] += 1
            await asyncio.sleep(0)
            return None

        return Probe(name, check, 30 if name == "costly" else 0)

    async def main() -> None:
        nonlocal now
        health = HealthCheck([counting("costly"), counting("fresh")], clock=lambda: now)
        await asyncio.gather(*(health.look() for _ in range(5)))
        assert asked == {"costly": 1, "fresh": 5}
        now = 31.0
        assert (await health.look()).well
        assert asked["costly"] == 2

    asyncio.run(main())


def disk(folders: list[Path]) -> Finding:
    """What the probe of the disks under `folders` finds."""
    adapters = cast(Adapters, SimpleNamespace(settings=Settings()))

    async def nothing() -> dict[str, object]:
        return {}

    probes = probes_of(adapters, nothing, folders=folders)  # type: ignore[arg-type]  # not asked for
    (found,) = asyncio.run(HealthCheck([one for one in probes if one.name == "disk"]).look()).findings
    return found


def test_a_disk_that_can_not_be_looked_at_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that this process may not look at is a reason like a full one; the others are looked at."""
    real: Callable[[Path], object] = shutil.disk_usage

    def usage(folder: Path) -> object:
        if folder.name == "hidden":
            raise PermissionError(13, "Permission denied", str(folder))
        return real(folder)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    assert disk([tmp_path]).well
    found = disk([hidden, tmp_path])
    assert found.trouble == Trouble(f"{hidden}: Permission denied", "let this process look at it")
