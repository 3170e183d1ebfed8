import asyncio

from lucid_events.handlers.attempts import MAX_KNOWN, Attempts
from tests.unit.handlers.rig import Rig


def test_deaths_are_told_from_retries_across_processes() -> None:
    """An attempt that ended in order, in whatever process, is no death; one that did not, is."""

    async def scenario() -> None:
        rig = Rig()
        first, second = Attempts("c", rig.meta), Attempts("c", rig.meta)
        assert await first.begin(7, 1) == 0
        assert await first.end(7, 1, failed=True) == 1
        assert await second.begin(7, 2) == 0  # retried in order
        assert await Attempts("c", rig.meta).begin(7, 3) == 1  # the second never ended
        assert await Attempts("c", rig.meta).begin(7, 4) == 2

    asyncio.run(scenario())


def test_failures_add_up_across_processes() -> None:
    """A message that fails in one process and then in another has failed twice."""

    async def scenario() -> None:
        rig = Rig()
        first, second = Attempts("c", rig.meta), Attempts("c", rig.meta)
        await first.begin(7, 1)
        assert await first.end(7, 1, failed=True) == 1
        await second.begin(7, 2)
        assert await second.end(7, 2, failed=True) == 2

    asyncio.run(scenario())


def test_a_message_without_trouble_writes_nothing() -> None:
    """First deliveries cost no write, and what is settled leaves no note."""

    async def scenario() -> None:
        rig = Rig()
        attempts = Attempts("c", rig.meta)
        await attempts.begin(1, 1)
        await attempts.forget(1)
        assert rig.server.stream("KV_lucid-meta").last_sequence == 0
        await attempts.begin(2, 2)
        await attempts.forget(2)
        assert await rig.meta.get("attempts.c.2") is None

    asyncio.run(scenario())


def test_without_notes_the_delivery_count_speaks() -> None:
    """A process that has no notes and never saw a message counts its earlier deliveries as deaths."""

    async def scenario() -> None:
        attempts = Attempts("c")
        assert await attempts.begin(7, 6) == 5
        assert await Attempts("c").begin(7, 1) == 0

    asyncio.run(scenario())


def test_notes_that_cannot_be_reached_stop_nothing() -> None:
    """A bucket that does not answer leaves counting to the process."""

    async def scenario() -> None:
        rig = Rig()
        rig.faults.fail_next("kv", times=100)
        attempts = Attempts("c", rig.meta)
        await attempts.begin(7, 1)
        assert await attempts.end(7, 1, failed=True) == 1
        await attempts.begin(7, 1)
        assert await attempts.end(7, 1, failed=True) == 2

    asyncio.run(scenario())


def test_memory_is_bounded() -> None:
    """Records of more messages than `MAX_KNOWN` are not kept."""

    async def scenario() -> None:
        attempts = Attempts("c")
        for sequence in range(MAX_KNOWN + 10):
            await attempts.end(sequence, 1, failed=True)
        assert await attempts.end(0, 1, failed=True) == 1
        assert await attempts.end(MAX_KNOWN, 1, failed=True) == 2

    asyncio.run(scenario())
