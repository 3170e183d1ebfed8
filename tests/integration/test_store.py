"""`jetstream.store` on a real server: appends that lose their answers, race, group and outlive a crash."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from lucid_events import codec
from lucid_events.domain.envelope import Recorded
from lucid_events.domain.ids import NO_DIGEST, Digest, SessionId, Version
from lucid_events.errors import AppendUncertain, LucidError, StoreUnavailable, VersionConflict
from lucid_events.jetstream.append import SingleWriter
from lucid_events.jetstream.connection import Connection
from lucid_events.jetstream.store import JetStreamEventStore
from lucid_events.ports import Appended
from lucid_events.subjects import Subjects
from tests.contract.bundle import OTHER, SID, events, labels, untimed
from tests.integration.faulty import REPLY, REQUEST, FaultyConnection, deployed
from tests.nats_server import NatsServer

Scenario = Callable[[FaultyConnection, Subjects, JetStreamEventStore], Awaitable[None]]


def on(server: NatsServer) -> Callable[[Scenario], None]:
    """Run a scenario on fresh streams; written as a decorator."""

    def run(scenario: Scenario) -> None:
        async def main() -> None:
            async with deployed(server) as (connection, subjects):
                await scenario(connection, subjects, JetStreamEventStore(connection, subjects))

        asyncio.run(main())

    return run


async def append(
    store: JetStreamEventStore,
    cause: str,
    *names: str,
    after: Appended | None = None,
    session: SessionId = SID,
) -> Appended:
    """Append marks behind `after`; times are left out, as `history` does."""
    version, head = (after.version, after.head) if after else (Version(0), NO_DIGEST)
    done = await store.append(session, events(cause, *names, session=session), expected=version, head=head)
    return Appended(done.version, done.head, tuple(untimed(done.recorded)))


async def history(store: JetStreamEventStore, session: SessionId = SID) -> list[Any]:
    """Return a whole history, without the server's times, which an append need not know."""
    return untimed([one async for one in store.read(session)])


def assert_chained(found: list[Any]) -> None:
    """Assert that each event names the digest of the one before it."""
    head: Digest = NO_DIGEST
    for one in found:
        assert isinstance(one, Recorded)
        assert one.prev == head
        head = one.digest


@pytest.mark.parametrize("what", [REQUEST, REPLY])
@pytest.mark.parametrize("names", [["b"], ["b", "c", "d"]], ids=["one", "batch"])
def test_a_lost_message_is_settled(shared_server: NatsServer, what: str, names: list[str]) -> None:
    """An append whose request or reply is lost, three times over, is stored exactly once."""

    @on(shared_server)
    async def _(connection: FaultyConnection, subjects: Subjects, store: JetStreamEventStore) -> None:
        first = await append(store, "c1", "a")
        connection.lose(what, subjects.event(SID, "session.marked.v1"), 3)
        second = await append(store, "c2", *names, after=first)
        # A lost reply is found at the first look, a lost request is sent again each time.
        assert connection.lost == (3 if what == REQUEST else 1)
        found = await history(store)
        assert labels(found) == ["a", *names]
        assert list(second.recorded) == found[1:]
        assert_chained(found)


def test_a_lost_request_that_another_overtakes_is_a_conflict(shared_server: NatsServer) -> None:
    """When another writer's event took the place of an unanswered append, the append is a conflict."""

    @on(shared_server)
    async def _(connection: FaultyConnection, subjects: Subjects, store: JetStreamEventStore) -> None:
        first = await append(store, "c1", "a")
        connection.lose(REQUEST, subjects.event(SID, "session.marked.v1"))

        async def overtake() -> None:
            await connection.publish_acked(f"{subjects.prefix}.evt.{SID}.other.thing", b"{}")

        connection.before[f"$JS.API.STREAM.MSG.GET.{subjects.events_stream}"] = overtake
        with pytest.raises(VersionConflict) as conflict:
            await append(store, "c2", "b", after=first)
        assert conflict.value.fields["actual"] == first.version + 1
        assert labels(await history(store)) == ["a", "stray"]


def test_what_an_earlier_attempt_left_is_returned_as_it_is(shared_server: NatsServer) -> None:
    """A repeated command that decides on more events than its landed first attempt gets what landed."""

    @on(shared_server)
    async def _(connection: FaultyConnection, subjects: Subjects, store: JetStreamEventStore) -> None:
        first = await append(store, "c1", "a", "b")
        await append(store, "c2", "later", after=first)
        again = await append(store, "c1", "a", "b", "c")
        assert again == first


@pytest.mark.parametrize("names", [["a"], ["a", "b"]], ids=["one", "batch"])
def test_a_stolen_id_suppresses_nothing(shared_server: NatsServer, names: list[str]) -> None:
    """An event whose message id another subject used before is stored all the same."""

    @on(shared_server)
    async def _(connection: FaultyConnection, subjects: Subjects, store: JetStreamEventStore) -> None:
        stolen = events("c1", *names)[-1].id
        await connection.publish_acked(
            f"{subjects.prefix}.evt.thief.x.y", b"{}", headers={codec.MSG_ID: stolen}
        )
        stored = await append(store, "c1", *names)
        assert labels(stored.recorded) == names
        assert await history(store) == list(stored.recorded)


