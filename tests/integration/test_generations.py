"""Two generations of the status views side by side, over real servers and workers."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from lucid_events.config import Settings
from lucid_events.domain import commands as cmd
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

SESSIONS = [SessionId(f"gen-{number}") for number in range(24)]
MARKS = 12
"""Commands of every session beside its creation: about 350 events while generations come and go."""
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


def test_a_switch_beside_recording_sessions(tmp_path: Path) -> None:
    """24 sessions grow through rebuild, switch, rollback and drop: readers never fail and never go back."""

    async def _() -> None:
        async with pipeline(tmp_path) as (client, _):
            a = client.adapters
            for session in SESSIONS:
                created = (await client.commands.send(session, cmd.Create(owner="bob"))).version
                await client.status(session, min_version=created, timeout_s=PATIENCE_S)
            ended = asyncio.Event()
            reads = 0

            async def read() -> None:
                nonlocal reads
                seen: dict[SessionId, int] = {}
                while not ended.is_set():
                    for session in SESSIONS:
                        view = await client.status(session)
                        at = view.position.sequence
                        assert at >= seen.get(session, 0), f"{session} went back to {at}"
                        seen[session] = at
                        reads += 1

            async def grow(session: SessionId) -> int:
                number, version = 0, 0
                while not ended.is_set():
                    done = await client.commands.send(session, cmd.Mark(label=f"m{number}"))
                    number, version = number + 1, done.version
                return version

            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(read())
                growing = [tasks.create_task(grow(session)) for session in SESSIONS]
                report = await rebuilding.build(a)
                assert (report.generation, report.differences) == (2, ())
                live = await rebuilding.switch(a, 2)
                assert (live.generation, live.previous and live.previous.generation) == (2, 1)
                back = await rebuilding.rollback(a)
                assert back.generation == 1
                await rebuilding.switch(a, 2)
                before = reads
                while reads < before + 3 * len(SESSIONS):  # noqa: ASYNC110 - the reader's own progress
                    await asyncio.sleep(0.01)
                ended.set()
            versions = [task.result() for task in growing]
            for session, version in zip(SESSIONS, versions, strict=True):
                view = await client.status(session, min_version=version, timeout_s=PATIENCE_S)
                assert view.position.sequence == version
            await rebuilding.switch(a, 1)
            assert (await rebuilding.compare_with_live(a, 2)).same
            for session, version in zip(SESSIONS, versions, strict=True):
                assert await views_at(a, 1, session) == await views_at(a, 2, session) == version
            await rebuilding.drop(a, 2)
            assert [one.generation for one in await rebuilding.list_generations(a)] == [1]
            assert (await client.status(SESSIONS[0])).position.sequence == versions[0]

    run(_)


def test_the_first_generation_can_be_dropped(tmp_path: Path) -> None:
    """After a switch and a drop a restart makes nothing of the first generation again, and lists go on."""

    async def _() -> None:
        async with pipeline(tmp_path) as (client, _):
            for session in SESSIONS[:6]:
                await record(client, session)
            page = await client.sessions(limit=2)
            await rebuilding.build(client.adapters)
            await rebuilding.switch(client.adapters, 2)
            assert page.cursor is not None
            rest = await client.sessions(limit=100, after=page.cursor)
            listed = {entry.session_id for entry in (*page.entries, *rest.entries)}
            assert listed == set(SESSIONS[:6]), "a list that was begun before the switch goes on"
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
