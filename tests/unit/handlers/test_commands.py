import asyncio
from datetime import timedelta

import pytest
from msgspec.structs import replace

from lucid_events.domain import commands as cmd
from lucid_events.domain.ids import CommandId, SessionId, event_id
from lucid_events.domain.values import Quality, SettingsAsked
from lucid_events.errors import (
    AppendUncertain,
    CommandExpired,
    CommandRejected,
    ContractError,
    NotFound,
    StoreUnavailable,
    VersionConflict,
)
from lucid_events.handlers.turns import Turns
from tests.unit.handlers.command_side import SID, CommandSide


def mark(label: str) -> cmd.Mark:
    """A bookmark."""
    return cmd.Mark(label=label)


def test_a_command_becomes_events_with_derived_ids() -> None:
    """What was stored is what the answer says, under ids anyone can derive again."""

    async def main() -> None:
        side = CommandSide()
        accepted = await side.ask(cmd.Create(owner="ann"), id="c1")
        (event,) = await side.events()
        assert event.id == event_id(SID, "c1", 0)
        assert (event.cause, event.correlation, event.actor) == ("c1", "c1", "unverified:test")
        assert [(ref.id, ref.sequence) for ref in accepted.events] == [(event.id, event.sequence)]
        assert (accepted.state, accepted.version, accepted.repeated) == ("created", event.sequence, False)

    asyncio.run(main())


def test_a_lost_reply_leaves_one_set_of_events() -> None:
    """A reply lost after the append is settled: the command is accepted, its events are there once."""

    async def main() -> None:
        side = CommandSide()
        side.faults.lose_reply("append", stored=True)
        assert (await side.ask(cmd.Create(), id="c1")).state == "created"
        assert await side.types() == ["session.created"]

    asyncio.run(main())


def test_an_uncertain_append_that_landed_is_found_by_its_ids() -> None:
    """When the store gives up although the events landed, the handler finds them and accepts."""

    async def main() -> None:
        side = CommandSide()
        side.faults.lose_reply("append", stored=True)
        side.faults.fail_next("settle", times=1)
        side.faults.fail_next("append", times=4)
        accepted = await side.ask(cmd.Create(), id="c1")
        assert [ref.type for ref in accepted.events] == ["session.created.v1"]
        assert await side.types() == ["session.created"]
        assert (await side.ask(cmd.Start(), id="c2")).state == "starting"

    asyncio.run(main())


def test_an_uncertain_append_that_is_nowhere_stays_uncertain() -> None:
    """While nothing stands behind the version the outcome is unknown; the repeat makes one set of events."""

    async def main() -> None:
        side = CommandSide()
        side.faults.lose_reply("append", stored=False, times=5)
        with pytest.raises(AppendUncertain):
            await side.ask(cmd.Create(), id="c1")
        assert await side.types() == []
        assert (await side.ask(cmd.Create(), id="c1")).repeated is False
        assert await side.types() == ["session.created"]

    asyncio.run(main())


def test_a_repeated_id_gets_its_first_outcome_hours_later() -> None:
    """Within the horizon a command id takes effect once, whoever repeats it, even in another process."""

    async def main() -> None:
        side = CommandSide()
        issued = side.clock.now()
        first = await side.ask(cmd.Create(), id="c1")
        await side.ask(cmd.Start(), id="c2")
        await side.clock.advance(20 * 3600)
        again = await side.process().ask(cmd.Create(), id="c1", issued_at=issued)
        assert (again.repeated, again.state, again.version) == (True, "created", first.version)
        assert await side.types() == ["session.created", "session.started"]

    asyncio.run(main())


def test_a_command_older_than_the_horizon_is_refused_as_expired() -> None:
    """Too old to be told from a repeat: refused, not guessed."""

    async def main() -> None:
        side = CommandSide()
        await side.ask(cmd.Create(), id="c1")
        with pytest.raises(CommandExpired):
            await side.ask(mark("m"), id="c2", issued_at=side.clock.now() - timedelta(hours=25))
        assert await side.types() == ["session.created"]

    asyncio.run(main())


