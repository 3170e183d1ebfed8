"""Capture full of bytes whose acknowledgements were lost: the recorder goes on as another epoch."""

import asyncio
import logging
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from lucid_events.client import Commands
from lucid_events.domain import commands as cmd
from lucid_events.domain import events as ev
from lucid_events.domain.ids import CommandId, SessionId
from lucid_events.domain.replies import Accepted
from lucid_events.errors import AppendUncertain, Fenced, StoreFull, StoreUnavailable
from lucid_events.memory import MemoryServer
from lucid_events.memory.stream import Outgoing
from tests.unit.recorder.rig import FAST, SID, Bytes, Service, eventually, finished
from tests.unit.recorder.spools import spool

LIMIT = 40_000
OPTIONS = replace(FAST, window_bytes=12_000, read_ahead_bytes=16_384)
MUCH = 100


def full() -> MemoryServer:
    """Return a server whose capture holds thirteen pieces of 3 KiB and eight parts of ballast."""
    return MemoryServer(max_payload=4096, capture_max_bytes=LIMIT)


async def attached(service: Service) -> list[ev.RecorderAttached]:
    """Return the attachments so far."""
    return [event for event in await service.events() if isinstance(event, ev.RecorderAttached)]


@pytest.mark.parametrize("resumable", [True, False])
def test_lost_acks_that_fill_capture_hold_nothing_up(
    resumable: bool, tmp_path: Path, rng: random.Random
) -> None:
    """With capture full of resends, none of them acknowledged, every byte is stored, once, and confirmed."""
    data = rng.randbytes(200_000)

    async def scenario() -> None:
        async with Service(full()).running() as service:
            await service.capture.reserve()
            service.server.faults.lose_reply("capture", times=MUCH)
            source = Bytes([data[i : i + 5000] for i in range(0, len(data), 5000)], resumable=resumable)
            held = spool(tmp_path)
            recording = service.recording(source, options=OPTIONS, chunk_bytes=10_000, spool=held)
            running = asyncio.create_task(finished(recording))
            await eventually(lambda: recording.refusal and held.epoch == 1)
            await eventually(lambda: held.epoch == 2)
            service.server.faults._ordered["capture"].clear()
            totals = await running
            assert service.played() == data
            assert [(a.epoch, a.takeover) for a in await attached(service)] == [(1, False), (2, True)]
            sealed = await service.sealed()
            assert any(chunk.recovered for chunk in sealed)
            assert (totals.chunks, totals.raw_bytes, totals.gaps) == (len(sealed), len(data), 0)
            assert totals.epoch == 2

    asyncio.run(scenario())
    assert list(tmp_path.iterdir()) == []


def test_acks_lost_in_the_middle_of_a_chunk() -> None:
    """Bytes acknowledged before are in the chunk that is salvaged, under the digest they were read with."""
    data = bytes(range(256)) * 400

    async def scenario() -> None:
        async with Service(full()).running() as service:
            await service.capture.reserve()
            service.server.faults.lose_reply("capture", times=MUCH, skip=2)
            recording = service.recording(Bytes([data]), options=OPTIONS, chunk_bytes=65_536)
            running = asyncio.create_task(finished(recording))
            await eventually(lambda: "full" in recording.refusal)
            service.server.faults._ordered["capture"].clear()
            totals = await running
            assert recording.acked_upto == len(data)
            assert service.played() == data
            assert totals.raw_bytes == len(data)

    asyncio.run(scenario())


def test_a_tail_that_has_no_room_is_no_end() -> None:
    """A chunk that is stored, though not in order, is sealed although its tail can't be sent again."""
    data = b"t" * 8192

    async def scenario() -> None:
        async with Service(full()).running() as service:
            await service.capture.reserve()
            faults = service.server.faults
            faults.lose_reply("capture", stored=False, times=1)
            faults.fail_next("capture", StoreFull("full"), times=MUCH, skip=4)
            recording = service.recording(Bytes([data], resumable=True), options=OPTIONS)
            running = asyncio.create_task(finished(recording))
            await eventually(lambda: recording.acked_upto == len(data))
            await eventually(lambda: recording._link.epoch == 2)
            faults._ordered["capture"].clear()
            await running
            assert service.played() == data

    asyncio.run(scenario())


def test_no_byte_is_given_up_for_room() -> None:
    """Where one that is missing would become a gap, what can't be read again waits for room instead."""
    data = b"p" * 20_000

    async def scenario() -> None:
        async with Service(full()).running() as service:
            await service.capture.reserve()
            faults = service.server.faults
            faults.fail_next("capture", StoreFull("full"))
            faults.lose_reply("capture", times=3)
            faults.fail_next("capture", StoreFull("full"), times=MUCH)
            recording = service.recording(Bytes([data]), options=OPTIONS, chunk_bytes=65_536)
            running = asyncio.create_task(finished(recording))
            await eventually(lambda: len(faults._ordered["capture"]) < MUCH - 10)
            assert len(await attached(service)) == 1
            faults._ordered["capture"].clear()
            totals = await running
            assert totals.gaps == 0
            assert service.played() == data

    asyncio.run(scenario())


