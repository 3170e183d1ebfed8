"""One recorder after another: who may record, and where the next one goes on."""

import asyncio
import random

import pytest
from msgspec.structs import replace

from lucid_events.domain import commands as cmd
from lucid_events.errors import (
    CommandRejected,
    ConfigError,
    Fenced,
)
from tests.unit.recorder.rig import FAST, PATIENCE_S, SID, Bytes, Service, eventually, finished


def test_takeover_fences_the_other_recorder() -> None:
    """A recorder that is taken over stops with an error that names its successor and what is safe."""

    async def scenario() -> None:
        async with Service().running() as service:
            first = Bytes([b"first"], ends=False)
            running = asyncio.create_task(finished(service.recording(first)))
            await eventually(lambda: first.reads == 1)
            second = service.recording(
                Bytes([b"second"]), options=replace(FAST, recorder="r2", takeover=True, append=True)
            )
            totals = await finished(second)
            with pytest.raises(Fenced) as caught:
                await running
            assert caught.value.fields["owner"] == 2
            assert "took over" in caught.value.message
            assert totals.epoch == 2
            assert service.played().endswith(b"second")
            assert b"first".startswith(service.played()[: totals.start_offset])

    asyncio.run(scenario())


def test_a_living_recorder_is_not_disturbed() -> None:
    """Attaching beside a living recorder is refused at once when told not to wait."""

    async def scenario() -> None:
        # A busy machine may keep a beat for longer than the two quick intervals of the other tests.
        async with Service(beat_s=PATIENCE_S / 4).running() as service:
            first = Bytes([b"first"], ends=False)
            running = asyncio.create_task(finished(service.recording(first)))
            await eventually(lambda: first.reads == 1)
            with pytest.raises(CommandRejected) as caught:
                await finished(service.recording(Bytes(), options=replace(FAST, wait_for_lease=False)))
            assert caught.value.code == "recorder_alive"
            first.give(b"")
            assert (await running).state == "stopped"

    asyncio.run(scenario())


def test_a_recorder_given_up_as_lost_says_what_is_safe() -> None:
    """A recorder whose lease was given up ends with the session's state and the safe offset."""

    async def scenario() -> None:
        async with Service().running() as service:
            source = Bytes([b"x" * 100], ends=False)
            recording = service.recording(source)
            running = asyncio.create_task(finished(recording))
            await eventually(lambda: recording.acked_upto == 100)
            await service.handler.append_internal(
                SID, cmd.LoseRecorder(epoch=1, reason="silent"), cause="t", reaction="test"
            )
            with pytest.raises(Fenced) as caught:
                await running
            assert caught.value.fields["state"] == "error"
            assert caught.value.fields["safe_offset"] == 100

    asyncio.run(scenario())


def test_a_source_that_cannot_resume_is_refused_behind_bytes() -> None:
    """A pipe is not recorded behind bytes it can't have had, unless told to; the lease is given back."""

    async def scenario() -> None:
        async with Service().running() as service:
            source = Bytes([b"abc"], ends=False)
            recording = service.recording(source)
            running = asyncio.create_task(finished(recording))
            await eventually(lambda: recording.acked_upto == 3)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            with pytest.raises(ConfigError, match="3 bytes already"):
                await finished(service.recording(Bytes([b"def"])))
            await finished(service.recording(Bytes([b"def"]), options=replace(FAST, append=True)))
            assert service.played() == b"abcdef"

    asyncio.run(scenario())


def test_a_resumable_source_goes_on_where_capture_ends(rng: random.Random) -> None:
    """A killed recorder's successor reads on at the offset attach answers: no byte twice, none missing."""
    data = rng.randbytes(30_000)

    async def scenario() -> None:
        async with Service().running() as service:
            recording = service.recording(Bytes([data[:13_000]], ends=False))
            running = asyncio.create_task(finished(recording))
            await eventually(lambda: recording.acked_upto > 9_000)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            totals = await finished(service.recording(Bytes([data], resumable=True)))
            assert service.played() == data
            assert totals.start_offset > 9_000

    asyncio.run(scenario())
