"""What the checkpoints say of a log, a store or a checkpoint that somebody has touched."""

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lucid_events.errors import ConfigError, IntegrityError
from lucid_events.evidence.differences import What
from lucid_events.service.adapters import Adapters
from lucid_events.service.checkpoints import (
    CheckpointsReport,
    keep_checkpoint,
    load_checkpoint,
)
from lucid_events.service.preflight import examine
from lucid_events.service.witnessing import witness
from lucid_events.service.workers import Workers
from tests.integration.witnessing import append, connected, kinds, raise_incarnation, verified
from tests.nats_server import NatsServer


async def _run_workers(adapters: Adapters) -> None:
    workers = Workers(adapters, only=["advisories"])
    async with workers.running():
        pass


async def _purge(adapters: Adapters, session: str) -> None:
    body = {"filter": f"{adapters.subjects.prefix}.evt.{session}.>"}
    await adapters.connection.api(f"STREAM.PURGE.{adapters.subjects.events_stream}", body)


def test_a_session_removed_from_the_log_is_named(shared_server: NatsServer) -> None:
    """A whole history purged through the server's own API is missed by name."""

    async def main() -> None:
        async with connected(shared_server, "purged", deniable=False) as adapters:
            await append(adapters, "abcabc")
            await witness(adapters).checkpoint()
            await append(adapters, "cab")
            await witness(adapters).checkpoint()
            await _purge(adapters, "b")
            report = await verified(adapters)
            assert not report.holds
            assert (What.REMOVED, "b") in kinds(report)
            assert {session for what, session in kinds(report) if session} == {"b"}
            lost = [one.reason for one in report.differences if one.what is What.LOG]
            assert "the log lacks message 2, which checkpoint 1 has seen" in lost

    asyncio.run(main())


def test_a_message_removed_before_it_was_witnessed_is_told_in_the_checkpoint(
    shared_server: NatsServer,
) -> None:
    """A hole that is there when a checkpoint is made is named in it, and is no difference later."""

    async def main() -> None:
        async with connected(shared_server, "holes", deniable=False) as adapters:
            await append(adapters, "abcabc")
            await _purge(adapters, "b")
            made = (await witness(adapters).checkpoint()).checkpoint
            assert [(hole.first, hole.last) for hole in made.missing] == [(2, 2), (5, 5)]
            assert (made.size, made.sequence) == (4, 6)
            assert (await verified(adapters)).holds

    asyncio.run(main())


@pytest.mark.parametrize("witnessed_again", [False, True])
def test_a_session_removed_while_the_incarnation_was_raised_is_named(
    shared_server: NatsServer, tmp_path: Path, witnessed_again: bool
) -> None:
    """One edit of the stream's metadata makes no checkpoint void: what they have seen is missed as ever."""

    async def main() -> None:
        prefix = f"raised-{witnessed_again}".lower()
        async with connected(shared_server, prefix, deniable=False) as adapters:
            await append(adapters, "abcabcabca")
            made = await witness(adapters).checkpoint()
            await keep_checkpoint(adapters, made.place, tmp_path / "kept.json")
            kept = load_checkpoint(tmp_path / "kept.json")
            await raise_incarnation(adapters)
            intact = await verified(adapters, remembered=kept)
            assert (intact.holds, intact.sequence, intact.uncovered) == (True, 10, 0), intact.differences
            await _purge(adapters, "b")
            if witnessed_again:
                again = (await witness(adapters).checkpoint()).checkpoint
                assert (again.log.incarnation, again.number) == (2, 2)
            for report in (await verified(adapters), await verified(adapters, remembered=kept)):
                assert (What.REMOVED, "b") in kinds(report)
                assert "--cut-back" in report.remarks[-1].reason

    asyncio.run(main())


def test_a_raised_incarnation_over_an_intact_log_is_no_news(
    shared_server: NatsServer, tmp_path: Path
) -> None:
    """With one checkpoint of the new incarnation that has not come as far as the kept one, all holds."""

    async def main() -> None:
        async with connected(shared_server, "intact") as adapters:
            await append(adapters, "abcabc")
            made = await witness(adapters).checkpoint()
            await raise_incarnation(adapters)
            await append(adapters, "abc")
            assert (await witness(adapters).checkpoint()).checkpoint.sequence == 9
            assert (await verified(adapters, remembered=made.checkpoint)).holds
            await raise_incarnation(adapters)
            report = await verified(adapters, remembered=made.checkpoint)
            assert (report.holds, report.remarks) == (True, ()), report.differences

    asyncio.run(main())


