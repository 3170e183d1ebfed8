"""The records of a group: one contract for the server's and for those in memory that other tests use."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from lucid_events.faust_nats.errors import Refused
from lucid_events.faust_nats.link import WRONG_SEQUENCE, Link
from lucid_events.faust_nats.membership import Generation, Group, Leader, Member
from lucid_events.faust_nats.options import Options
from lucid_events.faust_nats.topology import Names
from tests.faust.memory_group import MemoryGroup, Records
from tests.faust.waiting import until
from tests.nats_server import NatsServer

Scenario = Callable[[Group, Callable[[float], None]], Awaitable[None]]
Run = Callable[[Scenario], None]


@pytest.fixture(params=["memory", "jetstream"])
def run(request: pytest.FixtureRequest, ident: str) -> Run:
    """Run a scenario on a group without records; time is advanced in memory, and passes on the server."""

    @asynccontextmanager
    async def group() -> AsyncIterator[tuple[Group, Callable[[float], None]]]:
        if request.param == "memory":
            records = Records()
            yield MemoryGroup(records, session_s=1), records.advance
            return
        server: NatsServer = request.getfixturevalue("server")
        link = Link(Options(servers=(server.url,)), "test")
        await link.open()
        try:
            made = Group(link, Names(ident, "app"), session_s=1)
            await made.create(1)
            yield made, lambda _: None
        finally:
            await link.close()

    def run_scenario(scenario: Scenario) -> None:
        async def main() -> None:
            async with group() as (made, advance):
                await scenario(made, advance)

        asyncio.run(main())

    return run_scenario


def test_a_record_is_replaced_only_from_the_sequence_expected(run: Run) -> None:
    """A compare-and-set: from another sequence than the last it is refused and nothing changes."""

    async def scenario(group: Group, _: Callable[[float], None]) -> None:
        first = await group.put("generation", Generation(1, {"a": 1}), expect=0)
        second = await group.put("generation", Generation(2, {"a": 1}), expect=first)
        assert second > first
        with pytest.raises(Refused) as refused:
            await group.put("generation", Generation(3, {}), expect=first)
        assert refused.value.err_code in WRONG_SEQUENCE
        assert (await group.snapshot()).get("generation", Generation) == (Generation(2, {"a": 1}), second)

    run(scenario)


def test_of_two_that_claim_at_once_one_wins(run: Run) -> None:
    """Two workers that both found no leader: one lease is stored, the other is refused."""

    async def scenario(group: Group, _: Callable[[float], None]) -> None:
        claims = [group.put("leader", Leader(name), expect=0, ttl=group.session_ttl) for name in "ab"]
        told = await asyncio.gather(*claims, return_exceptions=True)
        assert {type(one) for one in told} == {int, Refused}
        winner = "ab"[next(number for number, one in enumerate(told) if isinstance(one, int))]
        assert (await group.snapshot()).get("leader", Leader)[0] == Leader(winner)

    run(scenario)


def test_a_record_goes_when_its_time_runs_out(run: Run) -> None:
    """A member that gives no sign of life is gone after its session, and its record can be made anew."""

    async def scenario(group: Group, advance: Callable[[float], None]) -> None:
        first = await group.put("member", Member(1), member="a", ttl=group.session_ttl)
        await group.put("member", Member(1), member="stays")
        assert (await group.snapshot()).members() == {"a": 1, "stays": 1}
        advance(1.5)

        async def gone() -> bool:
            return (await group.snapshot()).members() == {"stays": 1}

        await until(gone, "the session at its end")
        with pytest.raises(Refused):
            await group.put("member", Member(1), member="a", expect=first)

    run(scenario)


def test_who_leaves_is_gone_at_once(run: Run) -> None:
    """Nobody waits for the session, or for the lease, of a worker that said good-bye."""

    async def scenario(group: Group, _: Callable[[float], None]) -> None:
        await group.put("member", Member(1), member="a", ttl=group.session_ttl)
        await group.put("leader", Leader("a"), ttl=group.session_ttl)
        await group.leave("a", leading=True)
        snapshot = await group.snapshot()
        assert snapshot.members() == {}
        assert snapshot.get("leader", Leader)[0] is None

    run(scenario)


def test_a_change_is_told_to_who_watches(run: Run) -> None:
    """A watcher hears of a new generation; after it stopped it hears nothing more."""

    async def scenario(group: Group, _: Callable[[float], None]) -> None:
        heard: list[None] = []
        stop = await group.watch(lambda: heard.append(None))
        await group.put("generation", Generation(1, {}))
        await until(lambda: bool(heard), "a sign")
        await stop()
        count = len(heard)
        await group.put("generation", Generation(2, {}))
        await group.snapshot()
        assert len(heard) == count

    run(scenario)
