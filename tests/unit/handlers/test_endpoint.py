import asyncio
import json
import logging
from collections.abc import Mapping

import pytest

from lucid_events import codec
from lucid_events.client import Commands, error_of, read_reply
from lucid_events.domain import commands as cmd
from lucid_events.domain.ids import CommandId, SessionId
from lucid_events.domain.replies import Failure
from lucid_events.errors import (
    STATUSES,
    CommandExpired,
    CommandRejected,
    ContractError,
    LucidError,
    NotFound,
)
from lucid_events.handlers.endpoint import ERROR, ERROR_CODE, MAX_BEAT_BYTES, Endpoints
from lucid_events.measures import ProcessMeasures
from lucid_events.memory import MemoryCommandBus, MemoryCommandServer
from lucid_events.ports import CommandReply
from tests.unit.handlers.command_side import SID, CommandSide

NOW = "2026-01-01T00:00:00Z"
CREATE = f"lucid.cmd.{SID}.create"


async def asked(
    side: CommandSide, subject: str, headers: Mapping[str, str] | None = None, body: bytes = b""
) -> CommandReply:
    """Ask the command endpoint."""
    answer = await side.endpoints.command(subject, headers or {}, body)
    return answer if isinstance(answer, CommandReply) else CommandReply({}, answer)


async def refused(
    side: CommandSide, subject: str, headers: Mapping[str, str], body: bytes
) -> tuple[str, str | None]:
    """Ask for what is refused; returns code and field."""
    reply = await asked(side, subject, headers, body)
    failure = codec.decode(reply.data, Failure).error
    assert reply.headers[ERROR]
    assert reply.headers[ERROR].isascii()
    assert reply.headers[ERROR_CODE].isdecimal()
    return failure.code, failure.field


def test_a_bare_message_of_any_client_is_enough() -> None:
    """No header, an empty body: the service makes up the id and the time, and takes nobody's word."""

    async def main() -> None:
        side = CommandSide()
        first = read_reply(await asked(side, CREATE))
        assert first.state == "created"
        (event,) = await side.events()
        assert event.actor == "unverified:"
        assert event.cause == first.command_id

    asyncio.run(main())


def test_headers_become_the_events_envelope() -> None:
    """Id, correlation, trace and claim travel into the history; the claim stays marked as one."""

    async def main() -> None:
        side = CommandSide()
        trace = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
        headers = {
            codec.ID: "c1",
            codec.TIME: NOW,
            codec.ACTOR: codec.header_safe("lucid_events/Zoë"),
            codec.CORRELATION: "work-7",
            codec.TRACE: trace,
        }
        await asked(side, CREATE, headers)
        (event,) = await side.events()
        assert (event.cause, event.correlation, event.traceparent) == ("c1", "work-7", trace)
        assert event.actor == "unverified:lucid_events/Zo%C3%AB"

    asyncio.run(main())


def test_an_identity_that_is_proven_needs_no_claim() -> None:
    """Who the server vouches for is stored as it is."""

    async def main() -> None:
        side = CommandSide()
        side.endpoints = Endpoints(
            side.handler,
            side.histories,
            side.subjects,
            side.clock,
            identify=lambda subject, headers, body: "account:EDGE",
        )
        await asked(side, CREATE, {codec.ACTOR: "root"})
        assert (await side.events())[0].actor == "account:EDGE"

    asyncio.run(main())


def test_the_message_id_stands_in_for_the_command_id() -> None:
    """A client that sets `Nats-Msg-Id` only gets repeats recognised all the same."""

    async def main() -> None:
        side = CommandSide()
        await asked(side, CREATE, {codec.MSG_ID: "m1"})
        assert read_reply(await asked(side, CREATE, {codec.MSG_ID: "m1"})).repeated
        assert await side.types() == ["session.created"]

    asyncio.run(main())


