"""What each role of `deploy/nats/roles.conf` may do, may not do, and does with the installed command."""

import asyncio
import json
import random
import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from lucid_events.domain.ids import SessionId
from lucid_events.errors import ConfigError, Fenced, LucidError
from lucid_events.jetstream.capture import JetStreamCaptureStore
from lucid_events.jetstream.connection import Connection, connect
from lucid_events.jetstream.options import NatsOptions
from lucid_events.projections.generations import NAMED
from lucid_events.subjects import Subjects
from tests.configured_server import DEPLOY, configured_server, including
from tests.end_to_end.processes import ROOT, Running, lucid, until
from tests.integration.roles import API, OUTSIDE, RoleServer, role_keys, role_server

CLI_S = 60.0
"""Bound of one command; each is over in a second or two."""
CHUNK = 65536
META = "KV_lucid-meta.$KV.lucid-meta.view.status"
STATUS = "KV_lucid-status-v1"

READS = (
    f"{API}.DIRECT.GET.LUCID_EVENTS",
    f"{API}.STREAM.MSG.GET.LUCID_EVENTS",
    f"{API}.STREAM.INFO.LUCID_EVENTS",
    f"{API}.DIRECT.GET.OBJ_lucid-chunks",
    f"{API}.STREAM.MSG.GET.OBJ_lucid-chunks",
    f"{API}.STREAM.INFO.OBJ_lucid-chunks",
    f"{API}.DIRECT.GET.{STATUS}",
    f"{API}.DIRECT.GET.{STATUS}.$KV.lucid-status-v1.s.s1",
)
RECORDS = ("create", "start", "attach", "seal", "drained", "gap", "slow", "detach", "stop", "recover", "fail")
ORDERS = ("create", "start", "pause", "resume", "stop", "fail", "recover", "mark")

MAY = {
    "recorder": (
        "lucid.cap.s1.1.0",
        "lucid.beat.s1.1",
        *(f"lucid.cmd.s1.{verb}" for verb in RECORDS),
        f"{API}.DIRECT.GET.LUCID_CAPTURE.lucid.cap.s1.1.fence.0",
        f"{API}.DIRECT.GET.{META}",
    ),
    "recorder-demo": (
        "lucid.cap.demo.1.0",
        "lucid.beat.demo.1",
        *(f"lucid.cmd.demo.{verb}" for verb in RECORDS),
        f"{API}.DIRECT.GET.LUCID_CAPTURE.lucid.cap.demo.1.fence.0",
        f"{API}.DIRECT.GET.{META}",
    ),
    "integrator": (
        *(f"lucid.cmd.s1.{verb}" for verb in ORDERS),
        *(f"lucid.cmdq.s1.{verb}" for verb in ORDERS),
        f"{API}.DIRECT.GET.LUCID_OUTCOMES.lucid.out.s1.none",
        f"{API}.DIRECT.GET.{META}",
        f"{API}.DIRECT.GET.{STATUS}",
        f"{API}.CONSUMER.INFO.LUCID_EVENTS.integrator",
    ),
    "viewer": (*READS, f"{API}.DIRECT.GET.{META}", "lucid.cmd.s1.view", "lucid.cmd.s1.mark"),
    "auditor": (
        *READS,
        f"{API}.DIRECT.GET.{META}",
        f"{API}.DIRECT.GET.LUCID_CHECKPOINTS",
        f"{API}.STREAM.MSG.GET.LUCID_CHECKPOINTS",
        f"{API}.STREAM.INFO.LUCID_CHECKPOINTS",
        "lucid.cmd.s1.view",
    ),
}
"""Role -> what it may publish to; all of it is answered."""

