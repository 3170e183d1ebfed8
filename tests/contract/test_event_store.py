"""The promises of `EventStore.append`: all or none, under a guard, and once."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from lucid_events import codec
from lucid_events.domain.events import SessionCreated, SessionStarted
from lucid_events.domain.ids import NO_DIGEST, SessionId
from lucid_events.domain.values import SessionSettings
from lucid_events.errors import ContractError, VersionConflict
from lucid_events.evidence import chain
from tests.contract.bundle import OTHER, SID, WHEN, Ports, Run, events, labels


def test_append_returns_what_is_stored(run: Run) -> None:
    """An append returns its events as a later read finds them, and the version after them."""

    @run
    async def _(ports: Ports) -> None:
        appended = await ports.append(events("c1", SessionCreated(settings=SessionSettings()), "a"))
        assert list(appended.recorded) == await ports.history()
        assert int(appended.version) == int(appended.recorded[-1].sequence) == await ports.store.version(SID)
        first = appended.recorded[0]
        assert (first.type, first.time, first.cause) == ("session.created.v1", WHEN, "c1")
        assert (first.correlation, first.actor, first.session) == ("c1-root", "tester", SID)
        assert first.id == events("c1", "a")[0].id
        stored = (await ports.timed_history())[0]
        assert abs(datetime.now(UTC) - stored.stored_at) < timedelta(minutes=5)


def test_events_are_chained_from_the_given_head(run: Run) -> None:
    """Each event names the digest of the one before it, and the digest is that of the stored bytes."""

    @run
    async def _(ports: Ports) -> None:
        one = await ports.append(events("c1", "a"))
        two = await ports.append(events("c2", "b", "c"), expected=one.version, head=one.head)
        assert one.recorded[0].prev == NO_DIGEST
        assert two.recorded[0].prev == one.head == one.recorded[0].digest
        assert two.recorded[1].prev == two.recorded[0].digest
        assert two.head == two.recorded[1].digest
        headers, body = codec.encode_event(events("c2", "b")[0], one.head)
        assert (
            chain.digest(ports.subjects.event(SID, "session.marked.v1"), headers, body)
            == two.recorded[0].digest
        )


@pytest.mark.parametrize("off", [-1, 1, 1000])
def test_a_wrong_version_is_a_conflict(run: Run, off: int) -> None:
    """An append that expects another version than the history's writes nothing."""

    @run
    async def _(ports: Ports) -> None:
        await ports.append(events("c0", "z", session=OTHER))
        one = await ports.append(events("c1", "a"))
        with pytest.raises(VersionConflict) as conflict:
            await ports.append(events("c2", "b"), expected=one.version + off, head=one.head)
        assert conflict.value.fields["actual"] == one.version
        assert labels(await ports.history()) == ["a"]


def test_an_empty_history_is_asserted_by_zero(run: Run) -> None:
    """Expecting 0 is a conflict as soon as the history has a message."""

    @run
    async def _(ports: Ports) -> None:
        await ports.append(events("c1", "a"))
        with pytest.raises(VersionConflict):
            await ports.append(events("c2", "b"))
        assert labels(await ports.history()) == ["a"]


def test_many_events_are_appended_all_or_none(run: Run) -> None:
    """Of several events in one append either all are stored, side by side, or none."""

    @run
    async def _(ports: Ports) -> None:
        one = await ports.append(events("c1", *"abcde"))
        assert [r.sequence for r in one.recorded] == list(range(one.version - 4, one.version + 1))
        with pytest.raises(VersionConflict):
            await ports.append(events("c2", "x", SessionStarted(), "y"), expected=one.version - 1)
        assert labels(await ports.history()) == list("abcde")


def test_of_concurrent_appends_one_wins(run: Run) -> None:
    """Of appends that race on one version exactly one is stored, whole; the others are conflicts."""

    @run
    async def _(ports: Ports) -> None:
        one = await ports.append(events("c1", "a"))
        racers = [events(f"r{i}", f"{i}", *([f"{i}"] * (i % 3))) for i in range(12)]
        outcomes = await asyncio.gather(
            *(ports.append(racer, expected=one.version, head=one.head) for racer in racers),
            return_exceptions=True,
        )
        winners = [o for o in outcomes if not isinstance(o, BaseException)]
        losers = [o for o in outcomes if isinstance(o, VersionConflict)]
        assert (len(winners), len(losers)) == (1, 11)
        assert (await ports.history())[1:] == list(winners[0].recorded)


