"""The promises of `EventStore.replay` and `last_position`: the log, in order."""

from datetime import timedelta

from lucid_events.domain.envelope import Recorded, Stray
from lucid_events.domain.events import SessionCreated, SessionStarted
from lucid_events.domain.ids import SessionId
from lucid_events.domain.values import SessionSettings
from tests.contract.bundle import OTHER, SID, Ports, Run, events, labels


def test_replay_yields_the_log_in_order(run: Run) -> None:
    """Replay without filters yields every history, strays too, in the order of the log."""

    @run
    async def _(ports: Ports) -> None:
        await _three_sessions(ports)
        await ports.publish(f"{ports.subjects.prefix}.evt.{SID}.forged")
        found = [one async for one in ports.store.replay()]
        assert [one.sequence for one in found] == list(range(1, 11))
        assert labels(found)[-1] == "stray"


def test_replay_filters_by_kind_and_session(run: Run) -> None:
    """Several filters yield what fits any of them, once, in order; strays elsewhere stay out."""

    @run
    async def _(ports: Ports) -> None:
        await _three_sessions(ports)
        await ports.publish(f"{ports.subjects.prefix}.evt.{SID}.forged")
        subjects = ports.subjects

        async def replay(*filters: str) -> list[str]:
            found = [one async for one in ports.store.replay(filters)]
            assert [one.sequence for one in found] == sorted({one.sequence for one in found})
            return [f"{one.session}:{label}" for one, label in zip(found, labels(found), strict=True)]

        marked, created = (
            subjects.events_of_type("session.marked"),
            subjects.events_of_type("session.created.v1"),
        )
        assert await replay(marked) == ["s1:m", "s2:m", "s3:m"]
        assert await replay(created, marked) == [
            f"{s}:{what}" for s in ("s1", "s2", "s3") for what in ("session.created.v1", "m")
        ]
        assert await replay(subjects.events_of_type("session.marked", "s2")) == ["s2:m"]
        assert await replay(subjects.history("s2"), marked) == [
            "s1:m",
            "s2:session.created.v1",
            "s2:session.started.v1",
            "s2:m",
            "s3:m",
        ]
        assert await replay(subjects.events_of_type("chunk.ready")) == []


def test_replay_is_bounded_by_sequences(run: Run) -> None:
    """`after` is excluded, `upto` included, with and without filters."""

    @run
    async def _(ports: Ports) -> None:
        await _three_sessions(ports)
        assert [one.sequence async for one in ports.store.replay(after=2, upto=5)] == [3, 4, 5]
        filters = [ports.subjects.events_of_type("session.marked")]
        assert [one.sequence async for one in ports.store.replay(filters, after=3, upto=9)] == [6, 9]
        assert [one.sequence async for one in ports.store.replay(filters, after=9)] == []


def test_replay_begins_at_an_instant(run: Run) -> None:
    """`since` yields what was stored at or after that instant, by the server's clock."""

    @run
    async def _(ports: Ports) -> None:
        one = await ports.append(events("c1", "a"))
        two = await ports.append(events("c2", "b"), expected=one.version, head=one.head)
        first, second = await ports.timed_history()
        assert (int(first.sequence), int(second.sequence)) == (int(one.version), int(two.version))
        instant = second.stored_at
        assert first.stored_at < instant
        assert labels([one async for one in ports.store.replay(since=instant)]) == ["b"]
        marked = [ports.subjects.events_of_type("session.marked")]
        assert labels([one async for one in ports.store.replay(marked, since=instant)]) == ["b"]
        assert [one async for one in ports.store.replay(since=instant + timedelta(days=1))] == []


def test_replay_ends_where_the_log_ended(run: Run) -> None:
    """What is appended while a replay runs is not part of it."""

    @run
    async def _(ports: Ports) -> None:
        one = await ports.append(events("c1", "a", "b"))
        found: list[Recorded | Stray] = []
        async for event in ports.store.replay():
            found.append(event)
            if len(found) == 1:
                await ports.append(events("c2", "c"), expected=one.version, head=one.head)
        assert labels(found) == ["a", "b"]


def test_last_position_is_the_log_s_end(run: Run) -> None:
    """The last position counts every history and names stream and incarnation."""

    @run
    async def _(ports: Ports) -> None:
        empty = await ports.store.last_position()
        assert (empty.stream, empty.incarnation, empty.sequence) == (ports.subjects.events_stream, 1, 0)
        await ports.append(events("c1", "a"))
        await ports.append(events("c1", "a", "b", session=OTHER))
        last = await ports.store.last_position()
        assert last.sequence == 3
        assert last > empty


async def _three_sessions(ports: Ports) -> None:
    for name in ("s1", "s2", "s3"):
        facts = (SessionCreated(settings=SessionSettings()), SessionStarted(), "m")
        await ports.append(events("c1", *facts, session=SessionId(name)))
