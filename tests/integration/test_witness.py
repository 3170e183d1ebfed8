"""The witness on a real server: checkpoints while the log grows, whatever else goes on."""

import asyncio
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from lucid_events.domain.ids import Digest
from lucid_events.errors import (
    AppendUncertain,
    ConfigError,
    LucidError,
    NotFound,
    VersionConflict,
)
from lucid_events.evidence import checkpoint as checkpoints
from lucid_events.evidence.bundle import Log
from lucid_events.evidence.checkpoint import Checkpoint, CheckpointBuilder, decode_checkpoint, sign_checkpoint
from lucid_events.evidence.differences import What
from lucid_events.evidence.keys import KeyList
from lucid_events.evidence.signing import Signer, generate_seed
from lucid_events.jetstream.checkpoints import JetStreamCheckpoints
from lucid_events.service.adapters import Adapters
from lucid_events.service.checkpoints import verify_checkpoints
from lucid_events.service.keys import save_keys
from lucid_events.service.witnessing import Made, Witness, check_witnessed, witness
from tests.integration.witnessing import SEED, WAIT_S, append, connected, trusted, until, verified
from tests.nats_server import NatsServer


def test_a_log_is_witnessed_as_it_grows(shared_server: NatsServer) -> None:
    """Each checkpoint covers the log to its end, a second one without news is the first, and all hold."""

    async def main() -> None:
        async with connected(shared_server, "grows") as adapters:
            with pytest.raises(NotFound, match="is empty"):
                await witness(adapters).checkpoint()
            sizes = []
            for sessions in ("aab", "c", "abcabcabc"):
                await append(adapters, sessions)
                made = await witness(adapters).checkpoint()
                again = await witness(adapters).checkpoint()
                assert (again.checkpoint, again.made) == (made.checkpoint, 0)
                sizes.append((made.checkpoint.number, made.checkpoint.size, made.place))
            assert sizes == [(1, 3, 1), (2, 4, 2), (3, 13, 3)]
            await append(adapters, "zz")
            report = await verified(adapters)
            assert (report.holds, report.checkpoints, report.sequence, report.uncovered) == (True, 3, 13, 2)

    asyncio.run(main())