def test_a_log_cut_back_holds_where_the_auditor_knows_the_place(shared_server: NatsServer) -> None:
    """The end that a restore took is missed, unless the auditor says from where on."""

    async def main() -> None:
        async with connected(shared_server, "declared", deniable=False) as adapters:
            await append(adapters, "abcabc")
            kept = (await witness(adapters).checkpoint()).checkpoint
            stream = adapters.subjects.events_stream
            config = (await adapters.connection.api(f"STREAM.INFO.{stream}"))["config"]
            await adapters.connection.api(f"STREAM.DELETE.{stream}")
            await adapters.connection.api(f"STREAM.CREATE.{stream}", config)
            await append(adapters, "abca")
            await raise_incarnation(adapters)
            await append(adapters, "ddd")
            assert (await witness(adapters).checkpoint()).checkpoint.number == 2
            missed = await verified(adapters, remembered=kept)
            assert (What.REWRITTEN, "d") in kinds(missed)
            told = await verified(adapters, remembered=kept, cut_back={2: 4})
            assert told.holds, told.differences
            assert len(told.remarks) == 2
            for wrong in ({1: 4}, {3: 4}):
                with pytest.raises(ConfigError, match="no incarnation"):
                    await verified(adapters, cut_back=wrong)

    asyncio.run(main())


def test_a_log_made_up_anew_is_found(shared_server: NatsServer) -> None:
    """A log deleted and written again in another order, without a hole in it, is another log."""

    async def main() -> None:
        async with connected(shared_server, "anew", deniable=False) as adapters:
            await append(adapters, "aabb")
            await witness(adapters).checkpoint()
            stream = adapters.subjects.events_stream
            config = (await adapters.connection.api(f"STREAM.INFO.{stream}"))["config"]
            await adapters.connection.api(f"STREAM.DELETE.{stream}")
            await adapters.connection.api(f"STREAM.CREATE.{stream}", config)
            await append(adapters, "bbaa")
            assert {(What.REWRITTEN, "a"), (What.REWRITTEN, "b")} <= kinds(await verified(adapters))

    asyncio.run(main())


def test_a_log_cut_back_is_not_witnessed_any_further(shared_server: NatsServer) -> None:
    """When the log ends before its last checkpoint, no other covers that up, and verify says what is gone."""

    async def main() -> None:
        async with connected(shared_server, "cut", deniable=False) as adapters:
            await append(adapters, "abcabc")
            await witness(adapters).checkpoint()
            stream = adapters.subjects.events_stream
            config = (await adapters.connection.api(f"STREAM.INFO.{stream}"))["config"]
            await adapters.connection.api(f"STREAM.DELETE.{stream}")
            await adapters.connection.api(f"STREAM.CREATE.{stream}", config)
            await append(adapters, "abc")
            with pytest.raises(IntegrityError, match="ends at 3, checkpoint 1 has seen it up to 6"):
                await witness(adapters).checkpoint()
            with pytest.raises(IntegrityError, match="ends at 3, checkpoint 1 has seen it up to 6"):
                await _run_workers(adapters)
            assert any("ends at 3, checkpoint 1" in found.what for found in await examine(adapters))
            report = await verified(adapters)
            assert {(What.REWRITTEN, "a"), (What.REWRITTEN, "b"), (What.REWRITTEN, "c")} <= kinds(report)
            assert any("lacks messages 4 to 6" in one.reason for one in report.differences)

    asyncio.run(main())


