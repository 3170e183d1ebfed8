"""A recording from its source to its manifest, against the real rules."""

import asyncio
import errno
import hashlib
import json
import random
from collections.abc import Mapping

import pytest
from msgspec.structs import replace

from lucid_events.domain import commands as cmd
from lucid_events.domain import events as ev
from lucid_events.domain.transitions import State
from lucid_events.errors import (
    ConfigError,
    IntegrityError,
    StoreFull,
    StoreUnavailable,
)
from lucid_events.memory import MemoryServer
from tests.unit.recorder.rig import FAST, Bytes, Service, eventually, finished


def test_everything_read_is_stored_and_confirmed(rng: random.Random) -> None:
    """A source that ends leaves a stopped session with exactly its bytes, and the totals say so."""
    data = rng.randbytes(10_000)

    async def scenario() -> None:
        async with Service().running() as service:
            totals = await finished(service.recording(Bytes([data[:7000], data[7000:]])))
            assert service.played() == data
            assert (totals.bytes, totals.end_offset, totals.chunks) == (10_000, 10_000, 3)
            assert totals.sha256 == hashlib.sha256(data).hexdigest()
            assert (totals.state, totals.reason, totals.gaps) == ("stopped", "end", 0)
            sealed = await service.sealed()
            assert [(s.size, s.cut) for s in sealed] == [(4096, "size"), (4096, "size"), (1808, "end")]

    asyncio.run(scenario())


def test_a_source_of_no_bytes_stops_too() -> None:
    """A recording of nothing ends in a stopped session without chunks."""

    async def scenario() -> None:
        async with Service().running() as service:
            totals = await finished(service.recording(Bytes()))
            assert (totals.bytes, totals.chunks, totals.state) == (0, 0, "stopped")

    asyncio.run(scenario())


def test_pause_drains_and_nothing_is_read_until_resume() -> None:
    """A pause seals what was read before it is answered, and the source is left alone until resumed."""

    async def scenario() -> None:
        async with Service().running() as service:
            source = Bytes([b"before"], ends=False)
            running = asyncio.create_task(finished(service.recording(source)))
            await eventually(lambda: source.reads == 1)
            await service.ask(cmd.Pause())
            await service.until(State.PAUSED)
            await eventually(lambda: source.log[-1] == "pause")
            assert [(s.size, s.cut) for s in await service.sealed()] == [(6, "pause")]
            source.give(b"after")
            source.give(b"")
            await service.ask(cmd.Mark(label="still paused"))
            assert source.reads == 1
            await service.ask(cmd.Resume())
            totals = await running
            assert service.played() == b"beforeafter"
            assert totals.chunks == 2
            assert source.log == ["resume", "pause", "resume", "close"]

    asyncio.run(scenario())


def test_a_stop_command_ends_the_recording() -> None:
    """A stop from outside drains, detaches and returns with reason `stop`."""

    async def scenario() -> None:
        async with Service().running() as service:
            source = Bytes([b"x" * 5000], ends=False)
            running = asyncio.create_task(finished(service.recording(source)))
            await eventually(lambda: source.reads == 1)
            await service.ask(cmd.Stop())
            totals = await running
            assert (totals.reason, totals.state, service.played()) == ("stop", "stopped", b"x" * 5000)
            assert [s.cut for s in await service.sealed()] == ["size", "stop"]

    asyncio.run(scenario())


class Failing(Bytes):
    """A source whose second read fails."""

    async def read(self) -> bytes:
        if self.reads:
            raise OSError(errno.EIO, "Input/output error")
        return await super().read()


def test_a_source_that_fails_is_told_in_the_history() -> None:
    """What it gave is sealed, the session goes to error with the reason, and the recorder says so."""

    async def scenario() -> None:
        async with Service().running() as service:
            with pytest.raises(ConfigError, match="Input/output error; bytes up to 5000 are sealed"):
                await finished(service.recording(Failing([b"x" * 5000], ends=False)))
            (failed,) = [e for e in await service.events() if isinstance(e, ev.SessionFailed)]
            assert failed.code == "source_failed"
            assert "Input/output error" in failed.reason
            assert sum(s.size for s in await service.sealed()) == 5000

    asyncio.run(scenario())


def test_a_stop_after_silence_waits_for_no_beat() -> None:
    """When everything was acknowledged long ago, a stop still seals at once: no beat has to wake it."""

    async def scenario() -> None:
        async with Service().running() as service:
            source = Bytes([b"all of it"], ends=False)
            options = replace(FAST, beat_interval_s=60.0)
            recording = service.recording(source, options=options)
            running = asyncio.create_task(finished(recording))
            await eventually(lambda: recording.acked_upto == 9)
            await service.ask(cmd.Stop())
            assert (await running).state == "stopped"

    asyncio.run(scenario())


def test_its_own_stop_ends_the_recording_while_paused_too() -> None:
    """`Recording.stop` ends in order whatever the state."""

    async def scenario() -> None:
        async with Service().running() as service:
            source = Bytes([b"abc"], ends=False)
            recording = service.recording(source)
            running = asyncio.create_task(finished(recording))
            await eventually(lambda: source.reads == 1)
            await service.ask(cmd.Pause())
            await eventually(lambda: recording.state is State.PAUSED)
            recording.stop()
            totals = await running
            assert (totals.state, service.played()) == ("stopped", b"abc")

    asyncio.run(scenario())