def test_histories_do_not_hinder_each_other(run: Run) -> None:
    """Concurrent appends to different histories all succeed and share one sequence."""

    @run
    async def _(ports: Ports) -> None:
        sessions = [SessionId(f"p{i}") for i in range(20)]
        appended = await asyncio.gather(*(ports.append(events("c", "a", "b", session=s)) for s in sessions))
        sequences = sorted(r.sequence for one in appended for r in one.recorded)
        assert sequences == list(range(1, 41))
        for session, one in zip(sessions, appended, strict=True):
            assert await ports.history(session) == list(one.recorded)


def test_the_same_event_again_is_what_was_stored(run: Run) -> None:
    """Repeating an append under the same ids and version returns the first attempt's event and times."""

    @run
    async def _(ports: Ports) -> None:
        one = await ports.append(events("c1", "a"))
        later = await ports.append(events("c2", "b"), expected=one.version, head=one.head)
        again = await ports.append(
            events("c2", "b", time=WHEN + timedelta(hours=1)), expected=one.version, head=one.head
        )
        assert again == later
        assert again.recorded[0].time == WHEN
        assert labels(await ports.history()) == ["a", "b"]


def test_the_same_batch_again_is_what_was_stored(run: Run) -> None:
    """Repeating an append of several events returns what was stored first, also when more followed."""

    @run
    async def _(ports: Ports) -> None:
        one = await ports.append(events("c1", "a", "b", "c"))
        await ports.append(events("c2", "d"), expected=one.version, head=one.head)
        again = await ports.append(events("c1", "a", "b", "c", time=WHEN + timedelta(hours=1)))
        assert again == one
        assert labels(await ports.history()) == list("abcd")


def test_a_repeat_with_other_events_is_what_was_stored(run: Run) -> None:
    """A repeat that came to fewer or more events than the first attempt returns what that one stored."""

    @run
    async def _(ports: Ports) -> None:
        one = await ports.append(events("c1", "a", "b", "c"))
        two = await ports.append(events("c2", "d"), expected=one.version, head=one.head)
        assert await ports.append(events("c1", "a", "b")) == one
        assert await ports.append(events("c1", "a")) == one
        again = await ports.append(events("c2", "d", "e"), expected=one.version, head=one.head)
        assert again == two
        assert labels(await ports.history()) == list("abcd")


def test_an_event_stored_before_is_not_stored_again(run: Run) -> None:
    """An event whose id the caller's version covers already is a conflict: it should have been seen."""

    @run
    async def _(ports: Ports) -> None:
        one = await ports.append(events("c1", "a"))
        two = await ports.append(events("c2", "b"), expected=one.version, head=one.head)
        with pytest.raises(VersionConflict):
            await ports.append(events("c1", "a"), expected=two.version, head=two.head)
        assert labels(await ports.history()) == ["a", "b"]


@pytest.mark.parametrize("count", [1, 2])
def test_no_other_message_s_id_suppresses_an_event(run: Run, count: int) -> None:
    """An event is stored although a stray elsewhere has taken its id."""

    @run
    async def _(ports: Ports) -> None:
        wanted = events("c1", *"ab"[:count])
        await ports.publish(f"{ports.subjects.prefix}.evt.{OTHER}.thief", b"", {"Nats-Msg-Id": wanted[0].id})
        appended = await ports.append(wanted)
        assert [one.id for one in appended.recorded] == [one.id for one in wanted]
        assert await ports.history() == list(appended.recorded)


def test_an_event_that_is_too_large_is_refused(run: Run) -> None:
    """An event over the size limit is refused with everything appended beside it."""

    @run
    async def _(ports: Ports) -> None:
        with pytest.raises(ContractError):
            await ports.append(events("c1", "a", "x" * (codec.MAX_BODY_BYTES + 1)))
        assert await ports.store.version(SID) == 0
