"""Attaching while the answer is lost, for longer than the lease."""

import asyncio

import pytest
from msgspec.structs import replace

from lucid_events.domain import commands as cmd
from lucid_events.domain import events as ev
from lucid_events.errors import CommandRejected
from tests.unit.recorder.rig import FAST, SID, Bytes, Service, finished


class GivesUp(Service):
    """A service whose first answer to an attachment is lost, and which gives that recorder up meanwhile."""

    recovers = False

    async def lose(self, step: str) -> None:
        """Order the fault, as a checkpoint."""
        if step == "session.started":
            self.server.faults.lose_reply("request")
            self.server.faults.before_next("request", self._give_up)

    async def _give_up(self) -> None:
        lose = cmd.LoseRecorder(epoch=1, reason="silent")
        await self.handler.append_internal(SID, lose, cause="t", reaction="test")
        if self.recovers:
            await self.ask(cmd.Recover())
            await self.ask(cmd.Start())

    async def epochs(self) -> list[int]:
        """Return those that were attached."""
        return [event.epoch for event in await self.events() if isinstance(event, ev.RecorderAttached)]


@pytest.mark.parametrize("attach_timeout_s", [5.0, 0.0])
def test_a_recorder_given_up_before_it_heard_that_it_was_attached_begins_anew(
    attach_timeout_s: float,
) -> None:
    """With `recover` the session is brought back and attached to again, however late the answer is."""

    async def scenario() -> None:
        service = GivesUp()
        async with service.running():
            options = replace(FAST, recover=True, attach_timeout_s=attach_timeout_s)
            recording = service.recording(Bytes([b"bytes"]), options=options, checkpoint=service.lose)
            totals = await finished(recording)
            assert (totals.state, totals.epoch, totals.bytes) == ("stopped", 2, 5)
            assert await service.epochs() == [1, 2]

    asyncio.run(scenario())


def test_a_session_that_somebody_else_brought_back_is_attached_to() -> None:
    """An attachment that was carried out and is over is asked for anew, without `recover`, too."""

    async def scenario() -> None:
        service = GivesUp()
        async with service.running():
            service.recovers = True
            totals = await finished(service.recording(Bytes([b"bytes"]), checkpoint=service.lose))
            assert (totals.state, totals.epoch) == ("stopped", 2)

    asyncio.run(scenario())


def test_a_session_given_up_is_left_alone_without_being_asked_for() -> None:
    """Without `recover` the session stays as it is, and the error says in which state."""

    async def scenario() -> None:
        service = GivesUp()
        async with service.running():
            with pytest.raises(CommandRejected, match="is error"):
                await finished(service.recording(Bytes([b"bytes"]), checkpoint=service.lose))
            assert await service.epochs() == [1]

    asyncio.run(scenario())
