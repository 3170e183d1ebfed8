"""What each role of `deploy/nats/roles.conf` may say and hear, and what it may not."""

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from lucid_events.errors import ConfigError, LucidError
from lucid_events.jetstream.connection import Connection, connect
from lucid_events.jetstream.options import NatsOptions
from lucid_events.projections.generations import NAMED
from tests.configured_server import DEPLOY, configured_server, including
from tests.integration.roles import API, CLI_S, OUTSIDE, RoleServer, role_keys, roles_at_work

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
    """Give a server with the roles and a worker on it."""
    with roles_at_work(tmp_path_factory.mktemp("roles")) as made:
        yield made


async def ask(connection: Connection, subject: str) -> LucidError | None:
    """Send a request that means nothing; returns why it was not answered, None when it was."""
    body = b'{"seq":1,"batch":1}' if "DIRECT.GET" in subject or "MSG.GET" in subject else b""
    try:
        await connection.request(subject, body)
    except LucidError as exc:
        return exc
    return None


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
