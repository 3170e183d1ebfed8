"""Everybody at once: commands, recorders, workers, sweeps and readers that get in each other's way."""

import asyncio
import os
import random
from contextlib import suppress
from typing import Any

import pytest

from lucid_events.domain import commands as cmd
from lucid_events.domain.ids import CommandId, SessionId
from lucid_events.domain.legality import violations
from lucid_events.domain.replies import Accepted
from lucid_events.errors import AppendUncertain, CommandRejected, Fenced, LucidError, NotFound
from lucid_events.playback import Bytes, Missing
from lucid_events.service import connect
from lucid_events.service.letters import open_letters
from lucid_events.service.rebuilding import rebuild_status
from tests.integration.arena import CHUNK, WORK_S, Arena, Feed, arena, bytes_of
from tests.nats_server import NatsServer

CHAOS_RUNS = int(os.environ.get("CHAOS_RUNS", "20"))
CLIENTS = 8
LONG_LEASE_S = 60.0


class Asked:
    """One command id and every answer it got."""

    def __init__(self, id: str, command: cmd.SessionCommand) -> None:
        self.id, self.command = CommandId(id), command
        self.accepted: list[Accepted] = []
        self.rejected = 0
        self.unknown = 0


def any_command(rng: random.Random) -> cmd.SessionCommand:
    """Return a command that never ends the session for good."""
    number = rng.randrange(4)
    return rng.choice(
        (
            cmd.Pause(),
            cmd.Resume(),
            cmd.Resume(),
            cmd.Mark(label=f"m{number}"),
            cmd.Mark(label=f"m{number}"),
            cmd.Hold(hold=f"h{number}"),
            cmd.Release(hold=f"h{number}"),
            cmd.Start(),
            cmd.Create(),
            cmd.Destroy(),
            cmd.Cleanup(),
            cmd.Recover(),
        )
    )


async def storm(
    stage: Arena, sid: str, rng: random.Random, name: str, count: int, **through: Any
) -> list[Asked]:
    """Issue `count` commands, every third under an id used before."""
    commands = stage.commands(await stage.join(name, **through), name)
    asked: list[Asked] = []
    for number in range(count):
        if asked and rng.random() < 0.33:
            one = rng.choice(asked)
        else:
            one = Asked(f"{name}-{number}", any_command(rng))
            asked.append(one)
        try:
            answer = await commands.send(SessionId(sid), one.command, id=one.id, give_up_after_s=30)
            one.accepted.append(answer)
        except CommandRejected:
            one.rejected += 1
        except AppendUncertain:
            one.unknown += 1
    return asked


def check_answers(asked: list[Asked], history: list[Any]) -> None:
    """Compare what clients were told with what is stored."""
    by_cause: dict[str, list[Any]] = {}
    for recorded in history:
        by_cause.setdefault(recorded.cause, []).append(recorded)
    for one in asked:
        stored = by_cause.get(one.id, [])
        if one.unknown and not one.accepted:
            continue
        told = [{(event.id, event.sequence) for event in answer.events} for answer in one.accepted]
        assert {(r.id, int(r.sequence)) for r in stored} >= set().union(*told), one.id
        if not one.accepted:
            assert not stored, f"{one.id} was rejected and left {stored}"
        wrote = [answer for answer in one.accepted if answer.events or answer.repeated]
        if stored:
            assert wrote, f"{one.id} left events that no answer told of"
            # Every answer from its first effect on is the same one.
            assert len({(answer.version, answer.state) for answer in wrote}) == 1, one.id
            # Two workers may both settle the one append; then both tell of the very same events.
            assert len({frozenset(refs) for refs in told if refs}) <= 1, one.id
            assert len(stored) == len({r.id for r in stored}), one.id


