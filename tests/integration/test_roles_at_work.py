"""What each role of `deploy/nats/roles.conf` does with the installed command, in its own account."""

import asyncio
import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from lucid_events.domain.ids import SessionId
from lucid_events.errors import Fenced
from lucid_events.jetstream.capture import JetStreamCaptureStore
from lucid_events.subjects import Subjects
from tests.end_to_end.processes import Running, lucid, until
from tests.integration.roles import API, CLI_S, RoleServer, cli, roles_at_work

CHUNK = 65536


@pytest.fixture(scope="module")
def roles(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RoleServer]:
    """Give a server with the roles and a worker on it."""
    with roles_at_work(tmp_path_factory.mktemp("roles")) as made:
        yield made


def test_a_recorder_learns_that_its_epoch_is_closed(roles: RoleServer) -> None:
    """A fenced recorder hears `Fenced` although it may read no other message of capture."""

    async def main() -> None:
        session, subjects = SessionId("fenced"), Subjects()
        async with roles.login("operator") as operator, roles.login("recorder") as recorder:
            mine = JetStreamCaptureStore(recorder, subjects)
            await mine.publish(session, epoch=1, n=0, offset=0, data=b"before", sha256="0" * 64)
            await JetStreamCaptureStore(operator, subjects).fence(session, epoch=1)
            with pytest.raises(Fenced):
                await mine.publish(session, epoch=1, n=0, offset=6, data=b"after", sha256="0" * 64)

    asyncio.run(main())


def test_readers_may_read_every_generation_of_the_views(roles: RoleServer) -> None:
    """After a switch to another generation the same roles read the views of that one."""
    assert cli(roles, "operator", "create", "switched").returncode == 0
    for words in (("rebuild",), ("switch", "2")):
        done = cli(roles, "operator", "projections", *words)
        assert done.returncode == 0, done.stderr
    try:
        for role in ("viewer", "auditor", "integrator"):
            done = cli(roles, role, "status", "switched")
            assert done.returncode == 0, (role, done.stderr)
    finally:
        for words in (("rollback",), ("drop", "2")):
            assert cli(roles, "operator", "projections", *words).returncode == 0


def test_an_integrator_follows_chunks_by_a_consumer_of_its_own(
    roles: RoleServer, rng: random.Random, tmp_path: Path
) -> None:
    """Pulled through the import, a chunk-ready event arrives, and its acknowledgement gets back."""
    source = tmp_path / "source"
    source.write_bytes(rng.randbytes(1000))
    assert cli(roles, "recorder", "record", "followed", str(source)).returncode == 0

    async def main() -> None:
        got: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
        async with roles.login("integrator") as integrator, roles.login("operator") as operator:
            inbox = "_INBOX_integrator.pull"
            await integrator.subscribe(inbox, lambda m: got.put_nowait((m.subject, m.reply)), confirm=True)
            pull = json.dumps({"batch": 10, "expires": int(CLI_S * 1e9)}).encode()
            integrator.publish(f"{API}.CONSUMER.MSG.NEXT.LUCID_EVENTS.integrator", pull, reply=inbox)
            async with asyncio.timeout(CLI_S):
                subject, ack = await got.get()
                assert subject == "lucid.evt.followed.chunk.ready"
                await integrator.request(ack, b"+ACK")  # answered, so the server has taken it
            info = await operator.api("CONSUMER.INFO.LUCID_EVENTS.integrator")
            assert info["ack_floor"]["consumer_seq"] == 1

    asyncio.run(main())


def test_each_role_does_its_work_with_the_installed_command(
    roles: RoleServer, rng: random.Random, tmp_path: Path
) -> None:
    """A recorder records, an operator pauses it, a viewer plays, an auditor replays: each in its account."""
    data = rng.randbytes(5 * CHUNK + 123)
    source = tmp_path / "source"
    source.write_bytes(data)
    recorded = cli(roles, "recorder", "record", "worked", str(source), "--chunk-bytes", str(CHUNK), "--json")
    assert recorded.returncode == 0, recorded.stderr.decode()
    assert json.loads(recorded.stdout)["chunks"] == 6

    played = cli(roles, "viewer", "play", "worked")
    assert (played.returncode, played.stdout == data) == (0, True), played.stderr.decode()
    assert cli(roles, "viewer", "status", "worked").returncode == 0

    replayed = cli(roles, "auditor", "replay", "worked", "--json")
    assert replayed.returncode == 0, replayed.stderr.decode()
    kinds = [json.loads(line)["type"] for line in replayed.stdout.splitlines()]
    # That it was played is in the history, by the viewer's right to say so.
    assert (kinds[0], *kinds[-2:]) == ("session.created.v1", "session.stopped.v1", "session.viewed.v1")
    assert cli(roles, "auditor", "audit", "verify", "worked").returncode == 0
    explained = cli(roles, "auditor", "retention", "explain", "worked", "--json")
    assert json.loads(explained.stdout)["retention"]["payload_days"] == 30
    assert cli(roles, "auditor", "retention", "due").returncode == 0

    refused = cli(roles, "auditor", "mark", "worked", "mine")
    assert refused.returncode == 2
    assert b"does not let this login publish to 'lucid.cmd.worked.mark'" in refused.stderr
    assert cli(roles, "recorder", "play", "worked").returncode == 2
    assert cli(roles, "integrator", "mark", "worked", "seen").returncode == 0
    doctor = cli(roles, "operator", "doctor", "--json")
    assert {json.loads(line)["level"] for line in doctor.stdout.splitlines()} == {"info"}, doctor.stdout


def test_an_operator_pauses_what_a_recorder_records(roles: RoleServer, tmp_path: Path) -> None:
    """A recorder without a right to the history follows pause, resume and stop of others to the end."""
    script = "i=0; while [ $i -lt 100000 ]; do echo line $i; i=$((i+1)); sleep 0.01; done"
    words = [*lucid(), "record", "live", "--json", "--", "sh", "-c", script]
    recorder = Running(words, tmp_path / "recorder", roles.env("recorder"), None)

    def state() -> str:
        told = cli(roles, "viewer", "status", "live", "--json")
        return str(json.loads(told.stdout)["state"]) if told.returncode == 0 else ""

    try:
        until(lambda: state() == "active", within_s=CLI_S, what="the session is active")
        for verb, reached in (("pause", "paused"), ("resume", "active"), ("stop", "stopped")):
            done = cli(roles, "operator", verb, "live")
            assert done.returncode == 0, done.stderr.decode()
            until(lambda: state() == reached, within_s=CLI_S, what=f"the session is {reached}")  # noqa: B023 - used at once
        assert recorder.wait() == 0, recorder.err
    finally:
        recorder.kill9()
    assert cli(roles, "viewer", "play", "live").stdout.startswith(b"line 0\nline 1\n")
