import asyncio
from types import SimpleNamespace
from typing import cast

from lucid_events.config import load_settings
from lucid_events.memory.kv import MemoryKeyValue
from lucid_events.memory.server import MemoryServer
from lucid_events.service.adapters import Adapters
from lucid_events.service.scrubbing import KEY, Scrub
from tests.unit.handlers.command_side import CommandSide

HOUR_S = 3600.0


def scrub(side: CommandSide, meta: MemoryKeyValue) -> Scrub:
    """Return the scrub of one worker."""
    settings = load_settings({"LUCID_SCRUB_INTERVAL": str(HOUR_S), "LUCID_SCRUB_SAMPLE": "5"})
    adapters = SimpleNamespace(settings=settings, meta=meta, clock=side.clock)
    return Scrub(cast(Adapters, adapters), side.handler)


def bucket(server: MemoryServer, side: CommandSide) -> MemoryKeyValue:
    """Return the bucket of small things."""
    return MemoryKeyValue(server, side.subjects.meta_bucket)


def test_of_all_workers_one_does_a_round() -> None:
    """Whoever writes the number of a round first does it; the next round is anybody's again."""

    async def main() -> None:
        side = CommandSide()
        workers = [scrub(side, bucket(side.server, side)) for _ in range(3)]
        for _ in range(3):
            claims = await asyncio.gather(*(worker.claim() for worker in workers))
            assert sorted(claims) == [False, False, True]
            assert not any([await worker.claim() for worker in workers])
            await side.clock.sleep(HOUR_S)

    asyncio.run(main())


def test_junk_in_the_place_of_the_number_is_written_over() -> None:
    """A value that is no number keeps nobody from scrubbing."""

    async def main() -> None:
        side = CommandSide()
        meta = bucket(side.server, side)
        await meta.put(KEY, b"?")
        assert await scrub(side, meta).claim()

    asyncio.run(main())


def test_a_stop_ends_a_round_in_hand() -> None:
    """A round that takes for ever is cut short by `stop`, and the task ends in order."""

    async def main() -> None:
        side = CommandSide()
        worker = scrub(side, bucket(side.server, side))
        begun = asyncio.Event()

        async def endless(seed: str) -> None:
            begun.set()
            await asyncio.Event().wait()

        worker.round = endless  # type: ignore[method-assign] # a round that never ends
        running = asyncio.create_task(worker.run())
        await begun.wait()
        worker.stop()
        await asyncio.wait_for(running, timeout=10)

    asyncio.run(main())
