"""Two generations of the status views side by side, over real servers and workers."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from lucid_events.config import Settings
from lucid_events.domain import commands as cmd
from lucid_events.domain import events as ev
from lucid_events.domain.ids import SessionId
from lucid_events.domain.transitions import State
from lucid_events.errors import CommandRejected, ContractError, IntegrityError, NotReady
from lucid_events.jetstream import topology
from lucid_events.projections.comparison import fold
from lucid_events.projections.generations import SCRATCH, Generations
from lucid_events.projections.status import StatusProjection
from lucid_events.projections.views import StatusViews
from lucid_events.service import connect, rebuilding, up
from lucid_events.service.adapters import Adapters, current_topology
from lucid_events.service.client import Client
from lucid_events.service.replaying import as_of, status_projection
from lucid_events.service.workers import Workers
from tests.integration.arena import CHUNK, LOOK_S, Feed, arena, bytes_of
from tests.nats_server import NatsServer

SESSIONS = [SessionId(f"gen-{number}") for number in range(6)]
MARKS = 12
"""Commands of every session beside its creation."""
RECORDERS, READERS = 50, 2
BLOCK, PACE_S = 4096, (0.05, 0.1)
"""40 to 80 KiB a second from each recorder: 45 chunks become ready in a second, beside which readers read."""
HISTORY = 500
"""Chunks that are ready before the views are built anew: the fold has to take a moment."""
PATIENCE_S = 90.0


@asynccontextmanager
async def pipeline(folder: Path, *, only: tuple[str, ...] = ()) -> AsyncIterator[tuple[Client, Workers]]:
    """A pipeline in this process on a server of its own, and a client of it."""
    async with (
        up(Settings(data=str(folder)), port=0, only=only) as service,
        connect(Settings(nats_url=service.url)) as client,
    ):
        yield client, service.workers


async def record(client: Client, session: SessionId) -> int:
    """Give a session a history of some length; returns its version."""
    await client.commands.send(session, cmd.Create(owner="ann"))
    for number in range(MARKS - 1):
        await client.commands.send(session, cmd.Mark(label=f"m{number}"))
    return (await client.commands.send(session, cmd.Start())).version


async def views_at(adapters: Adapters, generation: int, session: SessionId) -> int:
    """Where the session's view stands in a generation; it equals the history folded to there."""
    views = StatusViews(adapters.kv(adapters.subjects.status_bucket(generation)))
    view = (await views.load(session)).view
    if view is None:
        return 0
    projection = await status_projection(adapters)
    assert view == await fold(projection, adapters.store, session, upto=view.position.sequence)
    return view.position.sequence


def run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a test within `PATIENCE_S`."""

    async def bounded() -> None:
        async with asyncio.timeout(PATIENCE_S):
            await work()

    asyncio.run(bounded())


class Endless(Feed):
    """Gives bytes without an end, until `until` has happened."""

    async def read(self) -> bytes:
        """Return the next block."""
        await asyncio.sleep(self._pace_s)
        assert self._until is not None
        if self._until.is_set():
            return b""
        at = self.position % len(self._data)
        block = self._data[at : at + self._block]
        self.position += len(block)
        return block


class Readers:
    """Poll every session without a pause; a read that fails, is behind or goes back ends the test."""

    def __init__(self, sessions: Sequence[SessionId], ended: asyncio.Event) -> None:
        self.rounds: list[int] = []
        self._sessions, self._ended = sessions, ended
        self._ready = dict.fromkeys(sessions, 0)

    async def read(self, client: Client) -> None:
        """Read as one more reader, plainly and with the position a session has by now, till the end."""
        number, seen = len(self.rounds), dict.fromkeys(self._sessions, 0)
        self.rounds.append(0)
        while not self._ended.is_set():
            for session in self._sessions:
                version = int(await client.store.version(session))
                for least in (0, version):
                    view = await client.status(session, min_version=least, timeout_s=PATIENCE_S)
                    at = view.position.sequence
                    assert at >= max(least, seen[session]), f"{session} went back to {at}"
                    seen[session] = at
                    self._ready[session] = max(self._ready[session], view.chunks.ready)
            self.rounds[number] += 1

    def ready(self) -> list[int]:
        """How many chunks each session had ready when it was read last."""
        return [self._ready[session] for session in self._sessions]

    def grown(self, ready: list[int]) -> bool:
        """Whether every session has more chunks ready by now."""
        return all(now > before for now, before in zip(self.ready(), ready, strict=True))

    async def go_on(self) -> None:
        """Wait until every session has one more chunk, and every reader has read all of them since."""
        ready = self.ready()
        await self.until(lambda: self.grown(ready))
        rounds = list(self.rounds)  # the one in hand began before
        await self.until(lambda: all(now > 1 + then for now, then in zip(self.rounds, rounds, strict=True)))

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until what was read says so."""
        while not condition():  # noqa: ASYNC110 - the readers' own progress: nothing here sets an event
            await asyncio.sleep(LOOK_S)


