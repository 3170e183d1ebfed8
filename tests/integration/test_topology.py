"""`jetstream.topology` and `jetstream.preflight`: what the server must be like, and how it differs."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from lucid_events.errors import ConfigError
from lucid_events.jetstream.connection import Connection, NatsOptions, connect
from lucid_events.jetstream.definitions import TopologySettings, load
from lucid_events.jetstream.preflight import failures, preflight
from lucid_events.jetstream.topology import apply, compare
from lucid_events.subjects import Subjects
from tests.nats_server import NatsServer

SMALL = TopologySettings(capture_max_bytes=1024**2)


@asynccontextmanager
async def connected(server: NatsServer) -> AsyncIterator[Connection]:
    """Connect to `server`."""
    async with connect(NatsOptions(servers=(server.url,))) as connection:
        yield connection


async def config(connection: Connection, stream: str) -> dict[str, Any]:
    """Return a stream's configuration as the server has it."""
    return (await connection.api(f"STREAM.INFO.{stream}"))["config"]  # type: ignore[no-any-return]  # an object


def test_apply_makes_everything_once(shared_server: NatsServer) -> None:
    """Applying creates every definition; then nothing differs, and applying again changes nothing."""

    async def main() -> None:
        subjects = Subjects("once")
        async with connected(shared_server) as connection:
            missing = await compare(connection, subjects, SMALL)
            assert [d.actual for d in missing] == ["missing"] * len(load(subjects, SMALL))
            first = await apply(connection, subjects, SMALL)
            assert len(first.created) == len(missing)
            assert await compare(connection, subjects, SMALL) == []
            again = await apply(connection, subjects, SMALL, update=True)
            assert (again.created, again.updated, again.differences) == ((), (), ())

    asyncio.run(main())


def test_two_may_apply_at_once(shared_server: NatsServer) -> None:
    """Two processes that apply at the same time both succeed."""

    async def main() -> None:
        subjects = Subjects("race")
        async with connected(shared_server) as one, connected(shared_server) as two:
            await asyncio.gather(apply(one, subjects, SMALL), apply(two, subjects, SMALL))
            assert await compare(one, subjects, SMALL) == []

    asyncio.run(main())


def test_a_difference_is_named_and_left_alone(shared_server: NatsServer) -> None:
    """What differs is reported by name and setting; only `update` changes it, and keeps the rest."""

    async def main() -> None:
        subjects = Subjects("drift")
        async with connected(shared_server) as connection:
            await apply(connection, subjects, SMALL)
            stream = subjects.outcomes_stream
            changed = {**await config(connection, stream), "max_age": 7 * 10**9, "metadata": {"mine": "yes"}}
            changed["duplicate_window"] = 7 * 10**9
            await connection.api(f"STREAM.UPDATE.{stream}", changed)
            applied = await apply(connection, subjects, SMALL)
            assert {(d.name, d.path, d.actual) for d in applied.differences} == {
                (stream, "max_age", 7 * 10**9),
                (stream, "duplicate_window", 7 * 10**9),
            }
            assert f"stream {stream}: max_age is" in str(applied.differences[0])
            updated = await apply(connection, subjects, SMALL, update=True)
            assert (updated.updated, updated.differences) == ((stream,), ())
            assert (await config(connection, stream))["metadata"]["mine"] == "yes"

    asyncio.run(main())


def test_the_log_is_what_the_design_says(shared_server: NatsServer) -> None:
    """The event log can't be deleted from or purged, republishes, and takes atomic batches."""

    async def main() -> None:
        subjects = Subjects("log-1")
        async with connected(shared_server) as connection:
            await apply(connection, subjects, SMALL)
            log = await config(connection, "LOG_1_EVENTS")
            assert (
                log["deny_delete"] is log["deny_purge"] is log["allow_atomic"] is log["allow_direct"] is True
            )
            assert log["discard"] == "new"
            assert log["compression"] == "s2"
            assert log["republish"] == {"src": "log-1.evt.>", "dest": "log-1.live.evt.>"}
            assert not log["allow_rollup_hdrs"]
            assert (await config(connection, "LOG_1_CAPTURE"))["max_bytes"] == SMALL.capture_max_bytes
            with pytest.raises(ConfigError):
                await connection.api("STREAM.PURGE.LOG_1_EVENTS")

    asyncio.run(main())


def test_more_buckets_and_generations(shared_server: NatsServer) -> None:
    """A bucket per retention class and a status view of another generation are made beside the first."""

    async def main() -> None:
        subjects = Subjects("more")
        settings = TopologySettings(capture_max_bytes=1024, buckets=("more-chunks-7y",), status_generation=2)
        async with connected(shared_server) as connection:
            created = (await apply(connection, subjects, settings)).created
            assert {"OBJ_more-chunks", "OBJ_more-chunks-7y", "KV_more-status-v2"} <= set(created)

    asyncio.run(main())


def test_what_does_not_fit_is_said(shared_server: NatsServer) -> None:
    """A capture stream beyond the server's storage is refused with the setting to change."""

    async def main() -> None:
        settings = TopologySettings(capture_max_bytes=2**60)
        async with connected(shared_server) as connection:
            with pytest.raises(ConfigError, match="LUCID_CAPTURE_MAX_MB"):
                await apply(connection, Subjects("big"), settings)

    asyncio.run(main())


def test_preflight_passes_on_what_apply_made(shared_server: NatsServer) -> None:
    """After apply nothing forbids a start; what clients can't see is said, not guessed."""

    async def main() -> None:
        subjects = Subjects("flight")
        async with connected(shared_server) as connection:
            before = await preflight(connection, subjects, SMALL)
            assert any("is missing" in f.what and "lucid deploy" in f.change for f in failures(before))
            await apply(connection, subjects, SMALL)
            assert await preflight(connection, subjects, SMALL, sync_interval="always") == []
            (unseen,) = await preflight(connection, subjects, SMALL)
            assert (unseen.level, "sync_interval: always" in unseen.change) == ("info", True)
            (weak,) = await preflight(connection, subjects, SMALL, sync_interval="2m")
            assert weak.level == "warning"

    asyncio.run(main())


def test_preflight_notices_a_log_that_was_cut_back(shared_server: NatsServer) -> None:
    """A stream that ends before a known checkpoint forbids the start."""

    async def main() -> None:
        subjects = Subjects("cut")
        async with connected(shared_server) as connection:
            await apply(connection, subjects, SMALL)
            last = (await connection.publish_acked("cut.evt.s1.session.created", b"")).sequence
            stream = subjects.events_stream
            for checkpoint, expected in ((last, []), (last + 1, ["error"])):
                found = await preflight(
                    connection, subjects, SMALL, checkpoints={stream: checkpoint}, sync_interval="always"
                )
                assert [f.level for f in found] == expected

    asyncio.run(main())


def test_preflight_refuses_async_persistence_and_weak_settings(shared_server: NatsServer) -> None:
    """A stream that acknowledges before it writes, or may be purged, forbids the start."""

    async def main() -> None:
        subjects = Subjects("weak")
        async with connected(shared_server) as connection:
            capture = next(d for d in load(subjects, SMALL) if d.name == subjects.capture_stream)
            weak = {**capture.config, "persist_mode": "async", "discard": "old"}
            await connection.api(f"STREAM.CREATE.{capture.name}", weak)
            await apply(connection, subjects, SMALL)
            found = failures(await preflight(connection, subjects, SMALL, sync_interval="always"))
            assert any("acknowledges before it writes" in f.what for f in found)
            assert any("discard is 'old'" in f.what for f in found)

    asyncio.run(main())