@pytest.mark.parametrize(
    ("subject", "headers", "body", "code", "field"),
    [
        ("lucid.cmd.s*1.create", {}, b"", "contract", "session_id"),
        ("lucid.cmd.a.b.create", {}, b"", "contract", "session_id"),
        ("lucid.cmd.create", {}, b"", "contract", "session_id"),
        (f"lucid.cmd.{'x' * 101}.create", {}, b"", "contract", "session_id"),
        (f"lucid.cmd.{SID}.explode", {}, b"", "contract", "verb"),
        (f"lucid.cmd.{SID}.lose_recorder", {}, b"{}", "contract", "verb"),
        (CREATE, {}, b"not json", "contract", "body"),
        (CREATE, {}, b"\xff\xfe", "contract", "body"),
        (CREATE, {}, b"[" * 100_000, "contract", "body"),
        (CREATE, {}, b" " * (codec.MAX_BODY_BYTES + 1), "contract", "body"),
        (CREATE, {}, b'{"colour": "red"}', "contract", "colour"),
        (CREATE, {}, b'{"owner": 7}', "contract", "owner"),
        (CREATE, {}, b'{"settings": {"codec": "rar"}}', "contract", "settings"),
        (CREATE, {codec.ID: "no spaces please"}, b"", "contract", "ce-id"),
        (CREATE, {codec.ID: "x" * 101}, b"", "contract", "ce-id"),
        (CREATE, {codec.TIME: "yesterday"}, b"", "contract", "ce-time"),
        (CREATE, {codec.TIME: "2026-01-01T00:00:00"}, b"", "contract", "ce-time"),
        (CREATE, {codec.TIME: "2027-01-01T00:00:00Z"}, b"", "contract", "ce-time"),
        (CREATE, {codec.CORRELATION: "x" * 500}, b"", "contract", "Lucid-Correlation"),
        (CREATE, {codec.TIME: "2025-01-01T00:00:00Z"}, b"", "expired", "ce-time"),
        (f"lucid.cmd.{SID}.start", {}, b"", "not_found", None),
    ],
)
def test_what_is_malformed_is_answered_and_leaves_no_trace(
    subject: str, headers: dict[str, str], body: bytes, code: str, field: str | None
) -> None:
    """Every refusal says its code and where, in headers and body, and the log stays as it was."""

    async def main() -> None:
        side = CommandSide()
        got = await refused(side, subject, headers, body)
        assert got[0] == code
        assert field is None or field in str(got[1])
        assert side.server.stream(side.subjects.events_stream).last_sequence == 0

    asyncio.run(main())


def test_a_rejection_travels_to_the_client_and_back() -> None:
    """The client raises what the service raised: reason, field, what is allowed, the state."""

    async def main() -> None:
        side = CommandSide()
        await asked(side, CREATE)
        reply = await asked(side, f"lucid.cmd.{SID}.release", {}, b'{"hold": "legal"}')
        with pytest.raises(CommandRejected) as caught:
            read_reply(reply)
        error = caught.value
        assert (error.code, error.retry, error.fields["field"]) == ("no_such_hold", False, "hold")
        assert error.fields["state"] == "created"
        assert "start" in error.fields["allowed"]  # type: ignore[operator] # a tuple of names

    asyncio.run(main())


def test_a_server_that_is_away_is_an_answer_worth_repeating() -> None:
    """Unavailable says so, with `retry`."""

    async def main() -> None:
        side = CommandSide()
        side.faults.fail_next("read", times=2)  # the first only costs the snapshot
        failure = codec.decode((await asked(side, CREATE)).data, Failure).error
        assert (failure.code, failure.retry) == ("unavailable", True)

    asyncio.run(main())


@pytest.mark.parametrize("kind", STATUSES, ids=lambda kind: kind.__name__)
def test_every_error_has_the_status_it_has_over_http(
    kind: type[LucidError], caplog: pytest.LogCaptureFixture
) -> None:
    """The error headers carry the status of the one table; what is ours to mend is logged as an error."""

    async def main() -> None:
        side = CommandSide()

        async def refusing(session: object) -> object:
            raise kind("no")

        side.histories.load = refusing  # type: ignore[method-assign, assignment] # refuses
        reply = await asked(side, CREATE)
        assert reply.headers[ERROR_CODE] == str(STATUSES[kind])

    with caplog.at_level(logging.INFO, logger="lucid_events.handlers.endpoint"):
        asyncio.run(main())
    ours = STATUSES[kind] == 500
    assert ("ERROR" in {record.levelname for record in caplog.records}) == ours


