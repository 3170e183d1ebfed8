"""The promises of `CommandBus` and `CommandServer`."""

import asyncio
from collections.abc import Mapping

import pytest

from lucid_events.errors import AppendUncertain, StoreUnavailable
from lucid_events.ports import CommandReply
from tests.contract.bundle import OTHER, PATIENCE_S, SID, Ports, Run


async def echo(subject: str, headers: Mapping[str, str], data: bytes) -> bytes:
    """Answer with what was asked."""
    return b"|".join((subject.encode(), headers.get("ce-id", "").encode(), data))


def test_a_request_is_answered(run: Run) -> None:
    """A request reaches the handler with subject, headers and body, and returns its answer."""

    @run
    async def _(ports: Ports) -> None:
        subject = ports.subjects.command(SID, "start")
        async with ports.server.serve("lucid", {"commands": (ports.subjects.all_commands, echo)}):
            reply = await ports.bus.request(subject, b"{}", headers={"ce-id": "c1"}, timeout_s=PATIENCE_S)
        assert reply.data == f"{subject}|c1|{{}}".encode()


def test_each_endpoint_has_its_subject(run: Run) -> None:
    """Commands and beats are served side by side, each by its own handler."""

    @run
    async def _(ports: Ports) -> None:
        async def state(subject: str, headers: Mapping[str, str], data: bytes) -> bytes:
            return b"active"

        endpoints = {
            "commands": (ports.subjects.all_commands, echo),
            "beats": (ports.subjects.all_beats, state),
        }
        async with ports.server.serve("lucid", endpoints):
            beat = await ports.bus.request(ports.subjects.beat(SID, 1), b"", headers={}, timeout_s=PATIENCE_S)
            command = ports.subjects.command(SID, "stop")
            reply = await ports.bus.request(command, b"x", headers={}, timeout_s=PATIENCE_S)
        assert (beat.data, reply.data) == (b"active", f"{command}||x".encode())


def test_an_answer_may_carry_headers(run: Run) -> None:
    """A handler that answers with headers and a body has both delivered."""

    @run
    async def _(ports: Ports) -> None:
        async def refuse(subject: str, headers: Mapping[str, str], data: bytes) -> CommandReply:
            return CommandReply(
                {"Nats-Service-Error": "no", "Nats-Service-Error-Code": "409"}, b'{"error":{}}'
            )

        async with ports.server.serve("lucid", {"commands": (ports.subjects.all_commands, refuse)}):
            subject = ports.subjects.command(SID, "start")
            reply = await ports.bus.request(subject, b"", headers={}, timeout_s=PATIENCE_S)
        assert reply.headers["Nats-Service-Error"] == "no"
        assert reply.headers["Nats-Service-Error-Code"] == "409"
        assert reply.data == b'{"error":{}}'


def test_nobody_serving_is_unavailable(run: Run) -> None:
    """A request nobody serves fails at once, before a service stands and after it has left."""

    @run
    async def _(ports: Ports) -> None:
        async def ask() -> None:
            subject = ports.subjects.command(SID, "start")
            async with asyncio.timeout(PATIENCE_S):
                await ports.bus.request(subject, b"", headers={}, timeout_s=10 * PATIENCE_S)

        with pytest.raises(StoreUnavailable):
            await ask()
        async with ports.server.serve("lucid", {"commands": (ports.subjects.all_commands, echo)}):
            await ask()
        with pytest.raises(StoreUnavailable):
            await ask()


def test_no_answer_in_time_is_uncertain(run: Run) -> None:
    """A request that is not answered in time is uncertain: its handler may still finish."""

    @run
    async def _(ports: Ports) -> None:
        release, finished = asyncio.Event(), asyncio.Event()

        async def slow(subject: str, headers: Mapping[str, str], data: bytes) -> bytes:
            await release.wait()
            finished.set()
            return b"late"

        async with ports.server.serve("lucid", {"commands": (ports.subjects.all_commands, slow)}):
            with pytest.raises(AppendUncertain):
                await ports.bus.request(ports.subjects.command(SID, "start"), b"", headers={}, timeout_s=0.2)
            release.set()
            async with asyncio.timeout(PATIENCE_S):
                await finished.wait()


def test_one_slow_command_does_not_hold_up_others(run: Run) -> None:
    """Requests to one endpoint are handled side by side."""

    @run
    async def _(ports: Ports) -> None:
        release = asyncio.Event()

        async def handler(subject: str, headers: Mapping[str, str], data: bytes) -> bytes:
            if data == b"slow":
                await release.wait()
            return data

        subject = ports.subjects.command(SID, "start")
        async with (
            ports.server.serve("lucid", {"commands": (ports.subjects.all_commands, handler)}),
            asyncio.TaskGroup() as tasks,
        ):
            slow = tasks.create_task(
                ports.bus.request(subject, b"slow", headers={}, timeout_s=10 * PATIENCE_S)
            )
            quick = await ports.bus.request(subject, b"quick", headers={}, timeout_s=PATIENCE_S)
            assert quick.data == b"quick"
            assert not slow.done()
            release.set()
        assert slow.result().data == b"slow"


def test_a_failing_handler_does_not_end_the_service(run: Run) -> None:
    """A handler that raises is answered for with an error header, and the next request is served."""

    @run
    async def _(ports: Ports) -> None:
        async def handler(subject: str, headers: Mapping[str, str], data: bytes) -> bytes:
            if data == b"bad":
                raise RuntimeError("boom")
            return data

        subject = ports.subjects.command(SID, "start")
        async with ports.server.serve("lucid", {"commands": (ports.subjects.all_commands, handler)}):
            bad = await ports.bus.request(subject, b"bad", headers={}, timeout_s=PATIENCE_S)
            assert bad.headers["Nats-Service-Error-Code"] == "500"
            assert b"boom" not in bad.data
            assert not any("boom" in value for value in bad.headers.values())
            good = await ports.bus.request(subject, b"good", headers={}, timeout_s=PATIENCE_S)
            assert good.data == b"good"


def test_leaving_waits_for_the_requests_in_hand(run: Run) -> None:
    """A request taken in before the service leaves is still answered."""

    @run
    async def _(ports: Ports) -> None:
        entered, release = asyncio.Event(), asyncio.Event()

        async def slow(subject: str, headers: Mapping[str, str], data: bytes) -> bytes:
            entered.set()
            await release.wait()
            return b"done"

        async with (
            asyncio.timeout(PATIENCE_S),
            asyncio.TaskGroup() as tasks,
            ports.server.serve("lucid", {"commands": (ports.subjects.all_commands, slow)}),
        ):
            subject = ports.subjects.command(SID, "start")
            asked = tasks.create_task(ports.bus.request(subject, b"", headers={}, timeout_s=PATIENCE_S))
            await entered.wait()
            asyncio.get_running_loop().call_soon(release.set)
        assert asked.result().data == b"done"


def test_a_durable_command_is_stored(run: Run) -> None:
    """An enqueued command has a sequence, although nobody serves it."""

    @run
    async def _(ports: Ports) -> None:
        subjects = ports.subjects
        sequences = [
            await ports.bus.enqueue(subjects.queued_command(s, "start"), b"{}", headers={"ce-id": s})
            for s in (SID, OTHER)
        ]
        assert sequences == [1, 2]
        assert await ports.sequences(subjects.commands_stream, ">") == sequences
