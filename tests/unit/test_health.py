"""Health: every probe is asked, each answer has its reason, and none hangs the others."""

import asyncio

from lucid_events.errors import StoreUnavailable
from lucid_events.service.health import HealthCheck, Probe


async def well() -> str:
    """Find nothing wrong."""
    return ""


def test_what_is_down_is_named_with_its_reason() -> None:
    """A probe that says, raises, or never answers is down; the others are told all the same."""

    async def low() -> str:
        return "12 MiB free: make room"

    async def away() -> str:
        raise StoreUnavailable("not connected")

    async def hangs() -> str:
        await asyncio.Event().wait()
        return ""

    async def main() -> None:
        probes = [Probe("a", well), Probe("b", low), Probe("c", away), Probe("d", hangs)]
        found = await HealthCheck(probes, timeout_s=0.05).look()
        assert not found.well
        assert [one.name for one in found.findings] == ["a", "b", "c", "d"]
        assert found.down == {
            "b": "12 MiB free: make room",
            "c": "not connected",
            "d": "no answer within 0.05 s",
        }

    asyncio.run(main())


def test_findings_are_kept_as_long_as_their_probe_says() -> None:
    """A costly probe is asked once however many ask; one that keeps nothing is asked every time."""
    asked = {"costly": 0, "fresh": 0}
    now = 0.0

    def counting(name: str) -> Probe:
        async def check() -> str:
            asked[name] += 1
            await asyncio.sleep(0)
            return ""

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