def test_a_forgotten_command_takes_effect_once_whenever_it_is_repeated() -> None:
    """Without a time, or with a new one inside the server's window, a repeat of the forgotten is expired."""

    async def main() -> None:
        side = CommandSide()
        await side.ask(cmd.Create(), id="c1")
        await side.ask(mark("once"), id="y")
        for number in range(300):
            await side.ask(mark("m"), id=f"n{number}")
        untimed = replace(side.request(mark("once"), id="y"), issued_at=None)
        with pytest.raises(CommandExpired):
            await side.handler.handle(untimed)
        with pytest.raises(CommandExpired):
            await side.ask(mark("once"), id="y")  # sent anew with a time of now: the server knows its event
        await side.clock.advance(10 * 60)
        for process in (side, side.process()):
            with pytest.raises(CommandExpired):
                await process.handler.handle(untimed)
        new = replace(untimed, id=CommandId("new"))
        assert (await side.handler.handle(new)).repeated is False
        ids = [event.id for event in await side.events()]
        assert len(ids) == len(set(ids)) == 303

    asyncio.run(main())


@pytest.mark.parametrize(
    ("command", "kind", "reason"),
    [
        (cmd.Start(), NotFound, "not_found"),
        (cmd.Create(settings=SettingsAsked(codec="rar")), ContractError, "invalid"),
    ],
)
def test_refusals_of_an_empty_history_raise_their_leaf(
    command: cmd.SessionCommand, kind: type[Exception], reason: str
) -> None:
    """Each code of the rules is the exception that says what to do next."""

    async def main() -> None:
        with pytest.raises(kind) as caught:
            await CommandSide().ask(command, id="c1")
        assert getattr(caught.value, "reason") == reason  # noqa: B009 - a field, not an attribute

    asyncio.run(main())


def test_a_rejection_says_what_is_allowed() -> None:
    """A refused command tells the state and what that state accepts."""

    async def main() -> None:
        side = CommandSide()
        await side.ask(cmd.Create(), id="c1")
        with pytest.raises(CommandRejected) as caught:
            await side.ask(cmd.Resume(), id="c2")
        fields = caught.value.fields
        assert (fields["reason"], fields["state"]) == ("illegal_transition", "created")
        assert fields["allowed"] == ("start", "error", "destroy")

    asyncio.run(main())


def test_no_answer_without_an_append_rests_on_a_stale_state() -> None:
    """A rejection and a 'nothing to do' are decided again when another process has moved the session on."""

    async def main() -> None:
        side, other = CommandSide(), None
        other = side.process()
        await side.ask(cmd.Create(), id="c1")
        with pytest.raises(CommandRejected):
            await other.ask(cmd.Resume(), id="x1")  # its cache now says: created
        await side.ask(cmd.Start(), id="c2")
        accepted = await other.ask(cmd.Stop(), id="x2")  # illegal in created, fine in starting
        assert accepted.state == "stopping"
        nothing = await side.ask(
            cmd.Stop(), id="c3"
        )  # its cache says starting: append, conflict, nothing to do
        assert (nothing.events, nothing.state) == ((), "stopping")

    asyncio.run(main())


def test_no_answer_without_an_append_when_the_leader_is_silent() -> None:
    """A rejection that can't be confirmed is not given: unavailable, try again."""

    async def main() -> None:
        side = CommandSide()
        await side.ask(cmd.Create(), id="c1")
        side.faults.fail_next("read")
        with pytest.raises(StoreUnavailable):
            await side.ask(cmd.Resume(), id="c2")

    asyncio.run(main())


def test_two_handlers_racing_append_one_after_the_other() -> None:
    """The guard lets one first; the other reads what was stored and decides again."""

    async def main() -> None:
        one = CommandSide()
        two = one.process()
        await one.ask(cmd.Create(), id="c1")
        await two.histories.load(SID)
        results = await asyncio.gather(
            one.ask(cmd.Start(), id="c2"), two.ask(cmd.Start(), id="c3"), return_exceptions=True
        )
        assert [getattr(r, "state", r) for r in results] == ["starting", "starting"]
        assert await one.types() == ["session.created", "session.started"]

    asyncio.run(main())


def test_a_storm_of_conflicts_ends_with_everybody_served() -> None:
    """Many writers in many processes on one history all get through, and the chain stays whole."""

    async def main() -> None:
        side = CommandSide()
        await side.ask(cmd.Create(), id="c1")
        processes = [side.process() for _ in range(8)]
        await asyncio.gather(
            *(p.ask(mark(f"{i}-{j}"), id=f"m-{i}-{j}") for i, p in enumerate(processes) for j in range(5))
        )
        types = await side.types()
        assert types.count("session.marked") == 40
        assert (await side.process().histories.load(SID)).damage is None

    asyncio.run(main())


def test_endless_conflicts_are_given_back_as_one() -> None:
    """After the last attempt the conflict is the caller's; nothing was written."""

    async def main() -> None:
        side = CommandSide()
        await side.ask(cmd.Create(), id="c1")
        side.faults.fail_next("append", VersionConflict("somebody was faster"), times=20)
        with pytest.raises(VersionConflict):
            await side.ask(cmd.Start(), id="c2")
        assert await side.types() == ["session.created"]

    asyncio.run(main())


