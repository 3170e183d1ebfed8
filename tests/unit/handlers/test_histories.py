import asyncio
import logging

import msgspec
import pytest

from lucid_events.domain import commands as cmd
from lucid_events.domain.ids import SessionId
from lucid_events.errors import IntegrityError, StoreUnavailable
from lucid_events.handlers import snapshots
from lucid_events.handlers.histories import Histories
from tests.unit.handlers.command_side import SID, CommandSide


def counting_reads(side: CommandSide) -> list[int]:
    """Note the version every read of a history begins behind."""
    begun: list[int] = []
    read = side.store.read

    def noted(session: SessionId, *, after: int = 0, upto: int | None = None) -> object:
        begun.append(after)
        return read(session, after=after, upto=upto)  # type: ignore[arg-type] # a version is a number

    side.store.read = noted  # type: ignore[method-assign, assignment] # noted, not replaced
    return begun


async def marks(side: CommandSide, count: int, prefix: str = "m") -> None:
    """Append `count` events."""
    for i in range(count):
        await side.ask(cmd.Mark(label=str(i)), id=f"{prefix}{i}")


def test_an_empty_history_loads_as_nothing_known() -> None:
    """A session nobody created is at version 0 in no state."""

    async def main() -> None:
        history = await CommandSide().histories.load(SID)
        assert (history.state.state, history.version, history.head, history.damage) == (None, 0, "", None)

    asyncio.run(main())


def test_a_recently_used_history_is_not_read_again() -> None:
    """Deciding on the cache reads nothing; only the tail is read when somebody else has appended."""

    async def main() -> None:
        side = CommandSide()
        other = side.process()
        await side.ask(cmd.Create(), id="c1")
        version = (await other.histories.load(SID)).version
        begun = counting_reads(other)
        await other.histories.load(SID)
        assert begun == []
        await side.ask(cmd.Start(), id="c2")
        refreshed = await other.histories.refresh(SID)
        assert begun == [version]
        assert str(refreshed.state.state) == "starting"

    asyncio.run(main())


def test_the_version_counts_strays() -> None:
    """The guard sees the last message, so the version does too; head and state are the last event's."""

    async def main() -> None:
        side = CommandSide()
        await side.ask(cmd.Create(), id="c1")
        before = await side.histories.load(SID)
        stray = side.server.publish(f"lucid.evt.{SID}.chunk.ready", b"+OK")
        after = await side.histories.refresh(SID)
        assert (after.version, after.head) == (stray.sequence, before.head)
        assert after.state == before.state

    asyncio.run(main())


def test_the_cache_is_bounded_and_drops_the_least_recently_used() -> None:
    """Memory does not grow with the number of sessions ever seen."""

    async def main() -> None:
        side = CommandSide()
        histories = Histories(side.store, clock=side.clock, cached=2)
        for session in ("a", "b", "a", "c"):
            await histories.load(SessionId(session))
        begun = counting_reads(side)
        for session in ("a", "c"):
            await histories.load(SessionId(session))
        assert begun == []
        await histories.load(SessionId("b"))
        assert begun == [0]

    asyncio.run(main())


def test_loading_begins_at_the_snapshot() -> None:
    """A long history is read from its last snapshot on, and comes out the same, integer keys included."""

    async def main() -> None:
        side = CommandSide()
        await side.start()
        await side.seal(b"abc")
        await marks(side, 60)
        whole = await Histories(side.store, clock=side.clock).load(SID)
        other = side.process()
        begun = counting_reads(other)
        history = await other.histories.load(SID)
        assert min(begun) > 40
        assert history == whole
        assert list(history.state.pending) == [0]

    asyncio.run(main())


def test_a_snapshot_of_other_rules_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """When `evolve` has changed since, the history is read from its start."""

    async def main() -> None:
        side = CommandSide()
        await side.start()
        await marks(side, 60)
        monkeypatch.setattr(snapshots, "EVOLVE_FINGERPRINT", "another")
        other = side.process()
        begun = counting_reads(other)
        await other.histories.load(SID)
        assert begun == [0]

    asyncio.run(main())


@pytest.mark.parametrize("change", ["head", "garbage"])
def test_a_snapshot_the_log_does_not_bear_out_is_not_believed(change: str) -> None:
    """A snapshot of another log, or no snapshot at all, costs a longer read and nothing else."""

    async def main() -> None:
        side = CommandSide()
        await side.start()
        await marks(side, 60)
        entry = await side.snapshots.get(SID)
        assert entry is not None
        snapshot = msgspec.msgpack.decode(entry[0], type=snapshots.Snapshot)
        forged = msgspec.structs.replace(snapshot, head="0" * 64)  # the log ends otherwise there
        value = msgspec.msgpack.encode(forged) if change == "head" else b"\xc1garbage"
        await side.snapshots.put(SID, value)
        other = side.process()
        begun = counting_reads(other)
        history = await other.histories.load(SID)
        assert begun[-1] == 0
        assert history == await side.histories.refresh(SID)

    asyncio.run(main())