NOBODY_MAY = (
    "lucid.evt.s1.session.forged",
    "lucid.live.evt.s1.session.forged",
    "lucid.out.s1.forged",
    "lucid.timer.s1.start",
    "lucid.due.s1.start",
    "lucid.dlq.chunks",
    "lucid.cap.s1.1.fence.0",
    "lucid.cap.~.ballast.0",
    "lucid.cmd.s1.cleanup",
    "lucid.cmd.s1.destroy",
    "lucid.cmd.s1.hold",
    "lucid.cmd.s1.release",
    "lucid.cmdq.s1.destroy",
    "$O.lucid-chunks.C.nuid",
    "$O.lucid-chunks.M.name",
    "$KV.lucid-meta.view.status",
    "$KV.lucid-status-v1.s.s1",
    "$JS.API.INFO",
    "$JS.API.STREAM.INFO.LUCID_EVENTS",
    "$JS.ACK.LUCID_EVENTS.chunks.1.1.1.1.1",
    f"{API}.STREAM.LIST",
    f"{API}.STREAM.DELETE.LUCID_EVENTS",
    f"{API}.STREAM.DELETE.LUCID_CHECKPOINTS",
    f"{API}.STREAM.PURGE.LUCID_CHECKPOINTS",
    f"{API}.STREAM.UPDATE.LUCID_EVENTS",
    f"{API}.STREAM.PURGE.LUCID_CAPTURE",
    f"{API}.STREAM.PURGE.OBJ_lucid-chunks",
    f"{API}.STREAM.MSG.DELETE.OBJ_lucid-chunks",
    f"{API}.CONSUMER.CREATE.LUCID_EVENTS",
    f"{API}.CONSUMER.MSG.NEXT.LUCID_EVENTS.chunks",
    f"{API}.DIRECT.GET.LUCID_CAPTURE",
    f"{API}.STREAM.MSG.GET.LUCID_CAPTURE",
    f"{API}.DIRECT.GET.LUCID_CAPTURE.lucid.cap.s1.1.0",
    f"{API}.DIRECT.GET.LUCID_COMMANDS",
)
"""What no role outside the pipeline's account may publish to."""

MAY_NOT = {
    "recorder": (*READS, "lucid.cmd.s1.view", "lucid.cmd.s1.pause", "lucid.cmdq.s1.stop"),
    "recorder-demo": (*READS, *(subject for subject in MAY["recorder"] if ".s1." in subject)),
    "integrator": (
        *READS[:6],
        "lucid.cap.s1.1.0",
        "lucid.beat.s1.1",
        "lucid.cmd.s1.attach",
        "lucid.cmd.s1.seal",
    ),
    "viewer": ("lucid.cap.s1.1.0", "lucid.beat.s1.1", "lucid.cmd.s1.stop", "lucid.cmdq.s1.mark"),
    "auditor": ("lucid.cap.s1.1.0", "lucid.beat.s1.1", "lucid.cmd.s1.mark", "lucid.cmdq.s1.mark"),
}

HEARS_NOT = ("lucid.evt.>", "lucid.cap.>", "lucid.cmd.>", "lucid.beat.>", "$KV.>", "$O.>", "_INBOX.>", ">")


@pytest.fixture(scope="module")
def roles(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RoleServer]:
    """Give a server with the roles, the definitions on it, and a worker that runs as `service`."""
    folder = tmp_path_factory.mktemp("roles")
    with ExitStack() as stack:
        made = stack.enter_context(role_server(folder))
        assert cli(made, "operator", "deploy").returncode == 0
        asyncio.run(_add_consumer(made))
        env = {**made.env("service"), "LUCID_LEASE": "5", "LUCID_BEAT_INTERVAL": "1"}
        worker = Running([*lucid(), "worker", "--json"], folder / "worker", env, None)
        stack.callback(worker.kill9)
        worker.says('"parts"')
        yield made


async def _add_consumer(roles: RoleServer) -> None:
    async with roles.login("operator") as connection:
        config = {
            "durable_name": "integrator",
            "ack_policy": "explicit",
            "filter_subject": "lucid.evt.*.chunk.ready",
        }
        body = {"stream_name": "LUCID_EVENTS", "config": config}
        await connection.api("CONSUMER.CREATE.LUCID_EVENTS.integrator.lucid.evt.*.chunk.ready", body)


async def ask(connection: Connection, subject: str) -> LucidError | None:
    """Send a request that means nothing; returns why it was not answered, None when it was."""
    body = b'{"seq":1,"batch":1}' if "DIRECT.GET" in subject or "MSG.GET" in subject else b""
    try:
        await connection.request(subject, body)
    except LucidError as exc:
        return exc
    return None


def cli(roles: RoleServer, role: str, *args: str) -> subprocess.CompletedProcess[bytes]:
    """Run the installed command as `role`, to its end."""
    return subprocess.run(
        [*lucid(), *args], env=roles.env(role), cwd=ROOT, capture_output=True, timeout=CLI_S, check=False
    )


@pytest.mark.parametrize("role", OUTSIDE)
def test_a_role_is_answered_where_it_may_speak(roles: RoleServer, role: str) -> None:
    """Everything a role may publish to comes back with an answer, through the import."""

    async def main() -> None:
        async with roles.login(role) as connection:
            unanswered = {subject: await ask(connection, subject) for subject in MAY[role]}
        assert {subject: str(why) for subject, why in unanswered.items() if why} == {}

    asyncio.run(main())