def test_a_switch_beside_recording_sessions(server: NatsServer, rng: random.Random) -> None:
    """50 recorders go on through rebuild, switch, rollback and drop: no read fails or goes back.

    In the end both generations say the same of every session at the same position, which is that of
    its whole history, and count the bytes that were recorded.
    """
    sessions = [SessionId(f"rec-{number}") for number in range(RECORDERS)]

    async def _() -> None:
        async with arena(server, rng) as stage, AsyncExitStack() as clients, asyncio.TaskGroup() as tasks:
            await stage.workers(2)
            client, *others = [
                await clients.enter_async_context(connect(stage.settings)) for _ in range(1 + READERS)
            ]
            a, ended = client.adapters, asyncio.Event()
            feeds = {
                session: Endless(
                    bytes_of(rng, CHUNK - 1), block=BLOCK, pace_s=rng.uniform(*PACE_S), until=ended
                )
                for session in sessions
            }
            recordings = [
                tasks.create_task(
                    stage.recording(await stage.join(session), session, feed, flush_interval_s=0.5).run()
                )
                for session, feed in feeds.items()
            ]
            for session in sessions:
                await stage.until(session, "active")
            readers = Readers(sessions, ended)
            reading = [tasks.create_task(readers.read(other)) for other in others]
            await readers.until(lambda: sum(readers.ready()) >= HISTORY)

            ready = readers.ready()
            while not readers.grown(ready):
                assert (await rebuilding.rebuild_status(a)).differences == ()
            before = (await a.store.last_position()).sequence
            report = await rebuilding.build(a)
            assert (report.generation, report.differences) == (2, ())
            assert await stored_since(a, before), "nothing was recorded while the views were built"
            await readers.go_on()
            assert (await rebuilding.compare_with_live(a, 2)).same
            assert (await rebuilding.switch(a, 2)).generation == 2
            await readers.go_on()
            assert (await rebuilding.rollback(a)).generation == 1
            await readers.go_on()
            ended.set()
            await asyncio.gather(*reading, *recordings)
            for session, feed in feeds.items():
                await stage.until(session, "stopped")
                version = int(await a.store.version(session))
                view = await client.status(session, min_version=version, timeout_s=PATIENCE_S)
                assert (view.state, view.raw_bytes) == (State.STOPPED, feed.position)
            await rebuilding.switch(a, 2)
            assert (await rebuilding.compare_with_live(a, 1)).same
            for session in sessions:
                version = int(await a.store.version(session))
                assert await views_at(a, 1, session) == await views_at(a, 2, session) == version
            await rebuilding.drop(a, 1)
            assert [one.generation for one in await rebuilding.list_generations(a)] == [2]

    run(_)


async def stored_since(adapters: Adapters, position: int) -> int:
    """How many chunks have become ready behind a position of the log."""
    found = adapters.store.replay(after=position)
    return len([one async for one in found if isinstance(getattr(one, "event", None), ev.ChunkReady)])


def test_the_first_generation_can_be_dropped(tmp_path: Path) -> None:
    """After a switch and a drop a restart makes nothing of the first generation again, and lists go on."""

    async def _() -> None:
        async with pipeline(tmp_path) as (client, _):
            for session in SESSIONS:
                await record(client, session)
            page = await client.sessions(limit=2)
            await rebuilding.build(client.adapters)
            await rebuilding.switch(client.adapters, 2)
            assert page.cursor is not None
            rest = await client.sessions(limit=100, after=page.cursor)
            listed = {entry.session_id for entry in (*page.entries, *rest.entries)}
            assert listed == set(SESSIONS), "a list that was begun before the switch goes on"
            await rebuilding.drop(client.adapters, 1)
            assert (await client.status(SESSIONS[0])).state is State.STARTING
        async with pipeline(tmp_path) as (client, workers):
            assert workers.projectors is not None
            version = (await client.commands.send(SESSIONS[0], cmd.Stop())).version
            view = await client.status(SESSIONS[0], min_version=version, timeout_s=PATIENCE_S)
            assert view.state in (State.STOPPING, State.STOPPED)
            (only,) = await rebuilding.list_generations(client.adapters)
            assert (only.generation, only.consumer) == (2, "status-v2")
            again = await rebuilding.rebuild_status(client.adapters)
            assert (again.generation, again.differences) == (SCRATCH + 1, ())

    run(_)