def test_a_stray_message_counts_for_the_version_and_bricks_nothing() -> None:
    """A message that is not an event moves the guard; the session goes on, cached or not."""

    async def main() -> None:
        side = CommandSide()
        await side.ask(cmd.Create(), id="c1")
        side.server.publish(f"lucid.evt.{SID}.session.forged", b'{"stream":"X","seq":1}')
        assert (await side.ask(cmd.Start(), id="c2")).state == "starting"
        side.server.publish(f"lucid.evt.{SID}.session.forged", b"{}")
        other = side.process()
        assert (await other.ask(cmd.Stop(), id="c3")).state == "stopping"
        assert (await other.histories.load(SID)).damage is None

    asyncio.run(main())


def test_a_damaged_history_is_read_and_ended_but_not_carried_on() -> None:
    """Where the chain is broken only what brings the session to an end is accepted."""

    async def main() -> None:
        side = CommandSide()
        await side.start()
        marked = await side.ask(mark("lost"), id="m0")
        await side.ask(mark("kept"), id="m1")
        side.server.stream(side.subjects.events_stream).remove([marked.version])
        other = side.process()
        with pytest.raises(CommandRejected) as caught:
            await other.ask(cmd.Pause(), id="p1")
        assert caught.value.fields["reason"] == "damaged"
        assert (await other.ask(mark("here"), id="m2")).events
        await other.ask(cmd.Stop(), id="s1")
        await other.ask(cmd.Detach(epoch=1, offset=0), id="d1")
        done = await other.handler.append_internal(SID, cmd.Finish(), cause="e1", reaction="finaliser")
        assert done.state == "stopped"

    asyncio.run(main())


def test_an_internal_command_happens_once_per_cause() -> None:
    """A reaction repeated after a crash appends nothing more, in whichever process."""

    async def main() -> None:
        side = CommandSide()
        await side.start()
        accepted = await side.seal(b"abc")
        cause = accepted.events[0].id
        stored = cmd.ChunkStored(
            index=0,
            offset=0,
            size=3,
            stored_size=3,
            sha256=(await side.histories.load(SID)).state.pending[0].sha256,
            stored_sha256="0" * 64,
            codec="store",
            level=None,
            ratio=1.0,
            quality=Quality(score=1.0, complete=1.0),
            hash_by="recorder",
            bucket="b",
            object="o",
        )
        first = await side.handler.append_internal(SID, stored, cause=cause, reaction="chunks")
        again = await side.process().handler.append_internal(SID, stored, cause=cause, reaction="chunks")
        assert len(first.events) == 1
        assert again.events == ()
        last = (await side.events())[-1]
        assert (last.cause, last.actor) == (cause, "lucid_events/chunks")

    asyncio.run(main())


def test_one_process_takes_turns_without_conflicts() -> None:
    """Appends to one history from one process never meet the guard; its locks go when it is done."""

    async def main() -> None:
        side = CommandSide()
        await side.ask(cmd.Create(), id="c1")
        before = side.server.stream(side.subjects.events_stream).last_sequence
        refreshed = 0
        refresh = side.histories.refresh

        async def counting(session: SessionId) -> object:
            nonlocal refreshed
            refreshed += 1
            return await refresh(session)

        side.histories.refresh = counting  # type: ignore[method-assign, assignment] # counted, not replaced
        await asyncio.gather(*(side.ask(mark(str(i)), id=f"m{i}") for i in range(20)))
        assert side.server.stream(side.subjects.events_stream).last_sequence == before + 20
        assert refreshed == 0

    asyncio.run(main())


def test_waiting_for_a_turn_is_bounded() -> None:
    """A command that can't get its turn says so instead of waiting for ever."""

    async def main() -> None:
        turns = Turns(wait_s=0.01)
        async with turns.of(SID):
            with pytest.raises(StoreUnavailable):
                async with turns.of(SID):
                    pass
        async with turns.of(SID):
            pass
        assert len(turns) == 0

    asyncio.run(main())


def test_command_ids_of_one_session_mean_nothing_to_another() -> None:
    """The same command id in two sessions is two commands."""

    async def main() -> None:
        side = CommandSide()
        for session in (SessionId("a"), SessionId("b")):
            assert (await side.ask(cmd.Create(), id=CommandId("same"), session=session)).events
        assert event_id(SessionId("a"), "same", 0) != event_id(SessionId("b"), "same", 0)

    asyncio.run(main())