async def _command_storm(server: NatsServer, rng: random.Random, *, count: int, bad_network: bool) -> None:
    data = bytes_of(rng, 15 * CHUNK + 77)
    async with arena(server, rng, lease_s=LONG_LEASE_S, pause_timeout_s=90.0) as stage:
        await stage.workers(3)
        # Cleanup and destroy are refused while it records, and take the session away once it has
        # stopped: the recording outlasts the storm.
        over = asyncio.Event()
        recording = stage.recording(await stage.join("recorder"), "s", Feed(data, pace_s=0.005, until=over))
        running = asyncio.create_task(recording.run())
        await stage.until("s", "active")
        through = {}
        if bad_network:
            proxy = await stage.proxy()
            proxy.loss = 0.15
            through = {"through": proxy}
        told = await asyncio.gather(
            *(
                storm(stage, "s", random.Random(rng.random()), f"c{n}", count, **through)
                for n in range(CLIENTS)
            )
        )
        over.set()
        operator = stage.commands(stage.adapters, "operator")
        async with asyncio.timeout(WORK_S):
            while not running.done():
                with suppress(CommandRejected):
                    await operator.send(SessionId("s"), cmd.Resume())
                await asyncio.wait({running}, timeout=0.3)
        await running
        found = await stage.audited("s", data, acked=len(data))
        check_answers([one for asked in told for one in asked], list(found.history))
        assert found.played == data


def test_a_storm_of_commands_while_recording_keeps_the_history_legal(
    server: NatsServer, rng: random.Random
) -> None:
    """Eight clients, random verbs, ids used again: legal, answered truly, nothing lost of the recording."""
    asyncio.run(_command_storm(server, rng, count=20, bad_network=False))


@pytest.mark.chaos
@pytest.mark.timeout(600)
@pytest.mark.parametrize("run", range(CHAOS_RUNS))
def test_storms_of_commands_with_lost_replies(server: NatsServer, rng: random.Random, run: int) -> None:
    """The same on a network that loses replies, differently each time."""
    asyncio.run(_command_storm(server, rng, count=12, bad_network=True))


async def _takeovers(server: NatsServer, rng: random.Random, *, rounds: int) -> None:
    data = bytes_of(rng, 24 * CHUNK + 5)
    acked = [0]
    async with arena(server, rng, lease_s=5.0) as stage:
        await stage.workers(2)
        ended: list[str] = []
        left = [rounds]

        async def fight(name: str) -> None:
            adapters = await stage.join(name)
            while not ended:
                left[0] -= 1
                calm = left[0] <= 0
                recording = stage.recording(
                    adapters,
                    "s",
                    Feed(data, pace_s=0.01),
                    on_acked=acked.append,
                    recorder=name,
                    takeover=not calm,
                    wait_for_lease=False,
                )
                try:
                    async with asyncio.timeout(WORK_S):
                        await recording.run()
                    ended.append(name)
                except (Fenced, CommandRejected):
                    await asyncio.sleep(random.Random(rng.random()).uniform(0, 0.3))

        await asyncio.gather(fight("one"), fight("two"))
        found = await stage.audited("s", data, acked=max(acked))
        assert found.played == data


def test_two_recorders_that_take_over_from_each_other_write_one_recording(
    server: NatsServer, rng: random.Random
) -> None:
    """Takeover in a loop: offsets follow each other across epochs and all bytes are there once."""
    asyncio.run(_takeovers(server, rng, rounds=10))


async def _pauses(server: NatsServer, rng: random.Random) -> int:
    data = bytes_of(rng, 15 * CHUNK + 3)
    async with arena(server, rng, lease_s=LONG_LEASE_S) as stage:
        await stage.workers(2)
        running = asyncio.create_task(
            stage.recording(await stage.join("recorder"), "s", Feed(data, pace_s=0.01)).run()
        )
        await stage.until("s", "active")
        operator = stage.commands(stage.adapters, "operator")
        done = 0
        async with asyncio.timeout(WORK_S):
            while not running.done():
                for command in (cmd.Pause(), cmd.Resume()):
                    with suppress(CommandRejected):
                        await operator.send(SessionId("s"), command)
                        done += 1
                await asyncio.sleep(0.01 * rng.random())
        totals = await running
        assert totals.bytes == len(data)
        found = await stage.audited("s", data, acked=len(data))
        assert found.played == data
    return done


def test_pausing_and_resuming_in_a_loop_loses_nothing(server: NatsServer, rng: random.Random) -> None:
    """Pause and resume as fast as they go: the bytes are the source's."""
    assert asyncio.run(_pauses(server, rng)) >= 10