def test_a_snapshot_that_can_not_be_written_is_no_error() -> None:
    """Snapshots are best effort: a command does not fail for want of one."""

    async def main() -> None:
        side = CommandSide()
        await side.start()
        side.faults.fail_next("kv", times=3)
        await marks(side, 120)
        assert await side.snapshots.get(SID) is None

    asyncio.run(main())


def test_a_broken_link_is_told_loudly_once_and_read_over(caplog: pytest.LogCaptureFixture) -> None:
    """Damage names the first broken link, is logged as an error, and the rest is still read."""

    async def main() -> None:
        side = CommandSide()
        await side.start()
        await marks(side, 3)
        log = side.server.stream(side.subjects.events_stream)
        events = await side.events()
        log.remove([events[3].sequence])
        history = await side.process().histories.load(SID)
        assert history.damage is not None
        assert f"at {events[4].sequence} " in history.damage
        assert history.version == int(events[-1].sequence)
        assert history.head == events[-1].digest

    with caplog.at_level(logging.ERROR, logger="lucid_events"):
        asyncio.run(main())
    assert [record.levelname for record in caplog.records] == ["ERROR"]


def test_a_history_that_can_not_be_read_is_not_the_callers_fault() -> None:
    """An event of an unknown type is a matter of integrity, not of the command that met it."""

    async def main() -> None:
        side = CommandSide()
        await side.ask(cmd.Create(), id="c1")
        stored = side.server.stream(side.subjects.events_stream).messages(side.subjects.history(SID))[0]
        headers = {**stored.headers, "ce-type": "chunk.invented.v1", "Nats-Msg-Id": "x", "ce-id": "x"}
        side.server.publish(f"lucid.evt.{SID}.chunk.invented", b"{}", headers)
        with pytest.raises(IntegrityError):
            await side.process().histories.load(SID)

    asyncio.run(main())


def test_a_lagging_replica_is_waited_for() -> None:
    """What the leader has is what is answered with, also when a read comes from a replica behind it."""

    async def main() -> None:
        side = CommandSide()
        other = side.process()
        await side.ask(cmd.Create(), id="c1")
        old = (await other.histories.load(SID)).version
        await side.ask(cmd.Start(), id="c2")
        read, behind = other.store.read, 2

        def lagging(session: SessionId, *, after: int = 0, upto: int | None = None) -> object:
            nonlocal behind
            behind -= 1
            return read(session, after=after, upto=old if behind >= 0 else upto)  # type: ignore[arg-type] # as above

        other.store.read = lagging  # type: ignore[method-assign, assignment] # lags, then does not
        assert str((await other.histories.refresh(SID)).state.state) == "starting"
        behind = 10**6
        await side.ask(cmd.Stop(), id="c3")
        with pytest.raises(StoreUnavailable):
            await other.histories.refresh(SID)

    asyncio.run(main())


def test_a_log_that_was_cut_back_is_read_anew(caplog: pytest.LogCaptureFixture) -> None:
    """When the leader has less than the cache, the cache is wrong: error, and start over."""

    async def main() -> None:
        side = CommandSide()
        await side.ask(cmd.Create(), id="c1")
        accepted = await side.ask(cmd.Start(), id="c2")
        side.server.stream(side.subjects.events_stream).remove([accepted.version])
        assert str((await side.histories.refresh(SID)).state.state) == "created"

    with caplog.at_level(logging.ERROR, logger="lucid_events"):
        asyncio.run(main())
    assert "cut back" in caplog.text


def test_recent_asks_the_leader_once_in_a_while() -> None:
    """Within the age allowed the cache answers; after it the leader is asked."""

    async def main() -> None:
        side = CommandSide()
        other = side.process()
        await side.ask(cmd.Create(), id="c1")
        assert (await other.histories.recent(SID, max_age_s=1)).version == 1
        await side.ask(cmd.Start(), id="c2")
        assert (await other.histories.recent(SID, max_age_s=1)).version == 1
        await side.clock.advance(1.1)
        assert (await other.histories.recent(SID, max_age_s=1)).version == 2

    asyncio.run(main())