def test_a_generation_that_differs_is_not_switched_to(tmp_path: Path) -> None:
    """A view that says something else stops the switch with its session and field, unless it is meant to."""

    async def _() -> None:
        async with pipeline(tmp_path) as (client, _):
            a = client.adapters
            version = await record(client, SESSIONS[0])
            await client.status(SESSIONS[0], min_version=version, timeout_s=PATIENCE_S)
            await rebuilding.build(a)
            kv = a.kv(a.subjects.status_bucket(2))
            found = await kv.get(f"s.{SESSIONS[0]}")
            assert found is not None
            await kv.put(f"s.{SESSIONS[0]}", found[0].replace(b'"ann"', b'"eve"'))
            with pytest.raises(IntegrityError, match=rf"{SESSIONS[0]} in owner"):
                await rebuilding.switch(a, 2)
            assert (await Generations(a.meta, StatusProjection.name).live()).generation == 1
            with pytest.raises(CommandRejected, match="projections drop 2"):
                await rebuilding.build(a)
            assert (await rebuilding.switch(a, 2, accept_differences=True)).generation == 2

    run(_)


def test_a_generation_that_nobody_fills_is_not_switched_to(tmp_path: Path) -> None:
    """Without workers that fill it a candidate falls behind, and the switch says so."""

    async def _() -> None:
        only = ("commands",)
        async with pipeline(tmp_path, only=only) as (client, _):
            a = client.adapters
            await client.commands.send(SESSIONS[0], cmd.Create())
            await rebuilding.build(a)
            await client.commands.send(SESSIONS[0], cmd.Mark(label="m"))
            with pytest.raises(NotReady, match="has yet to apply 1 messages"):
                await rebuilding.switch(a, 2, within_s=0.2)

    run(_)


def test_what_a_killed_rebuild_left_is_listed_and_dropped(tmp_path: Path) -> None:
    """A bucket that nobody reads or fills is a leftover in the list until it is dropped, and never live."""

    async def _() -> None:
        async with pipeline(tmp_path, only=("commands", "status")) as (client, _):
            a = client.adapters
            number = await Generations(a.meta, StatusProjection.name).reserve()
            settings = await current_topology(a)
            await topology.create_generation(
                a.connection, a.subjects, settings, generation=number, after=None
            )
            live, left = await rebuilding.list_generations(a)
            assert (live.role, left.role, left.bucket) == ("live", "leftover", f"lucid-status-v{number}")
            assert (left.generation, left.version, left.behind) == (number, None, None)
            await rebuilding.rebuild_status(a)
            assert [one.generation for one in await rebuilding.list_generations(a)] == [1, number]
            await rebuilding.drop(a, number)
            assert [one.role for one in await rebuilding.list_generations(a)] == ["live"]

    run(_)


def test_a_log_that_can_not_be_read_leaves_no_candidate(tmp_path: Path) -> None:
    """An event this release does not know ends the rebuild, and nothing goes on filling what it began."""

    async def _() -> None:
        async with pipeline(tmp_path) as (client, _):
            a = client.adapters
            version = await record(client, SESSIONS[0])
            found = await a.connection.leader_get(a.subjects.events_stream, seq=version)
            assert found is not None
            headers = {
                name: value
                for name, value in found.headers.items()
                if name.lower().startswith(("ce-", "lucid-"))
            }
            headers["ce-type"] = "session.teleported.v1"
            subject = a.subjects.event(SESSIONS[0], "session.teleported.v1")
            await a.connection.publish_acked(subject, b"{}", headers=headers)
            with pytest.raises(ContractError, match="teleported"):
                await rebuilding.build(a)
            assert [one.generation for one in await rebuilding.list_generations(a)] == [1]

    run(_)


def test_as_of_is_what_the_view_said_then(tmp_path: Path) -> None:
    """At the server time of every event the fold is the view of exactly the events until then."""

    async def _() -> None:
        async with pipeline(tmp_path) as (client, _):
            await record(client, SESSIONS[0])
            messages = [message async for message in client.store.read(SESSIONS[0])]
            for message in messages:
                by_time = await as_of(client.adapters, SESSIONS[0], message.stored_at)
                by_sequence = await as_of(client.adapters, SESSIONS[0], int(message.sequence))
                assert by_time == by_sequence
                assert by_time.position.sequence == message.sequence
                assert by_time.events == messages.index(message) + 1

    run(_)