def test_a_rejection_has_the_status_of_its_reason() -> None:
    """Another version than the one it was decided on is 412, as it is over HTTP under `If-Match`."""

    async def main() -> None:
        side = CommandSide()
        await asked(side, CREATE)
        start = f"lucid.cmd.{SID}.start"
        assert (await asked(side, CREATE)).headers[ERROR_CODE] == "409"
        moved_on = await asked(side, start, {codec.IF_VERSION: "99"})
        assert moved_on.headers[ERROR_CODE] == "412"
        malformed = await asked(side, start, {codec.IF_VERSION: "new"})
        assert malformed.headers[ERROR_CODE] == "422"

    asyncio.run(main())


def test_a_command_that_is_cancelled_is_not_counted_as_accepted() -> None:
    """What nobody was answered is told from what took effect."""

    async def main() -> None:
        side, measures, reached = CommandSide(), ProcessMeasures(), asyncio.Event()
        endpoints = Endpoints(side.handler, side.histories, side.subjects, side.clock, measures=measures)

        async def hanging(session: object) -> object:
            reached.set()
            return await asyncio.Event().wait()

        load = side.histories.load
        side.histories.load = hanging  # type: ignore[method-assign, assignment] # never answers
        command = asyncio.create_task(endpoints.command(CREATE, {}, b""))
        await reached.wait()
        command.cancel()
        await asyncio.gather(command, return_exceptions=True)
        side.histories.load = load  # type: ignore[method-assign] # answers again
        await endpoints.command(CREATE, {}, b"")
        await endpoints.command(CREATE, {}, b"")
        told = {labels: sum(histogram.counts) for labels, histogram in measures.commands().items()}
        assert told == {("create", outcome): 1 for outcome in ("given back", "accepted", "exists")}

    asyncio.run(main())


def test_a_bug_is_answered_logged_and_survived(caplog: pytest.LogCaptureFixture) -> None:
    """An unexpected exception tells the client nothing but `internal`, and the next command works."""

    async def main() -> None:
        side = CommandSide()
        load = side.histories.load

        async def broken(session: object) -> object:
            raise ZeroDivisionError("secret detail")

        side.histories.load = broken  # type: ignore[method-assign, assignment] # a bug, put in
        reply = await asked(side, CREATE)
        assert b"secret" not in reply.data
        assert error_of(codec.decode(reply.data, Failure).error).code == "internal"
        side.histories.load = load  # type: ignore[method-assign] # taken out again
        assert read_reply(await asked(side, CREATE)).state == "created"

    with caplog.at_level(logging.ERROR, logger="lucid_events"):
        asyncio.run(main())
    assert "ZeroDivisionError" in caplog.text


def test_a_client_and_a_service_understand_each_other() -> None:
    """Over the bus: commands are answered, errors raised, and a lost reply makes one set of events."""

    async def main() -> None:
        side = CommandSide()
        bus = MemoryCommandBus(side.server)
        client = Commands(bus, side.subjects, side.clock, actor="ann")
        async with side.endpoints.serve(MemoryCommandServer(side.server)):
            side.faults.lose_reply("request", stored=True)
            assert (await client.send(SID, cmd.Create())).state == "created"
            with pytest.raises(NotFound):
                await client.beat(SessionId("nobody"), epoch=1, offset=0, timeout_s=5)
            with pytest.raises(CommandRejected):
                await client.send(SID, cmd.Resume())
        assert await side.types() == ["session.created"]

    asyncio.run(main())


def test_a_chosen_id_is_sent_once_however_late_it_is_repeated() -> None:
    """An id of the caller's brings no time of its sending, so a repeat behind 300 others is told as one."""

    async def main() -> None:
        side = CommandSide()
        client = Commands(MemoryCommandBus(side.server), side.subjects, side.clock, actor="ann")
        async with side.endpoints.serve(MemoryCommandServer(side.server)):
            await client.send(SID, cmd.Create())
            await client.send(SID, cmd.Mark(label="once"), id=CommandId("mine"))
            for _ in range(300):
                await client.send(SID, cmd.Mark(label="other"))
            await side.clock.advance(10 * 60)
            with pytest.raises(CommandExpired):
                await client.send(SID, cmd.Mark(label="once"), id=CommandId("mine"))
        assert len(await side.types()) == 302

    asyncio.run(main())