@pytest.mark.parametrize("history", [True, False])
def test_lost_live_messages_cost_a_beat(history: bool) -> None:
    """Pause, resume and stop are obeyed although the live feed loses every message about them."""

    async def scenario() -> None:
        async with Service().running() as service:
            source = Bytes([b"abc"], ends=False)
            recording = service.recording(source, history=history)
            running = asyncio.create_task(finished(recording))
            await eventually(lambda: source.reads == 1)
            service.server.faults.lose_reply("live", times=1)
            await service.ask(cmd.Pause())
            await eventually(lambda: recording.state is State.PAUSED)
            await service.settled(1)
            service.server.faults.lose_reply("live", times=1)
            await service.ask(cmd.Resume())
            await eventually(lambda: recording.state is State.ACTIVE)
            service.server.faults.lose_reply("live", times=3)
            await service.ask(cmd.Stop())
            assert (await running).state == "stopped"

    asyncio.run(scenario())


@pytest.mark.parametrize("history", [True, False])
def test_a_receipt_that_the_live_feed_loses_comes_by_beats(history: bool) -> None:
    """A recorder that hears no live message, and may read no history, still ends with every chunk proven."""

    async def scenario() -> None:
        async with Service().running() as service:
            service.server.faults.lose_reply("live", times=1000)
            recording = service.recording(Bytes([b"abc", b"defgh"]), history=history)
            totals = await finished(recording)
            assert (totals.state, service.played()) == ("stopped", b"abcdefgh")
            assert totals.chunks >= 1

    asyncio.run(scenario())


def test_an_answer_from_before_it_attached_ends_no_recording() -> None:
    """A service that still sees the session as it was created does not make the recorder give up."""

    class Behind(Service):
        behind = 3

        async def _beat(self, subject: str, headers: Mapping[str, str], body: bytes) -> bytes:
            answer = json.loads(await super()._beat(subject, headers, body))
            if self.behind:
                self.behind -= 1
                answer |= {"state": "created", "epoch": 0, "attached": False, "version": 1}
            return json.dumps(answer).encode()

    async def scenario() -> None:
        service = Behind()
        async with service.running():
            source = Bytes([b"all of it"], ends=False)
            running = asyncio.create_task(finished(service.recording(source)))
            await eventually(lambda: service.behind == 0 or running.done())
            await service.ask(cmd.Stop())
            assert (await running).state == "stopped"

    asyncio.run(scenario())


def test_lost_replies_and_outages_change_nothing(rng: random.Random) -> None:
    """Commands and captures that go unanswered, stored or not, leave the same bytes, once."""
    data = rng.randbytes(50_000)

    async def scenario() -> None:
        async with Service(MemoryServer(max_payload=2048)).running() as service:
            faults = service.server.faults
            faults.lose_reply("capture", stored=True, times=2, skip=3)
            faults.lose_reply("capture", stored=False, times=2, skip=2)
            faults.fail_next("capture", StoreUnavailable("no responders"), times=3, skip=2)
            faults.fail_next("request", StoreUnavailable("nobody serves"), times=2, skip=4)
            totals = await finished(service.recording(Bytes([data])))
            assert service.played() == data
            assert totals.end_offset == 50_000

    asyncio.run(scenario())


def test_a_full_store_blocks_then_flows(rng: random.Random) -> None:
    """While capture is full nothing is dropped or reordered, and pressure seals make room."""
    data = rng.randbytes(200_000)

    async def scenario() -> None:
        server = MemoryServer(max_payload=4096, capture_max_bytes=40_000)
        async with Service(server).running() as service:
            service.storing.clear()
            options = replace(FAST, window_bytes=16_384, read_ahead_bytes=16_384)
            blocks = [data[i : i + 5000] for i in range(0, len(data), 5000)]
            source = Bytes(blocks)
            recording = service.recording(source, options=options, chunk_bytes=65_536)
            running = asyncio.create_task(finished(recording))
            await eventually(lambda: recording.step == "blocking")
            assert source.reads < len(blocks)
            service.storing.set()
            await running
            assert service.played() == data
            events = await service.events()
            assert "pressure" in [e.cut for e in events if isinstance(e, ev.ChunkSealed)]
            steps = [e.step for e in events if isinstance(e, ev.RecorderSlowed)]
            assert steps[0] == "blocking"

    asyncio.run(scenario())


def test_a_chunk_that_cannot_be_stored_is_an_error() -> None:
    """A chunk set aside makes the recording fail although the session stops."""

    async def scenario() -> None:
        async with Service().running() as service:
            service.tamper = True
            with pytest.raises(IntegrityError):
                await finished(service.recording(Bytes([b"abc"])))
            await service.until(State.STOPPED)

    asyncio.run(scenario())


def test_a_full_error_names_nothing_written() -> None:
    """A piece refused as full is sent again until it is taken."""

    async def scenario() -> None:
        async with Service().running() as service:
            service.server.faults.fail_next("capture", StoreFull("full"), times=4)
            await finished(service.recording(Bytes([b"abc"])))
            assert service.played() == b"abc"

    asyncio.run(scenario())


def test_what_a_paused_source_still_holds_is_sealed_at_its_own_stop() -> None:
    """A recorder told to stop during a pause stores what its source had not handed over yet."""

    async def scenario() -> None:
        async with Service().running() as service:
            source = Bytes([b"before"], ends=False)
            recording = service.recording(source)
            running = asyncio.create_task(finished(recording))
            await eventually(lambda: recording.acked_upto == 6)
            await service.ask(cmd.Pause())
            await eventually(lambda: recording.state is State.PAUSED)
            source.give(b" and after")
            recording.stop()
            totals = await running
            assert (totals.state, totals.bytes) == ("stopped", 16)
            assert service.played() == b"before and after"

    asyncio.run(scenario())
