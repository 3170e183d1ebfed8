import asyncio
import json

import pytest

from lucid_events.domain import events as ev
from lucid_events.domain.ids import SessionId
from lucid_events.errors import ContractError, IntegrityError, StoreFull, StoreUnavailable
from lucid_events.handlers.base import Done, Issued, Message, Outcome, Park, Retry
from lucid_events.handlers.runner import Limits
from tests.unit.handlers.rig import SID, Crash, Rig, Scripted, conflict

OTHER = SessionId("s2")


async def marks(rig: Rig, count: int, session: SessionId = SID) -> list[int]:
    """Append a session with `count` marks; returns the sequences of all its events."""
    await rig.append(ev.SessionCreated(settings=(await rig.state()).settings), session=session)
    for i in range(count):
        await rig.append(ev.SessionMarked(label=str(i), offset=0), session=session)
    return [r.sequence async for r in rig.store.read(session)]


def test_own_failures_park_and_the_pointer_says_everything() -> None:
    """After `max_failures` failures of our own a pointer is stored, then the message is terminated."""

    async def scenario() -> None:
        rig = Rig()
        rig.consumer("r")
        sequences = await marks(rig, 1)
        reaction = Scripted("r", [RuntimeError("boom")] * 3, Done())
        runner = rig.runner(reaction, limits=Limits(max_failures=3))
        await rig.run_until(runner, lambda: runner.progress.processed == 1, step_s=1)
        assert (runner.progress.failed, runner.progress.parked) == (3, 1)
        assert reaction.parked == [str(sequences[0])]
        assert list(rig.server.consumer("r").terminated) == [sequences[0]]
        letter = rig.server.stream(rig.subjects.dlq_stream).get(1)
        assert letter is not None
        assert letter.subject == "lucid.dlq.r"
        assert letter.headers["Nats-Msg-Id"] == f"r:{sequences[0]}"
        body = json.loads(letter.data)
        assert body.pop("time").startswith("2026-01-01T00:00:")
        assert body == {
            "stream": "LUCID_EVENTS",
            "sequence": sequences[0],
            "subject": "lucid.evt.s1.session.created",
            "consumer": "r",
            "code": "failed",
            "reason": "failed 3 times, last: RuntimeError: boom",
            "attempts": 1,
        }

    asyncio.run(scenario())


@pytest.mark.parametrize("ordered", [True, False])
def test_conflicts_full_disks_and_lost_servers_never_park(ordered: bool) -> None:
    """A message that meets a hundred faults of others is handled in the end."""

    async def scenario() -> None:
        rig = Rig()
        rig.consumer("r")
        await marks(rig, 0)
        faults: list[Outcome | BaseException] = [
            conflict(),
            StoreFull("full"),
            StoreUnavailable("gone"),
            Retry("not yet"),
        ] * 25
        reaction = Scripted("r", faults, Done(), ordered=ordered)
        runner = rig.runner(reaction, limits=Limits(max_failures=2, max_deaths=2))
        await rig.run_until(runner, lambda: runner.progress.processed == 1, step_s=20)
        assert (runner.progress.failed, runner.progress.parked) == (0, 0)

    asyncio.run(scenario())


def test_a_message_that_kills_its_workers_is_parked() -> None:
    """After `max_deaths` workers died on one message it is set aside, and the next one is handled."""

    async def scenario() -> None:
        rig = Rig()
        rig.consumer("r")
        sequences = await marks(rig, 1)
        for _ in range(3):
            doomed = rig.runner(Scripted("r", [Crash()], Done()), limits=Limits(max_deaths=3))
            with pytest.raises(BaseExceptionGroup):
                await rig.run_until(doomed, lambda: False, step_s=5)
        reaction = Scripted("r", [], Done())
        runner = rig.runner(reaction, limits=Limits(max_deaths=3))
        await rig.run_until(
            runner, lambda: runner.progress.parked == 1 and runner.progress.processed == 1, step_s=5
        )
        assert reaction.done == sequences[1:]
        assert (
            json.loads(rig.server.stream(rig.subjects.dlq_stream).messages()[0].data)["code"]
            == "workers_died"
        )

    asyncio.run(scenario())


def test_a_message_is_not_given_up_before_its_pointer_is_stored() -> None:
    """As long as the dead letter can't be stored, the message is neither terminated nor forgotten."""

    async def scenario() -> None:
        rig = Rig()
        rig.consumer("r")
        await marks(rig, 1)
        rig.faults.fail_next("letter", times=3)
        rig.faults.lose_reply("letter", skip=3)
        reaction = Scripted("r", [Park("poison", "why")], Done())
        runner = rig.runner(reaction)
        await rig.run_until(runner, lambda: runner.progress.processed == 1, step_s=1)
        assert rig.dead_letters() == 1, "a repeated pointer is stored once"
        assert len(rig.server.consumer("r").terminated) == 1

    asyncio.run(scenario())


def test_what_does_not_fit_is_parked_at_once() -> None:
    """Bytes that fit no schema are set aside without trying again."""

    async def scenario() -> None:
        rig = Rig()
        rig.consumer("r")
        await marks(rig, 0)
        reaction = Scripted("r", [ContractError("what is that")], Done())
        runner = rig.runner(reaction)
        await rig.run_until(runner, lambda: runner.progress.parked == 1)
        assert len(reaction.seen) == 1

    asyncio.run(scenario())


def test_a_history_that_cannot_be_read_does_not_keep_a_message_in_the_way() -> None:
    """A message whose history takes no word any more is set aside all the same."""

    class Broken(Scripted):
        def on_park(self, message: Message, park: object) -> tuple[Issued, ...]:
            raise IntegrityError("the history can't be read")

    async def scenario() -> None:
        rig = Rig()
        rig.consumer("r")
        await marks(rig, 1)
        runner = rig.runner(Broken("r", [Park("poison", "why")], Done()))
        await rig.run_until(runner, lambda: runner.progress.processed == 1, step_s=1)
        assert rig.dead_letters() == 1

    asyncio.run(scenario())