def test_a_beat_hears_the_state_of_its_session() -> None:
    """The reply says the state, whether the epoch may still write, and where the sealed bytes end."""

    async def main() -> None:
        side = CommandSide()
        await side.start()
        await side.seal(b"abc")

        async def beat(epoch: int) -> dict[str, object]:
            answer = await side.endpoints.beat(side.subjects.beat(SID, epoch), {}, b'{"offset": 3}')
            assert isinstance(answer, bytes)
            return dict(json.loads(answer))

        reply = await beat(1)
        assert (reply["state"], reply["epoch"], reply["attached"], reply["offset"]) == ("active", 1, True, 3)
        other = side.process()
        await other.ask(cmd.Pause(), id="p1")
        await side.clock.advance(1.1)
        assert (await beat(1))["state"] == "pausing"
        await other.ask(cmd.Attach(recorder="r2", takeover=True), id="a2")
        await side.clock.advance(1.1)
        assert (await beat(1))["attached"] is False
        assert (await beat(2))["attached"] is True

    asyncio.run(main())


def test_a_beat_is_not_answered_from_before_its_recorder_attached() -> None:
    """A process that remembers the session from a moment before the attach asks the leader first."""

    async def main() -> None:
        side = CommandSide()
        await side.ask(cmd.Create(), id="c1")
        other = side.process()
        await other.ask(cmd.Start(), id="s1")
        await other.ask(cmd.Attach(recorder="r1"), id="a1")
        await side.clock.advance(0.1)
        answer = await side.endpoints.beat(side.subjects.beat(SID, 1), {}, b'{"offset": 0}')
        assert isinstance(answer, bytes)
        reply = json.loads(answer)
        assert (reply["state"], reply["attached"]) == ("active", True)

    asyncio.run(main())


def test_beats_that_come_thick_and_fast_ask_the_leader_once_a_second() -> None:
    """A beat is answered from the cache while that is fresh."""

    async def main() -> None:
        side = CommandSide()
        await side.start()
        version, asked_leader = side.store.version, 0

        async def counting(session: object) -> object:
            nonlocal asked_leader
            asked_leader += 1
            return await version(session)  # type: ignore[arg-type] # passed through

        side.store.version = counting  # type: ignore[method-assign, assignment] # counted
        for _ in range(100):
            await side.endpoints.beat(side.subjects.beat(SID, 1), {}, b'{"offset": 0}')
        assert asked_leader <= 1

    asyncio.run(main())


def test_a_beat_that_is_too_large_is_told_its_limit() -> None:
    """A beat beyond 1 KiB is refused as what it is: fit JSON, and too much of it."""

    async def main() -> None:
        body = b'{"offset": 3}'.ljust(MAX_BEAT_BYTES + 1)
        answer = await CommandSide().endpoints.beat(f"lucid.beat.{SID}.1", {}, body)
        assert isinstance(answer, CommandReply)
        error = codec.decode(answer.data, Failure).error
        assert (error.code, error.field) == ("contract", "body")
        assert f"at most {MAX_BEAT_BYTES} bytes" in error.message

    asyncio.run(main())


@pytest.mark.parametrize(
    ("subject", "body", "code"),
    [
        (f"lucid.beat.{SID}.one", b'{"offset": 0}', "contract"),
        ("lucid.beat.s*.1", b'{"offset": 0}', "contract"),
        (f"lucid.beat.{SID}.1", b"", "contract"),
        (f"lucid.beat.{SID}.1", b'{"offset": "far"}', "contract"),
        (f"lucid.beat.{SID}.1", b'{"offset": 0}', "not_found"),
    ],
)
def test_a_malformed_beat_is_answered_too(subject: str, body: bytes, code: str) -> None:
    """A recorder that beats wrongly hears what is wrong."""

    async def main() -> None:
        answer = await CommandSide().endpoints.beat(subject, {}, body)
        assert isinstance(answer, CommandReply)
        error = error_of(codec.decode(answer.data, Failure).error)
        assert error.code == code
        assert isinstance(error, ContractError | NotFound)

    asyncio.run(main())