def test_only_what_is_new_is_read(shared_server: NatsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A witness that starts anew reads the messages behind the last checkpoint, not the whole log again."""

    async def main() -> None:
        async with connected(shared_server, "new") as adapters:
            await append(adapters, "abc" * 50)
            await witness(adapters).checkpoint()
            await append(adapters, "abcd")
            read = 0
            direct_get = adapters.connection.direct_get

            async def counted(*args: Any, **options: Any) -> Any:
                nonlocal read
                page = await direct_get(*args, **options)
                read += len(page)
                return page

            monkeypatch.setattr(adapters.connection, "direct_get", counted)
            assert (await witness(adapters).checkpoint()).checkpoint.size == 154
            assert read == 4
            monkeypatch.undo()
            assert (await verified(adapters)).holds

    asyncio.run(main())


def test_a_long_log_gets_several_checkpoints(
    shared_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What one checkpoint may hold is bounded, in messages and in sessions; the rest goes into the next."""
    monkeypatch.setattr(checkpoints, "MAX_MESSAGES", 7)
    monkeypatch.setattr(checkpoints, "MAX_SESSIONS", 3)

    async def main() -> None:
        async with connected(shared_server, "long") as adapters:
            await append(adapters, "a" * 16 + "bcdefgh")
            made = await witness(adapters).checkpoint()
            assert made.made == made.checkpoint.number > 3
            assert made.checkpoint.sequence == 23
            async for message in JetStreamCheckpoints(adapters.connection, adapters.subjects).all():
                assert len(decode_checkpoint(message.data).sessions) <= 3
            report = await verified(adapters)
            assert (report.holds, report.sequence) == (True, 23)

    asyncio.run(main())


def test_several_workers_make_one_chain(shared_server: NatsServer) -> None:
    """Witnesses that race for the next checkpoint make one chain, each place of it once."""

    async def main() -> None:
        async with connected(shared_server, "race") as one, connected(shared_server, "race") as other:
            witnesses = [witness(one), witness(other), witness(one), witness(other)]
            for _ in range(5):
                await append(one, "abcd")
                async with asyncio.timeout(WAIT_S):
                    made: list[Made] = await asyncio.gather(*(each.checkpoint() for each in witnesses))
                assert len({each.place for each in made}) == 1
                assert sum(each.made for each in made) == 1
            report = await verified(one)
            assert (report.holds, report.checkpoints) == (True, 5)

    asyncio.run(main())


def test_a_checkpoint_is_made_when_it_is_due(shared_server: NatsServer) -> None:
    """The running witness makes one when enough messages came, and one when enough time went by."""

    async def main() -> None:
        async with connected(shared_server, "due") as adapters:
            store = JetStreamCheckpoints(adapters.connection, adapters.subjects)
            await append(adapters, "a")
            place = (await witness(adapters).checkpoint()).place
            for options in ({"interval_s": 3600.0, "messages": 3}, {"interval_s": 0.1, "messages": 10**6}):
                runs = Witness(adapters, lambda: Signer(SEED), **options)  # type: ignore[arg-type]  # a table
                place = 1 + place
                await append(adapters, "abc")
                async with asyncio.timeout(WAIT_S), asyncio.TaskGroup() as tasks:
                    tasks.create_task(runs.run())
                    await until(partial(store.before, place + 1))
                    runs.stop()
            report = await verified(adapters)
            assert (report.holds, report.checkpoints, report.uncovered) == (True, 3, 0)

    asyncio.run(main())


def test_a_lost_reply_makes_no_second_checkpoint(
    shared_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint whose acknowledgement was lost is found stored, and stands once."""

    async def main() -> None:
        async with connected(shared_server, "lost") as adapters:
            await append(adapters, "abc")
            publish, lost = adapters.connection.publish_acked, 0

            async def deaf(*args: Any, **options: Any) -> Any:
                nonlocal lost
                await publish(*args, **options)
                lost += 1
                raise AppendUncertain("no reply")

            monkeypatch.setattr(adapters.connection, "publish_acked", deaf)
            made = await witness(adapters).checkpoint()
            monkeypatch.undo()
            assert (made.place, made.made, lost) == (1, 1, 1)
            report = await verified(adapters)
            assert (report.holds, report.checkpoints) == (True, 1)

    asyncio.run(main())


def test_the_stream_of_checkpoints_can_not_be_thinned(shared_server: NatsServer) -> None:
    """Deleting and purging are denied by the server, and a second first checkpoint by the guard."""

    async def main() -> None:
        async with connected(shared_server, "denied") as adapters:
            await append(adapters, "a")
            await witness(adapters).checkpoint()
            stream = adapters.subjects.checkpoints_stream
            for call, body in (("MSG.DELETE", {"seq": 1}), ("PURGE", {})):
                with pytest.raises(LucidError):
                    await adapters.connection.api(f"STREAM.{call}.{stream}", body)
            store = JetStreamCheckpoints(adapters.connection, adapters.subjects)
            with pytest.raises(VersionConflict):
                await store.append(b"other", {}, expected=0)

    asyncio.run(main())


def test_what_others_publish_there_is_named_and_stepped_over(shared_server: NatsServer) -> None:
    """Junk among the checkpoints neither stops the witness nor goes unseen."""

    async def main() -> None:
        async with connected(shared_server, "junk") as adapters:
            await append(adapters, "a")
            await witness(adapters).checkpoint()
            await adapters.connection.publish_acked(adapters.subjects.checkpoint, b"junk")
            good = await JetStreamCheckpoints(adapters.connection, adapters.subjects).before(2)
            assert good is not None
            forged = {**good.headers, "Lucid-Signature": "A" * 86}
            forged.pop("Nats-Expected-Last-Subject-Sequence")
            await adapters.connection.publish_acked(adapters.subjects.checkpoint, good.data, headers=forged)
            await append(adapters, "b")
            assert (await witness(adapters).checkpoint()).checkpoint.number == 2
            report = await verified(adapters)
            assert [one.what for one in report.differences] == [What.CHECKPOINT, What.SIGNATURE]
            assert "message 2 of the checkpoints is no checkpoint" in report.differences[0].reason
            assert report.checkpoints == 2

    asyncio.run(main())


def forged(adapters: Adapters, previous: Checkpoint | None, *, upto: int) -> Checkpoint:
    """Return a checkpoint over a log that never was, up to a sequence of somebody's choice."""
    builder = CheckpointBuilder(Log(stream=adapters.subjects.events_stream, incarnation=1), previous)
    builder.take(upto, "nobody", Digest("0" * 64))
    return builder.make(adapters.clock.now())


async def publish(adapters: Adapters, found: Checkpoint, signer: Signer | None) -> None:
    """Publish it as anybody can who may publish there."""
    headers = sign_checkpoint(signer, found.body)
    await adapters.connection.publish_acked(adapters.subjects.checkpoint, found.body, headers=headers)


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("forger", [None, Signer(generate_seed())], ids=["unsigned", "self-made"])
def test_what_no_trusted_key_has_signed_is_stepped_over(
    shared_server: NatsServer, caplog: pytest.LogCaptureFixture, forger: Signer | None, first: bool
) -> None:
    """Anybody's checkpoint is no ground for a signed one, and stops neither witness nor start."""

    async def main() -> None:
        prefix = f"forged-{first}-{forger is None}".lower()
        async with connected(shared_server, prefix) as adapters:
            await append(adapters, "abc")
            good = None
            if not first:
                good = (await witness(adapters).checkpoint()).checkpoint
            await publish(adapters, forged(adapters, good, upto=10**9), forger)
            await publish(adapters, forged(adapters, good, upto=4), forger)
            await check_witnessed(adapters, await adapters.store.last_position())
            await append(adapters, "abc")
            made = (await witness(adapters).checkpoint()).checkpoint
            assert (made.number, made.size) == (1 if first else 2, 6)
            assert made.previous == (None if good is None else good.digest)
            assert "signed by nobody who is trusted" in caplog.text
            assert (await witness(adapters).checkpoint()).checkpoint == made
            report = await verified(adapters)
            assert {one.what for one in report.differences} == {What.KEY if forger else What.UNSIGNED}
            assert (report.found, report.sequence, report.uncovered) == (2, 6, 0)

    asyncio.run(main())


def test_a_key_that_the_list_knows_is_gone_on_from(shared_server: NatsServer, tmp_path: Path) -> None:
    """After a rotation the chain goes on behind what the key of before has signed."""
    older, keys = Signer(generate_seed()), tmp_path / "keys.json"
    listed = KeyList().add(older.key, at=datetime(2020, 1, 1, tzinfo=UTC))
    save_keys(keys, listed.add(Signer(SEED).key, at=datetime(2020, 1, 1, tzinfo=UTC)))

    async def main() -> None:
        async with connected(shared_server, "rotated", signing_keys=str(keys)) as adapters:
            await append(adapters, "abc")
            before = (await Witness(adapters, lambda: older).checkpoint()).checkpoint
            await append(adapters, "abc")
            made = (await witness(adapters).checkpoint()).checkpoint
            assert (made.number, made.previous) == (2, before.digest)

    asyncio.run(main())


def test_a_seed_that_was_set_later_goes_on_from_what_fits_the_log(
    shared_server: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Where nothing is signed yet, the newest checkpoint that the log bears out is the one before."""

    async def main() -> None:
        async with connected(shared_server, "later") as adapters:
            await append(adapters, "abcabc")
            unsigned = Witness(adapters, lambda: None)
            one = (await unsigned.checkpoint()).checkpoint
            await append(adapters, "abc")
            two = (await unsigned.checkpoint()).checkpoint
            await publish(adapters, forged(adapters, two, upto=10), None)
            await append(adapters, "a")
            signing = witness(adapters)
            made = (await signing.checkpoint()).checkpoint
            assert (one.number, made.number, made.previous, made.size) == (1, 3, two.digest, 10)
            assert "going on from a checkpoint that no trusted key has signed" in caplog.text
            report = await verify_checkpoints(adapters, keys=trusted())
            assert (report.unsigned, report.holds) == (3, False), "the forged one is told"

    asyncio.run(main())


def test_a_mirror_can_be_verified(shared_server: NatsServer) -> None:
    """A second stream that mirrors the checkpoints is as good a source for verifying the log."""

    async def main() -> None:
        async with connected(shared_server, "mirrored") as adapters:
            mirror = {"name": "ELSEWHERE", "mirror": {"name": adapters.subjects.checkpoints_stream}}
            await adapters.connection.api(
                "STREAM.CREATE.ELSEWHERE", {**mirror, "storage": "file", "allow_direct": True}
            )
            await append(adapters, "abc")
            made = await witness(adapters).checkpoint()
            store = JetStreamCheckpoints(adapters.connection, adapters.subjects, "ELSEWHERE")
            await until(store.last)
            report = await verified(adapters, stream="ELSEWHERE", remembered=made.checkpoint)
            assert (report.holds, report.checkpoints) == (True, 1)
            with pytest.raises((ConfigError, NotFound), match="NOWHERE"):
                await verified(adapters, stream="NOWHERE")

    asyncio.run(main())


def test_the_loss_of_the_seed_stops_no_recording(
    shared_server: NatsServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A seed that can't be read any more is told once, and checkpoints go on when it is back."""
    seed = tmp_path / "seed"
    seed.write_text(SEED)
    seed.chmod(0o600)

    async def told() -> bool:
        return "no checkpoint could be made" in caplog.text

    async def main() -> None:
        async with connected(
            shared_server, "seed", signing_seed=str(seed), checkpoint_interval_s=0.05
        ) as adapters:
            runs = witness(adapters)
            store = JetStreamCheckpoints(adapters.connection, adapters.subjects)
            seed.rename(tmp_path / "away")
            await append(adapters, "abc")
            async with asyncio.timeout(WAIT_S), asyncio.TaskGroup() as tasks:
                tasks.create_task(runs.run())
                await until(told)
                assert await store.last() is None
                (tmp_path / "away").rename(seed)
                await until(store.last)
                runs.stop()
            assert caplog.text.count("no checkpoint could be made") == 1
            assert SEED not in caplog.text
            assert (await verified(adapters)).holds

    asyncio.run(main())