class LosesAnswers(Service):
    """A service whose answers to an attachment with takeover are lost, the first `lose` of them."""

    lose = 3

    def commands(self, actor: str = "test") -> Commands:
        service = self

        class Losing(Commands):
            async def send(
                self,
                session: SessionId,
                command: cmd.SessionCommand,
                *,
                id: CommandId | None = None,
                if_version: int | None = None,
                give_up_after_s: float = 60.0,
            ) -> Accepted:
                accepted = await super().send(
                    session, command, id=id, if_version=if_version, give_up_after_s=give_up_after_s
                )
                if isinstance(command, cmd.Attach) and accepted.epoch > 1 and service.lose:
                    service.lose -= 1
                    raise AppendUncertain("no answer")
                return accepted

        return Losing(self.bus, self.subjects, self.clock, actor=actor, timeout_s=2.0)


def test_the_answer_to_the_new_attachment_may_be_lost() -> None:
    """Asked again, the recorder is told that it is attached, and takes over from itself once."""
    data = b"a" * 100_000

    async def scenario() -> None:
        async with LosesAnswers(full()).running() as service:
            await service.capture.reserve()
            service.server.faults.lose_reply("capture", times=MUCH)
            recording = service.recording(Bytes([data]), options=OPTIONS, chunk_bytes=10_000)
            running = asyncio.create_task(finished(recording))
            await eventually(lambda: recording.acked_upto > 0)
            service.server.faults._ordered["capture"].clear()
            await running
            assert service.played() == data
            assert [a.epoch for a in await attached(service)] == [1, 2]

    asyncio.run(scenario())


def test_a_recorder_given_up_while_stuck_attaches_no_more(caplog: pytest.LogCaptureFixture) -> None:
    """It takes nothing over, ends as fenced, and calls lost what was read and not salvaged, no more."""
    data = b"g" * 60_000

    async def scenario() -> None:
        async with Service(full()).running() as service:
            await service.capture.reserve()
            faults = service.server.faults
            faults.lose_reply("capture", times=MUCH)
            recording = service.recording(Bytes([data]), options=OPTIONS, chunk_bytes=10_000)
            running = asyncio.create_task(finished(recording))
            await eventually(lambda: "reply" in recording.refusal)
            faults.fail_next("request", StoreUnavailable("away"), times=1000)
            await eventually(lambda: recording._writer is not None and recording._writer.stuck)
            await service.handler.append_internal(
                SID, cmd.LoseRecorder(epoch=1, reason="silent"), cause="t", reaction="test"
            )
            faults._ordered["request"].clear()
            with pytest.raises(Fenced) as caught:
                await running
            assert len(await attached(service)) == 1
            (sealed_upto,) = {s.offset + s.size for s in (await service.sealed())[-1:]}
            assert caught.value.fields["safe_offset"] == recording.acked_upto == sealed_upto > 0
            (lost,) = [r for r in caplog.records if "neither stored nor in a spool" in r.message]
            assert (lost.offset, lost.bytes) == (sealed_upto, recording.read_upto - sealed_upto)  # type: ignore[attr-defined]

    with caplog.at_level(logging.ERROR):
        asyncio.run(scenario())


def test_a_session_that_stops_is_not_attached_to() -> None:
    """A stuck recorder of a stopping session waits for room, and goes on in its epoch when there is some."""
    data = b"s" * 30_000

    async def scenario() -> None:
        async with Service(full()).running() as service:
            await service.capture.reserve()
            stream = service.server.stream(service.subjects.capture_stream)
            filler = stream.publish(
                [Outgoing(service.subjects.capture(SessionId("other"), 1, 0), b"f" * 9000)]
            )
            service.server.faults.lose_reply("capture", times=MUCH)
            source = Bytes([data], ends=False)
            recording = service.recording(source, options=replace(OPTIONS, pressure_cut_after_s=0.2))
            running = asyncio.create_task(finished(recording))
            await eventually(lambda: "full" in recording.refusal)
            await service.ask(cmd.Stop())
            await service.clock.sleep(0.5)
            assert not running.done()
            service.server.faults._ordered["capture"].clear()
            stream.remove([filler.sequence])
            assert (await running).state == "stopped"
            assert service.played() == data
            assert len(await attached(service)) == 1

    asyncio.run(scenario())


FAULT = st.sampled_from(["ok", "stored, reply lost", "stored, reply lost", "lost", "away", "full"])


@settings(max_examples=60, deadline=None)
@given(
    blocks=st.lists(st.binary(min_size=1, max_size=6000), min_size=1, max_size=12),
    faults=st.lists(FAULT, max_size=40),
    chunk=st.integers(1024, 9000),
)
def test_any_faults_in_a_small_capture_give_the_bytes_read(
    blocks: Sequence[bytes], faults: Sequence[str], chunk: int
) -> None:
    """Whatever is lost and however often capture is full of it, a resumable source is stored as it is."""

    async def scenario() -> None:
        server = MemoryServer(max_payload=2048, capture_max_bytes=11_000)
        async with Service(server).running() as service:
            await service.capture.reserve()
            for fault in faults:
                match fault:
                    case "ok":
                        server.faults.fail_next("capture", times=0, skip=1)
                    case "stored, reply lost":
                        server.faults.lose_reply("capture", stored=True)
                    case "lost":
                        server.faults.lose_reply("capture", stored=False)
                    case "away":
                        server.faults.fail_next("capture", StoreUnavailable("away"))
                    case "full":
                        server.faults.fail_next("capture", StoreFull("full"))
            options = replace(FAST, window_bytes=6000, read_ahead_bytes=4000)
            source = Bytes(blocks, resumable=True)
            totals = await finished(service.recording(source, options=options, chunk_bytes=chunk))
            assert service.played() == b"".join(blocks)
            assert totals.bytes == totals.raw_bytes == sum(map(len, blocks))
            assert totals.gaps == 0

    asyncio.run(scenario())