async def _sweeps(server: NatsServer, rng: random.Random) -> None:
    data = bytes_of(rng, 30 * CHUNK)
    async with arena(server, rng, lease_s=LONG_LEASE_S) as stage:
        await stage.workers(3)
        running = asyncio.create_task(
            stage.recording(await stage.join("recorder"), "s", Feed(data, pace_s=0.005)).run()
        )
        await stage.until("s", "active")
        chunks = (await stage.join("sweeper")).chunks
        async with asyncio.timeout(WORK_S):
            while not running.done():
                await chunks.sweep(older_than_s=0, dry_run=False)
        await running
        found = await stage.audited("s", data, acked=len(data))
        assert found.played == data


def test_a_sweep_without_grace_takes_nothing_that_is_being_put(
    server: NatsServer, rng: random.Random
) -> None:
    """Sweeping all the while, with no grace at all: every chunk ends up whole."""
    asyncio.run(_sweeps(server, rng))


async def _followers(server: NatsServer, rng: random.Random) -> None:
    data = bytes_of(rng, 20 * CHUNK + 9)
    async with arena(server, rng, lease_s=LONG_LEASE_S) as stage:
        await stage.workers(2)
        running = asyncio.create_task(
            stage.recording(await stage.join("recorder"), "s", Feed(data, pace_s=0.01)).run()
        )
        await stage.until("s", "active")

        async def follow(pace_s: float) -> bytes:
            async with connect(stage.settings, name="reader") as client:
                parts = []
                async for part in client.player.play(SessionId("s"), follow=True):
                    assert isinstance(part, Bytes), part
                    parts.append(bytes(part.data))
                    await asyncio.sleep(pace_s)
                return b"".join(parts)

        async with asyncio.timeout(WORK_S):
            read = await asyncio.gather(follow(0.0), follow(0.05), follow(0.2), running)
        assert list(read[:3]) == [data] * 3
        await stage.audited("s", data, acked=len(data))


def test_slow_readers_get_every_byte_while_capture_is_purged(server: NatsServer, rng: random.Random) -> None:
    """Readers that follow, however slowly, play all of it while chunks move from capture to the bucket."""
    asyncio.run(_followers(server, rng))


async def _erasing(server: NatsServer, rng: random.Random) -> None:
    sessions = [f"s{number}" for number in range(4)]
    async with arena(server, rng, lease_s=2.0) as stage:
        await stage.workers(3)
        operator = stage.commands(stage.adapters, "operator")

        async def one(sid: str) -> None:
            data = bytes_of(rng, 40 * CHUNK)
            recording = stage.recording(await stage.join(sid), sid, Feed(data, block=CHUNK, pace_s=0.005))
            running = asyncio.create_task(recording.run())
            await stage.until(sid, "active")
            await asyncio.sleep(rng.uniform(0.1, 0.6))
            await operator.send(SessionId(sid), cmd.Fail(reason="test"))
            await operator.send(SessionId(sid), cmd.Cleanup())
            with suppress(LucidError):
                await running
            await stage.until(sid, "destroyed")

        await asyncio.gather(*map(one, sessions))
        async with asyncio.timeout(WORK_S):
            while any([(await stage.captured(sid)) for sid in sessions] + [await stage.busy()]):  # noqa: ASYNC110 - another process's state
                await asyncio.sleep(0.05)
        assert not [found async for found in stage.adapters.chunks.names()]
        await stage.adapters.chunks.sweep(older_than_s=0, dry_run=False)
        for sid in sessions:
            history = await stage.history(sid)
            assert not [why for _, why in violations(history)]
            async with connect(stage.settings) as client:
                with pytest.raises(NotFound):
                    [part async for part in client.player.play(SessionId(sid)) if isinstance(part, Missing)]
        assert not (await rebuild_status(stage.adapters)).differences
        async with open_letters(stage.settings) as letters:
            assert not [letter async for letter in letters.list()]


def test_cleanup_while_chunks_are_in_flight_leaves_nothing(server: NatsServer, rng: random.Random) -> None:
    """Failed and erased in the middle: no object, no capture, no dead letter stays behind."""
    asyncio.run(_erasing(server, rng))
