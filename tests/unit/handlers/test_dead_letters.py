import asyncio

import pytest

from lucid_events.domain import events as ev
from lucid_events.domain.values import SessionSettings
from lucid_events.errors import ConfigError, ContractError, NotFound
from lucid_events.handlers.advisories import Advisories
from lucid_events.handlers.base import Done, Message, Park, Retry, Skip
from lucid_events.handlers.dead_letters import DeadLetters
from lucid_events.handlers.execution import Execution
from tests.unit.handlers.rig import SID, Rig, Scripted


async def parked(rig: Rig, *, count: int = 1, carries: bool = False) -> None:
    """Set `count` events aside."""
    rig.consumer("r")
    await rig.append(*[ev.SessionCreated(settings=SessionSettings())] * count)
    runner = rig.runner(Scripted("r", [], Park("poison", "because")), carries=carries)
    await rig.run_until(runner, lambda: runner.progress.parked == count)


def test_a_redriven_message_takes_the_same_path_and_its_letter_goes() -> None:
    """Redriving hands the reaction the original as stored; handled, the letter is gone."""

    async def scenario() -> None:
        rig = Rig()
        await parked(rig)
        reaction = Scripted("r", [], Done())
        letters = DeadLetters(rig.dead, {"r": Execution(reaction, rig.decisions)})
        (letter,) = [one async for one in letters.list()]
        shown = await letters.show(letter.sequence)
        assert shown.original is not None
        assert await letters.redrive(letter.sequence) == Done()
        assert reaction.seen[0].data == shown.original.data
        assert reaction.seen[0].attempt == 2
        assert [one async for one in letters.list()] == []

    asyncio.run(scenario())


@pytest.mark.parametrize("outcome", [Park("still", "no"), Retry("later")])
def test_a_letter_stays_until_its_message_is_handled(outcome: Park | Retry) -> None:
    """A redrive that does not succeed leaves the letter where it is."""

    async def scenario() -> None:
        rig = Rig()
        await parked(rig)
        letters = DeadLetters(rig.dead, {"r": Execution(Scripted("r", [], outcome), rig.decisions)})
        assert await letters.redrive(1) == outcome
        assert len([one async for one in letters.list()]) == 1

    asyncio.run(scenario())


def test_letters_are_paged_and_told_apart_by_consumer() -> None:
    """Listing goes on behind a letter, and leaves out other consumers' and what is no pointer."""

    async def scenario() -> None:
        rig = Rig()
        await parked(rig, count=3)
        rig.server.publish("lucid.dlq.r", b"not a pointer")
        letters = DeadLetters(rig.dead, {})
        assert [one.sequence async for one in letters.list("r", limit=2)] == [1, 2]
        assert [one.sequence async for one in letters.list("r", after=2)] == [3]
        assert [one async for one in letters.list("other")] == []
        with pytest.raises(ContractError):
            [one async for one in letters.list(">")]

    asyncio.run(scenario())


def test_dropping_and_asking_for_what_is_not_there() -> None:
    """A dropped letter is gone; unknown letters, consumers and vanished originals are named as such."""

    async def scenario() -> None:
        rig = Rig()
        await parked(rig, count=2)
        letters = DeadLetters(rig.dead, {})
        with pytest.raises(ConfigError):
            await letters.redrive(1)
        rig.server.stream(rig.subjects.events_stream).remove([1])
        with pytest.raises(NotFound):
            await letters.redrive(1)
        assert (await letters.drop(1)).pointer.code == "poison"
        with pytest.raises(NotFound):
            await letters.show(1)
        with pytest.raises(NotFound):
            await letters.drop(77)

    asyncio.run(scenario())


def test_a_letter_that_can_not_be_redriven_says_what_to_do_instead() -> None:
    """Of a consumer that reads the log in order: refused with the reason, the letter stays, drop works."""

    async def scenario() -> None:
        rig = Rig()
        await parked(rig)
        letters = DeadLetters(rig.dead, {}, {"r": "its turn is over; count afresh"})
        with pytest.raises(ConfigError, match="letter 1 of r is not redriven: its turn is over; count"):
            await letters.redrive(1)
        assert (await letters.show(1)).original is not None
        assert (await letters.drop(1)).pointer.consumer == "r"

    asyncio.run(scenario())


def test_a_work_queues_message_is_carried_along() -> None:
    """A stream that forgets what is answered leaves the message itself in its letter."""

    async def scenario() -> None:
        rig = Rig()
        await parked(rig, carries=True)
        kept = rig.server.stream(rig.subjects.events_stream).get(1)
        assert kept is not None
        rig.server.stream(rig.subjects.events_stream).remove([1])
        reaction = Scripted("r", [], Skip("seen"))
        letters = DeadLetters(rig.dead, {"r": Execution(reaction, rig.decisions)})
        assert await letters.redrive(1) == Skip("seen")
        message = reaction.seen[0]
        assert (message.subject, message.data, dict(message.headers)) == (
            kept.subject,
            kept.data,
            dict(kept.headers),
        )

    asyncio.run(scenario())


def test_a_message_the_server_gave_up_becomes_a_letter() -> None:
    """A MAX_DELIVERIES advisory is counted and sets the message aside; others are no concern."""

    async def scenario() -> None:
        rig = Rig()
        await rig.append(ev.SessionCreated(settings=SessionSettings()))
        advisories = Advisories(rig.letters, rig.clock, rig.subjects)

        def advisory(kind: str, data: bytes) -> Message:
            return Message(
                subject=f"$JS.EVENT.ADVISORY.CONSUMER.{kind}.LUCID_EVENTS.r",
                headers={},
                data=data,
                sequence=1,
                stored_at=rig.clock.now(),
            )

        body = b'{"type":"x","id":"y","stream":"LUCID_EVENTS","consumer":"r","stream_seq":1,"deliveries":7}'
        assert await advisories.handle(advisory("MAX_DELIVERIES", body)) == Done()
        assert await advisories.handle(advisory("MAX_DELIVERIES", body)) == Done()
        assert await advisories.handle(advisory("MSG_TERMINATED", body)) == Skip("no concern")
        assert await advisories.handle(advisory("MAX_DELIVERIES", b"{}")) == Skip("not an advisory")
        assert advisories.given_up == 2
        reaction = Scripted("r", [], Done())
        letters = DeadLetters(rig.dead, {"r": Execution(reaction, rig.decisions)})
        (letter,) = [one async for one in letters.list("r")]
        assert letter.pointer.code == "max_deliveries"
        await letters.redrive(letter.sequence)
        assert reaction.seen[0].subject == rig.subjects.event(SID, "session.created.v1")

    asyncio.run(scenario())