def test_a_checkpoint_taken_back_is_found(shared_server: NatsServer, tmp_path: Path) -> None:
    """The newest checkpoint deleted leaves a chain that holds; the copy in a file shows that it was there."""

    async def main() -> None:
        async with connected(shared_server, "back", deniable=False) as adapters:
            await append(adapters, "ab")
            await witness(adapters).checkpoint()
            await append(adapters, "ab")
            made = await witness(adapters).checkpoint()
            await keep_checkpoint(adapters, made.place, tmp_path / "kept.json")
            kept = load_checkpoint(tmp_path / "kept.json")
            assert kept == made.checkpoint
            assert (await verified(adapters, remembered=kept)).holds
            stream = adapters.subjects.checkpoints_stream
            await adapters.connection.api(f"STREAM.MSG.DELETE.{stream}", {"seq": 2})
            assert (await verified(adapters)).holds
            report = await verified(adapters, remembered=kept)
            assert [one.what for one in report.differences] == [What.ROLLED_BACK]
            # A witness that goes on from there makes another checkpoint of that number: found as well.
            await append(adapters, "c")
            assert (await witness(adapters).checkpoint()).checkpoint.number == 2
            assert (await verified(adapters)).holds
            report = await verified(adapters, remembered=kept)
            assert [one.what for one in report.differences] == [What.ROLLED_BACK]
            assert "is another than the one that was kept elsewhere" in report.differences[0].reason

    asyncio.run(main())


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda text: text[:-2], "is no line"),
        (lambda text: text.replace(b'\\"size\\":2', b'\\"size\\":3'), "edge"),
        (lambda text: text.replace(b'\\"time\\":\\"20', b'\\"time\\":\\"21'), "signature"),
    ],
)
def test_a_kept_checkpoint_that_was_changed_is_refused(
    shared_server: NatsServer, tmp_path: Path, spoil: Callable[[bytes], bytes], words: str
) -> None:
    """A file that is not what was kept is no witness."""

    async def main() -> None:
        async with connected(shared_server, "kept") as adapters:
            await append(adapters, "ab" if (await adapters.store.last_position()).sequence == 0 else "")
            made = await witness(adapters).checkpoint()
            place = tmp_path / "kept.json"
            await keep_checkpoint(adapters, made.place, place)
            place.write_bytes(spoil(place.read_bytes()))
            with pytest.raises(IntegrityError, match=words):
                load_checkpoint(place)

    asyncio.run(main())


def test_a_store_put_back_in_time_is_found(server: NatsServer, tmp_path: Path) -> None:
    """A whole store restored from an older copy holds by itself; a checkpoint kept elsewhere tells."""
    kept = tmp_path / "kept.json"

    async def grow(sessions: str) -> None:
        async with connected(server) as adapters:
            await append(adapters, sessions)
            made = await witness(adapters).checkpoint()
            await keep_checkpoint(adapters, made.place, kept)

    async def main() -> CheckpointsReport:
        async with connected(server) as adapters:
            assert (await verified(adapters)).holds
            return await verified(adapters, remembered=load_checkpoint(kept))

    asyncio.run(grow("abc"))
    server.stop()
    shutil.copytree(server.folder / "store", tmp_path / "older")
    server.start()
    asyncio.run(grow("abcd"))
    assert asyncio.run(main()).holds
    server.stop()
    shutil.rmtree(server.folder / "store")
    shutil.copytree(tmp_path / "older", server.folder / "store")
    server.start()
    report = asyncio.run(main())
    assert [one.what for one in report.differences] == [What.ROLLED_BACK, What.TRUNCATED]


def test_a_store_edited_on_disk_is_found(server: NatsServer) -> None:
    """Bytes changed in the log's files: the server may drop messages in silence, the checkpoints do not."""

    async def fill() -> None:
        async with connected(server) as adapters:
            await append(adapters, "abcabcabc")
            await witness(adapters).checkpoint()
            assert (await verified(adapters)).holds

    async def main() -> CheckpointsReport:
        async with connected(server) as adapters:
            return await verified(adapters)

    asyncio.run(fill())
    server.stop()
    (block,) = (server.folder / "store").glob("**/streams/LUCID_EVENTS/msgs/1.blk")
    data = block.read_bytes()
    at = data.index(b'{"n":4}')
    block.write_bytes(data[:at] + b'{"n":5}' + data[at + 7 :])
    server.start()
    report = asyncio.run(main())
    assert not report.holds
    assert {session for _, session in kinds(report)} >= {"b"}
