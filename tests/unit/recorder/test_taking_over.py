"""One recorder after another: who may record, and where the next one goes on."""

import asyncio
import random
from pathlib import Path

import pytest
from msgspec.structs import replace

from lucid_events.domain import commands as cmd
from lucid_events.errors import (
    CommandRejected,
    ConfigError,
    Fenced,
    IntegrityError,
    StoreUnavailable,
)
from tests.unit.recorder.rig import FAST, PATIENCE_S, SID, Bytes, Service, eventually, finished
from tests.unit.recorder.spools import spool


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
            safe = caught.value.fields["safe_offset"]
            assert isinstance(safe, int)
            assert safe <= len(b"first")  # the other's bytes are not ours
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


async def left_spooling(service: Service, folder: Path, *, given: bytes = b"first") -> None:
    """Leave `given` in the spool of a recorder that was cut off before any of it was stored."""
    service.server.faults.fail_next("capture", StoreUnavailable("away"), times=100_000)
    source = Bytes([given], ends=False)
    running = asyncio.create_task(finished(service.recording(source, spool=spool(folder))))
    await eventually(lambda: source.reads == 1)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    service.server.faults._ordered["capture"].clear()


@pytest.mark.parametrize("written", [True, False])
def test_a_spool_is_not_sent_behind_another_recorders_bytes(tmp_path: Path, written: bool) -> None:
    """Bytes left in a spool while somebody else recorded belong nowhere; one that wrote none is no matter."""

    async def scenario() -> None:
        async with Service().running() as service:
            await left_spooling(service, tmp_path, given=b"the first recorder's")
            other = Bytes([b"other"] if written else [])
            takeover = replace(FAST, recorder="r2", takeover=True, append=True)
            await finished(service.recording(other, options=takeover))
            again = replace(FAST, recover=True, append=True)
            recording = service.recording(Bytes([b" goes on"]), options=again, spool=spool(tmp_path))
            if written:
                with pytest.raises(IntegrityError, match="another recorder has written into session s1"):
                    await finished(recording)
                assert service.played() == b"other"
            else:
                await finished(recording)
                assert service.played() == b"the first recorder's goes on"

    asyncio.run(scenario())
    kept = spool(tmp_path)
    assert (kept.end == len(b"the first recorder's")) is written  # nothing of it is thrown away
    kept.close()


def test_a_spool_of_a_role_that_may_not_read_is_sent_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Where nobody can tell who wrote since, the log says so; recorder after recorder needs no telling."""

    async def scenario() -> None:
        async with Service().running() as service:
            await left_spooling(service, tmp_path)
            await service.ask(cmd.Attach(recorder="r2", takeover=True))
            recording = service.recording(
                Bytes([b" last"]),
                options=replace(FAST, takeover=True),
                spool=spool(tmp_path),
                history=False,
            )
            await finished(recording)
            assert service.played() == b"first last"

    asyncio.run(scenario())
    assert "the spool may be out of date" in [record.getMessage() for record in caplog.records]
    caplog.clear()

    async def in_turn() -> None:
        async with Service().running() as service:
            await left_spooling(service, tmp_path / "in-turn")
            held = spool(tmp_path / "in-turn")
            await finished(service.recording(Bytes([b" last"]), spool=held, history=False))
            assert service.played() == b"first last"

    asyncio.run(in_turn())
    assert "the spool may be out of date" not in [record.getMessage() for record in caplog.records]
