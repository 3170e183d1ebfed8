"""`jetstream.commands` as a service other tools see, and when its client is replaced."""

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from lucid_events.jetstream.commands import JetStreamCommandBus, JetStreamCommandServer
from lucid_events.jetstream.connection import Connection, NatsOptions, connect
from lucid_events.ports import CommandReply
from tests.nats_server import NatsServer

PATIENCE_S = 60.0


async def handler(subject: str, headers: Mapping[str, str], data: bytes) -> CommandReply:
    """Answer with a header."""
    if data == b"fail":
        raise ValueError("secret")
    return CommandReply({"Lucid-State": "active"}, data)


async def until(condition: Callable[[], bool]) -> None:
    """Return once `condition` holds."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 # what another process does sets no event
            await asyncio.sleep(0.01)


async def ask(connection: Connection, data: bytes) -> CommandReply:
    """Send a command."""
    bus = JetStreamCommandBus(connection)
    return await bus.request("svc.cmd.s1.start", data, headers={}, timeout_s=PATIENCE_S)


async def discover(connection: Connection, verb: str) -> dict[str, Any]:
    """Return what the service says about itself."""
    return json.loads((await connection.request(f"$SRV.{verb}.lucid-test")).data)  # type: ignore[no-any-return]  # an object


def test_the_service_is_discoverable(shared_server: NatsServer) -> None:
    """The service answers PING, INFO and STATS as NATS ADR-32 has it, with figures of whole requests."""

    async def main() -> None:
        async with connect(NatsOptions(servers=(shared_server.url,))) as connection:
            server = JetStreamCommandServer(connection, version="1.2.3")
            async with server.serve("lucid-test", {"commands": ("svc.cmd.>", handler)}):
                assert (await ask(connection, b"x")) == CommandReply({"Lucid-State": "active"}, b"x")
                failed = await ask(connection, b"fail")
                assert failed.headers["Nats-Service-Error-Code"] == "500"
                assert "secret" not in str(failed)
                ping = await discover(connection, "PING")
                assert (ping["name"], ping["version"]) == ("lucid-test", "1.2.3")
                (endpoint,) = (await discover(connection, "INFO"))["endpoints"]
                assert (endpoint["name"], endpoint["subject"]) == ("commands", "svc.cmd.>")
                assert endpoint["queue_group"] == "lucid"
                (stats,) = (await discover(connection, "STATS"))["endpoints"]
                assert stats["num_requests"] == 2
                assert (stats["data"]["requests"], stats["data"]["errors"]) == (2, 1)
                assert stats["data"]["last_error"] == "ValueError"

    asyncio.run(main())


def test_the_service_moves_to_a_new_client(server: NatsServer) -> None:
    """After the client was replaced the service answers again, once per request, and can leave."""

    async def main() -> None:
        async with (
            connect(NatsOptions(servers=(server.url,))) as asker,
            connect(NatsOptions(servers=(server.url,))) as connection,
        ):
            service = JetStreamCommandServer(connection, version="1.2.3")
            async with service.serve("lucid-test", {"commands": ("svc.cmd.>", handler)}):
                await connection._link.client.close()
                await until(lambda: connection.replacements == 1)
                await connection.barrier()
                assert (await ask(asker, b"again")).data == b"again"
                (stats,) = (await discover(asker, "STATS"))["endpoints"]
                assert stats["data"]["requests"] == 1

    asyncio.run(main())


def test_two_services_share_the_work(shared_server: NatsServer) -> None:
    """Each command is handled by one of the services, also while one of them leaves."""

    async def main() -> None:
        handled: list[bytes] = []

        async def count(subject: str, headers: Mapping[str, str], data: bytes) -> bytes:
            handled.append(data)
            return data

        async with (
            connect(NatsOptions(servers=(shared_server.url,))) as one,
            connect(NatsOptions(servers=(shared_server.url,))) as two,
        ):
            endpoints = {"commands": ("svc.cmd.>", count)}
            async with JetStreamCommandServer(two, version="1.0.0").serve("lucid-test", endpoints):
                async with JetStreamCommandServer(one, version="1.0.0").serve("lucid-test", endpoints):
                    first = await asyncio.gather(*(ask(one, b"%d" % n) for n in range(50)))
                second = await asyncio.gather(*(ask(one, b"%d" % n) for n in range(50, 100)))
            assert [int(r.data) for r in first + second] == list(range(100))
            assert sorted(map(int, handled)) == list(range(100))

    asyncio.run(main())


def test_requests_in_hand_are_bounded(shared_server: NatsServer) -> None:
    """Beyond the bound requests wait; none is lost."""

    async def main() -> None:
        release = asyncio.Event()
        in_hand = 0
        most = 0

        async def slow(subject: str, headers: Mapping[str, str], data: bytes) -> bytes:
            nonlocal in_hand, most
            in_hand += 1
            most = max(most, in_hand)
            await release.wait()
            in_hand -= 1
            return data

        async with connect(NatsOptions(servers=(shared_server.url,))) as connection:
            server = JetStreamCommandServer(connection, version="1.0.0", max_in_hand=3)
            async with server.serve("lucid-test", {"commands": ("svc.cmd.>", slow)}):
                asked = [asyncio.create_task(ask(connection, b"%d" % n)) for n in range(10)]
                await until(lambda: most == 3)
                await connection.barrier()
                release.set()
                assert len(await asyncio.gather(*asked)) == 10
                assert most == 3

    asyncio.run(main())


def test_a_message_that_wants_no_answer(shared_server: NatsServer, caplog: pytest.LogCaptureFixture) -> None:
    """A command published without a reply subject is handled, and nobody is answered."""

    async def main() -> None:
        seen: list[bytes] = []

        async def note(subject: str, headers: Mapping[str, str], data: bytes) -> bytes:
            seen.append(data)
            return b"answer"

        async with connect(NatsOptions(servers=(shared_server.url,))) as connection:
            server = JetStreamCommandServer(connection, version="1.0.0")
            async with server.serve("lucid-test", {"commands": ("svc.cmd.>", note)}):
                connection.publish("svc.cmd.s1.start", b"1")
                await until(lambda: seen == [b"1"])
        assert not [record for record in caplog.records if record.levelname == "ERROR"]

    asyncio.run(main())
