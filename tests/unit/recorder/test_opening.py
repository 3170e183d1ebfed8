"""Becoming a session's recorder while the session moves on by itself."""

import asyncio

import pytest
from msgspec.structs import replace

from lucid_events.domain import commands as cmd
from lucid_events.errors import CommandRejected
from tests.unit.recorder.rig import FAST, Bytes, Service, eventually, finished


@pytest.mark.parametrize("recover", [True, False])
def test_a_session_that_ends_before_the_recorder_attaches_is_recovered_if_asked(recover: bool) -> None:
    """Given up between start and attach, a session is brought back, with `recover` and only then."""

    async def scenario() -> None:
        async with Service().running() as service:
            times = 0

            async def given_up(step: str) -> None:
                nonlocal times
                if step == "session.started" and not times:
                    times += 1
                    await service.ask(cmd.Fail(reason="lost"))

            options = replace(FAST, recover=recover)
            recording = service.recording(Bytes([b"bytes"]), options=options, checkpoint=given_up)
            if recover:
                totals = await finished(recording)
                assert (totals.bytes, totals.state) == (5, "stopped")
            else:
                with pytest.raises(CommandRejected, match="is error"):
                    await finished(recording)

    asyncio.run(scenario())


def test_a_session_that_is_about_to_stop_is_waited_for() -> None:
    """With `recover` a stopping session is waited for and goes on, as one killed late needs it."""

    async def scenario() -> None:
        async with Service().running() as service:
            asked = asyncio.Event()

            async def stopped(step: str) -> None:
                if step == "session.started" and not asked.is_set():
                    await service.ask(cmd.Attach(recorder="killed"))
                    await service.ask(cmd.Stop())
                    asked.set()

            recording = service.recording(
                Bytes([b"bytes"]), options=replace(FAST, recover=True), checkpoint=stopped
            )
            running = asyncio.create_task(finished(recording))
            await asked.wait()
            await service.ask(cmd.Fail(reason="its lease ran out"))
            assert (await running).state == "stopped"

    asyncio.run(scenario())


def test_a_service_that_does_not_answer_is_told_to_be_waited_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody stands before a recorder that says nothing: the log has what is waited for, once."""
    monkeypatch.setattr("lucid_events.recorder.opening._TELL_AFTER_S", 0.05)

    async def scenario() -> None:
        service = Service()
        source = Bytes([b"bytes"])
        running = asyncio.create_task(finished(service.recording(source)))
        await eventually(lambda: caplog.records)
        assert not running.done()
        assert source.reads == 0
        async with service.running():
            await running
        assert service.played() == b"bytes"

    asyncio.run(scenario())
    (told,) = [record for record in caplog.records if record.getMessage() == "waiting for an answer"]
    assert (getattr(told, "command", ""), getattr(told, "session", "")) == ("create", "s1")