def test_an_event_stored_before_the_expected_version_is_a_conflict(shared_server: NatsServer) -> None:
    """Appending an event again behind itself is a conflict, not a second event."""

    @on(shared_server)
    async def _(connection: FaultyConnection, subjects: Subjects, store: JetStreamEventStore) -> None:
        first = await append(store, "c1", "a")
        with pytest.raises(VersionConflict, match="stored already"):
            await append(store, "c1", "a", after=first)
        assert labels(await history(store)) == ["a"]


def test_a_silent_server_is_uncertain_and_then_settled(server: NatsServer) -> None:
    """While the server stands still an append is uncertain; afterwards the same append is stored once."""

    async def main() -> None:
        async with deployed(server) as (connection, subjects):
            store = JetStreamEventStore(connection, subjects)
            first = await append(store, "c1", "a")
            hasty = JetStreamEventStore(connection, subjects, append_timeout_s=0.5)
            server.pause()
            try:
                with pytest.raises(AppendUncertain):
                    await append(hasty, "c2", "b", after=first)
            finally:
                server.resume()
            second = await append(store, "c2", "b", after=first)
            found = await history(store)
            assert labels(found) == ["a", "b"]
            assert found[1:] == list(second.recorded)

    asyncio.run(main())


def test_an_absent_server_writes_nothing(server: NatsServer) -> None:
    """An append that never left is unavailable, not uncertain."""

    async def main() -> None:
        async with deployed(server) as (connection, subjects):
            store = JetStreamEventStore(connection, subjects, append_timeout_s=1.0)
            server.kill()
            async with asyncio.timeout(30):
                while connection.connected:  # noqa: ASYNC110 # the client notices by itself
                    await asyncio.sleep(0.01)
            with pytest.raises(StoreUnavailable):
                await append(store, "c1", "a")

    asyncio.run(main())


def test_histories_outlive_a_killed_server(server: NatsServer, rng: random.Random) -> None:
    """Appends of many sessions through kill -9 of the server are each stored once, in order and chained."""

    async def main() -> None:
        async with deployed(server) as (connection, subjects):
            store = JetStreamEventStore(connection, subjects, append_timeout_s=60.0)
            sessions = [SessionId(f"k{number}") for number in range(12)]
            done = 0

            async def write(session: SessionId) -> None:
                nonlocal done
                last: Appended | None = None
                for number in range(12):
                    names = [f"{number}.{part}" for part in range(rng.choice((1, 1, 3)))]
                    last = await append(store, f"c{number}", *names, after=last, session=session)
                    done += 1

            async def crash() -> None:
                for threshold in (30, 80):
                    while done < threshold:  # noqa: ASYNC110 # counted by the writers
                        await asyncio.sleep(0.001)
                    await asyncio.to_thread(server.restart)

            async with asyncio.TaskGroup() as tasks:
                for session in sessions:
                    tasks.create_task(write(session))
                tasks.create_task(crash())
            for session in sessions:
                found = await history(store, session)
                assert_chained(found)
                numbers = [label.split(".") for label in labels(found)]
                assert [int(n) for n, part in numbers if part == "0"] == list(range(12))
                assert len({one.id for one in found}) == len(found)

    asyncio.run(main())


def test_concurrent_appends_share_a_batch(shared_server: NatsServer) -> None:
    """Appends of many sessions at once are grouped, and a conflict among them is its own session's alone."""

    @on(shared_server)
    async def _(connection: FaultyConnection, subjects: Subjects, store: JetStreamEventStore) -> None:
        sessions = [SessionId(f"g{number}") for number in range(60)]
        await append(store, "first", "taken", session=sessions[50])

        async def one(session: SessionId) -> Appended | LucidError:
            try:
                return await append(store, "c", "a", session=session)
            except LucidError as exc:
                return exc

        outcomes = dict(zip(sessions, await asyncio.gather(*map(one, sessions)), strict=True))
        assert isinstance(outcomes.pop(sessions[50]), VersionConflict)
        stored = {session: o for session, o in outcomes.items() if isinstance(o, Appended)}
        assert stored == outcomes
        for session, one_of in stored.items():
            assert await history(store, session) == list(one_of.recorded)

        # Once more, without anything in the way: most of them go in one batch.
        again = await asyncio.gather(
            *(append(store, "d", "b", after=o, session=s) for s, o in stored.items())
        )
        batches = []
        for appended in again:
            message = await connection.leader_get(subjects.events_stream, seq=appended.version)
            assert message is not None
            batches.append(message.headers.get("Nats-Batch-Id"))
        assert max(batches.count(batch) for batch in set(batches) - {None}) >= 30