@pytest.mark.parametrize("role", OUTSIDE)
def test_what_a_role_may_not_say_is_refused_at_once_by_name(roles: RoleServer, role: str) -> None:
    """The server refuses every other subject, and the sender hears so instead of waiting in vain."""

    async def main() -> None:
        async with roles.login(role) as connection:
            for subject in (*NOBODY_MAY, *MAY_NOT[role]):
                why = await ask(connection, subject)
                assert isinstance(why, ConfigError), f"{role} may publish to {subject}"
                assert why.fields["forbidden"] == subject

    asyncio.run(main())


@pytest.mark.parametrize("role", OUTSIDE)
def test_what_a_role_may_not_hear_is_refused_at_once(roles: RoleServer, role: str) -> None:
    """Live events may be heard; histories, bytes, commands and the inboxes of others may not."""

    async def main() -> None:
        async with roles.login(role) as connection:
            live = "lucid.live.evt.demo.>" if role == "recorder-demo" else "lucid.live.evt.>"
            await (await connection.subscribe(live, lambda message: None, confirm=True)).unsubscribe()
            for subject in HEARS_NOT:
                with pytest.raises(ConfigError, match="does not let this login subscribe to"):
                    await connection.subscribe(subject, lambda message: None, confirm=True)

    asyncio.run(main())


def test_no_role_outside_can_make_the_server_write_into_the_log(roles: RoleServer) -> None:
    """A reply subject in the log catches nothing: no acknowledgement, no page, no answer of a service.

    The same trick from inside the pipeline's account works, which shows that this test can see it.
    """

    async def main() -> None:
        async with roles.login("operator") as operator:
            for role in OUTSIDE:
                async with roles.login(role) as connection:
                    for number, subject in enumerate(MAY[role]):
                        body = b'{"seq":1,"batch":1}' if "GET" in subject else b""
                        connection.publish(subject, body, reply=f"lucid.evt.forged.{role}.{number}")
                    for subject in MAY[role]:
                        await ask(connection, subject)  # what was sent before it has been handled, too

            async def forged() -> bool:
                return (
                    await operator.leader_get("LUCID_EVENTS", last_by_subj="lucid.evt.forged.>") is not None
                )

            assert not await forged()
            operator.publish("lucid.cap.s1.1.0", reply="lucid.evt.forged.inside.0")
            async with asyncio.timeout(CLI_S):
                while not await forged():  # noqa: ASYNC110 - a server's state: nothing here sets an event
                    await asyncio.sleep(0.01)

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


def test_every_generation_that_is_named_is_named_everywhere() -> None:
    """Who may read the first generation may read all up to the last one named, by the same lines."""
    text = (DEPLOY / "roles.conf").read_text()
    named = {number: len(re.findall(rf"KV_lucid-status-v{number}\b", text)) for number in range(1, NAMED + 2)}
    assert set(named.values()) == {named[1], 0}
    assert named[NAMED + 1] == 0


def test_the_service_can_not_change_or_delete_the_log(roles: RoleServer) -> None:
    """A worker that was taken over appends at most: the log's definition and messages are out of reach."""

    async def main() -> None:
        async with roles.login("service") as connection:
            for call in ("UPDATE", "DELETE", "PURGE", "MSG.DELETE", "CREATE", "SNAPSHOT"):
                with pytest.raises(ConfigError, match="does not let this login publish to"):
                    await connection.api(f"STREAM.{call}.LUCID_EVENTS")

    asyncio.run(main())


def test_a_wrong_inbox_is_named(roles: RoleServer) -> None:
    """A login that can hear no answer is told so at once, with the prefix it used."""

    async def main() -> None:
        seed = str(roles.keys / "viewer.nk")
        options = NatsOptions(servers=(roles.server.url,), nkey_seed=seed, api_prefix=API)
        async with connect(options) as connection:
            with pytest.raises(ConfigError, match=r"_INBOX\.>"):
                await connection.api("STREAM.INFO.LUCID_EVENTS")

    asyncio.run(main())


def test_a_user_without_a_role_may_do_nothing(tmp_path: Path) -> None:
    """Added to an account and given no permissions, a user can neither ask nor hear."""
    text = (DEPLOY / "roles.conf").read_text()
    users = "{ nkey: $LUCID_VIEWER_NKEY, permissions: $PERM_VIEWER }"
    assert users in text
    forgotten = text.replace(users, f"{users}, {{ user: forgotten, password: forgotten }}")
    config = including(tmp_path / "conf", "pipeline.conf", text=forgotten)

    async def main(url: str) -> None:
        who = NatsOptions(servers=(url,), user="forgotten", password="forgotten", api_prefix=API)
        async with connect(who) as connection:
            for subject in (*MAY["viewer"], "lucid.cmd.s1.destroy"):
                assert isinstance(await ask(connection, subject), ConfigError)

    with configured_server(tmp_path / "server", config, env=role_keys(tmp_path / "keys")) as server:
        asyncio.run(main(server.url))


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