def test_a_cancelled_append_hinders_nobody(shared_server: NatsServer) -> None:
    """Callers that give up while they wait for their group leave the others theirs."""

    @on(shared_server)
    async def _(connection: FaultyConnection, subjects: Subjects, store: JetStreamEventStore) -> None:
        sessions = [SessionId(f"x{number}") for number in range(60)]
        tasks = [asyncio.create_task(append(store, "c", "a", session=session)) for session in sessions]
        await asyncio.sleep(0)
        for task in tasks[::3]:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        for session, outcome in zip(sessions, outcomes, strict=True):
            if not isinstance(outcome, asyncio.CancelledError):
                assert isinstance(outcome, Appended)
                assert await history(store, session) == list(outcome.recorded)


def test_a_lost_batch_is_settled_by_each(shared_server: NatsServer) -> None:
    """When the reply to a group is lost, each of its sessions finds its own event and stores no second."""

    @on(shared_server)
    async def _(connection: FaultyConnection, subjects: Subjects, store: JetStreamEventStore) -> None:
        sessions = [SessionId(f"l{number}") for number in range(40)]
        # The last message of a group commits it, so one of the waiting sessions' subjects is hit.
        for session in sessions[8:]:
            connection.lose(REPLY, subjects.event(session, "session.marked.v1"))
        await asyncio.gather(*(append(store, "c", "a", session=session) for session in sessions))
        assert connection.lost >= 1
        for session in sessions:
            assert labels(await history(store, session)) == ["a"]


@pytest.mark.parametrize("visible", [0, 3, 5, 9])
def test_a_lagging_replica_hides_nothing(shared_server: NatsServer, visible: int) -> None:
    """What a replica does not show yet is read from the leader, and an append sees its own events."""

    @on(shared_server)
    async def _(connection: FaultyConnection, subjects: Subjects, store: JetStreamEventStore) -> None:
        store = JetStreamEventStore(connection, subjects, writer=SingleWriter(connection))
        connection.visible = visible
        one = await append(store, "c1", "a", "b", "c")
        other = await append(store, "c1", "x", "y", session=OTHER)
        two = await append(store, "c2", "d", "e", after=one)
        await append(store, "c2", "z", after=other, session=OTHER)
        assert await history(store) == [*one.recorded, *two.recorded]
        assert labels([m async for m in store.read(SID, upto=two.version)]) == list("abcde")
        assert labels([m async for m in store.replay()]) == list("abcxydez")
        assert labels([m async for m in store.replay([subjects.history(OTHER)])]) == list("xyz")


def test_many_filters_are_sifted(shared_server: NatsServer) -> None:
    """More filters than are merged yield the same: what fits any, once, in order."""

    @on(shared_server)
    async def _(connection: FaultyConnection, subjects: Subjects, store: JetStreamEventStore) -> None:
        sessions = [SessionId(f"f{number}") for number in range(8)]
        for session in sessions:
            await append(store, "c", str(session), session=session)
        filters = [subjects.history(session) for session in sessions[1:]]
        filters.append(subjects.events_of_type("session.marked", sessions[2]))
        found = labels([one async for one in store.replay(filters)])
        assert found == [str(session) for session in sessions[1:]]


def test_an_event_of_another_session_is_a_stray(shared_server: NatsServer) -> None:
    """An event on a history whose envelope names another session is not that history's event."""

    @on(shared_server)
    async def _(connection: FaultyConnection, subjects: Subjects, store: JetStreamEventStore) -> None:
        headers, body = codec.encode_event(events("c1", "a", session=OTHER)[0], NO_DIGEST)
        await connection.publish_acked(subjects.event(SID, "session.marked.v1"), body, headers=headers)
        assert labels(await history(store)) == ["stray"]


def test_the_incarnation_comes_from_the_stream(shared_server: NatsServer) -> None:
    """Positions carry the incarnation an operator wrote into the stream's metadata."""

    @on(shared_server)
    async def _(connection: FaultyConnection, subjects: Subjects, store: JetStreamEventStore) -> None:
        assert (await store.last_position()).incarnation == 1
        info = await connection.api(f"STREAM.INFO.{subjects.events_stream}")
        config = {**info["config"], "metadata": {"lucid-incarnation": "3"}}
        await connection.api(f"STREAM.UPDATE.{subjects.events_stream}", config)
        position = await store.last_position()
        assert (position.stream, position.incarnation) == (subjects.events_stream, 3)


def test_a_reader_that_stops_early_leaves_nothing_running(shared_server: NatsServer) -> None:
    """Leaving a replay half way ends what it had under way."""

    @on(shared_server)
    async def _(connection: Connection, subjects: Subjects, store: JetStreamEventStore) -> None:
        last: Appended | None = None
        for number in range(3):
            last = await append(store, f"c{number}", *map(str, range(700)), after=last)
        before = asyncio.all_tasks()
        replay = store.replay()
        assert (await anext(aiter(replay))).sequence == 1
        await replay.aclose()
        assert asyncio.all_tasks() == before
