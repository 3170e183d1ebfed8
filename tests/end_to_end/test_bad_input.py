"""Whatever anybody asks for: a clear answer, an untouched history, a service that goes on."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from nats.aio.client import Client
from nats.errors import MaxPayloadError
from nats.js.errors import BadRequestError

from tests.end_to_end.pipeline import Pipeline
from tests.end_to_end.plain import ask, history, outcome, refused, survives, until_stored

MAX_PAYLOAD = 2 * 1024 * 1024


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    """Run one pipeline for all of these tests: none of them may hurt the next."""
    patient = {"LUCID_LEASE": "120", "LUCID_START_TIMEOUT": "120", "LUCID_STOP_TIMEOUT": "120"}
    patient["MAX_CONCURRENT_SESSIONS"] = "1000"
    with Pipeline(tmp_path_factory.mktemp("bad-input"), patient) as pipeline:
        yield pipeline


BAD_IDS = ("a.b", "a.b.c", "a b", "a>", "a*b", "x" * 101, "sitzung-ü", "日本", "a/b", "a\x7fb", "~", "a'b")


@pytest.mark.parametrize("session", BAD_IDS)
def test_a_session_id_that_does_not_fit_is_refused(shared: Pipeline, session: str) -> None:
    """An id outside the alphabet is answered with the field and the rule, and nothing is stored."""

    async def main(client: Client) -> None:
        # A space ends a subject on the wire: no client library can even send it.
        before = (await client.jetstream().stream_info("LUCID_EVENTS")).state.last_seq
        if " " in session:
            done = await asyncio.to_thread(shared.cli, "create", session, "--json", check=False)
            assert done.returncode == 4
            assert json.loads(done.stdout)["error"]["code"] == "contract"
        else:
            refused(await ask(client, session, "create"), "contract", field="session_id")
        assert (await client.jetstream().stream_info("LUCID_EVENTS")).state.last_seq == before

    survives(shared, main)


@pytest.mark.parametrize("session", ["a>b", "*", ">"])
def test_a_wildcard_as_a_session_id_never_reaches_the_server(shared: Pipeline, session: str) -> None:
    """Our own command line refuses wildcards before a subject is built."""
    for words in (["create", session], ["status", session], ["replay", session], ["play", session]):
        done = shared.cli(*words, check=False)
        assert done.returncode == 4, (words, done.stderr)
        assert "session id" in done.stderr


BODIES: dict[str, tuple[str, bytes, str]] = {
    "not JSON": ("create", b"{owner: me}", "body"),
    "half of it": ("create", b'{"owner": "me', "body"),
    "not UTF-8": ("create", b'{"owner": "\xff\xfe"}', "body"),
    "an array": ("create", b"[]", "body"),
    "a string": ("create", b'"create"', "body"),
    "null": ("create", b"null", "body"),
    "two objects": ("create", b"{}{}", "body"),
    "nested too deeply": ("create", b"[" * 10_000, "body"),
    "an unknown field": ("create", b'{"ownr": "me"}', "ownr"),
    "an unknown setting": ("create", b'{"settings": {"colour": 1}}', "colour"),
    "a number for text": ("create", b'{"owner": 5}', "owner"),
    "text for a number": ("create", b'{"settings": {"chunk_bytes": "10"}}', "settings.chunk_bytes"),
    "a small chunk": ("create", b'{"settings": {"chunk_bytes": 1}}', "settings.chunk_bytes"),
    "a large chunk": ("create", b'{"settings": {"chunk_bytes": 1000000000}}', "settings.chunk_bytes"),
    "no number": ("create", b'{"settings": {"chunk_seconds": NaN}}', "body"),
    "endless": ("create", b'{"settings": {"chunk_seconds": 1e999}}', "settings.chunk_seconds"),
    "an unknown codec": ("create", b'{"settings": {"codec": "rar"}}', "settings"),
    "an impossible level": ("create", b'{"settings": {"codec": "gzip", "level": 99}}', "settings"),
    "a long owner": ("create", b'{"owner": "' + b"x" * 201 + b'"}', "owner"),
    "a missing label": ("mark", b"{}", "label"),
    "a negative offset": ("mark", b'{"label": "x", "offset": -1}', "offset"),
    "an offset JSON can't keep": ("mark", b'{"label": "x", "offset": 9007199254740993}', "offset"),
    "an unknown verb": ("explode", b"{}", "verb"),
    "an internal verb": ("chunk_stored", b"{}", "verb"),
    "a verb in capitals": ("CREATE", b"{}", "verb"),
}


@pytest.mark.parametrize("what", BODIES)
def test_a_command_that_does_not_fit_is_refused(shared: Pipeline, what: str) -> None:
    """A malformed command is answered with the field that is wrong, and leaves no trace."""
    verb, body, field = BODIES[what]
    session = "malformed-" + "".join(c if c.isalnum() else "-" for c in what)

    async def main(client: Client) -> None:
        refused(await ask(client, session, verb, body), "contract", "invalid", field=field)
        assert await history(client, session) == []
        # The same by the durable road: an outcome, and nothing in the history.
        id = f"id-{session}"
        await client.jetstream().publish(f"lucid.cmdq.{session}.{verb}", body, headers={"Nats-Msg-Id": id})
        answer = await outcome(client, f"lucid.out.{session}.{id}")
        refused(answer, "contract", "invalid", field=field)
        assert await history(client, session) == []

    survives(shared, main)


def test_a_durable_command_of_no_session_has_an_outcome(shared: Pipeline) -> None:
    """A queued command whose subject names no valid session is refused under `~`, not retried for ever."""

    async def main(client: Client) -> None:
        headers = {"Nats-Msg-Id": "nowhere-1"}
        await client.jetstream().publish("lucid.cmdq.a.b.c.create", b"{}", headers=headers)
        refused(await outcome(client, "lucid.out.~.nowhere-1"), "contract", field="session_id")
        info = await client.jetstream().stream_info("LUCID_DLQ")
        assert info.state.messages == 0

    survives(shared, main)


def test_bodies_of_every_size_are_answered(shared: Pipeline) -> None:
    """Just under the server's limit we answer; over it the client has the server's own error."""

    async def main(client: Client) -> None:
        assert client.max_payload == MAX_PAYLOAD
        just_under = owner_of(client.max_payload - 1)
        for body in (owner_of(300_000), just_under):
            refused(await ask(client, "large", "create", body), "contract", field="body")
        with pytest.raises(BadRequestError, match="maximum"):
            await client.jetstream().publish("lucid.cmdq.large.create", just_under)
        with pytest.raises(MaxPayloadError):
            await ask(client, "large", "create", b" " * 8 * 1024 * 1024)
        # A client that does not look at the limit is told by the server, and put off the line.
        assert await raw_error(shared.port, "lucid.cmd.large.create", 8 * 1024 * 1024) == (
            "-ERR 'Maximum Payload Violation'"
        )
        assert await history(client, "large") == []

    survives(shared, main)


def owner_of(size: int) -> bytes:
    """Return a command of exactly `size` bytes."""
    body = b'{"owner": "' + b"x" * (size - 13) + b'"}'
    assert len(body) == size
    return body


async def raw_error(port: int, subject: str, size: int) -> str:
    """Publish without a client and return the server's error."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(20):
            await reader.readline()  # INFO
            writer.write(b'CONNECT {"verbose":false}\r\n' + f"PUB {subject} {size}\r\n".encode())
            while not (line := (await reader.readline()).decode().strip()).startswith("-ERR"):
                assert line
            return line
    finally:
        writer.close()


HEADERS: dict[str, tuple[dict[str, str], str, str]] = {
    "a bad id": ({"ce-id": "a b"}, "contract", "ce-id"),
    "a long id": ({"Nats-Msg-Id": "x" * 101}, "contract", "ce-id"),
    "no time": ({"ce-time": "yesterday"}, "contract", "ce-time"),
    "a time without a zone": ({"ce-time": "2026-01-01T00:00:00"}, "contract", "ce-time"),
    "the far past": ({"ce-time": "2001-01-01T00:00:00Z"}, "expired", "ce-time"),
    "the far future": ({"ce-time": "2999-01-01T00:00:00Z"}, "contract", "ce-time"),
    "a bad correlation": ({"Lucid-Correlation": "x" * 300}, "contract", "Lucid-Correlation"),
}


@pytest.mark.parametrize("what", HEADERS)
def test_headers_that_do_not_fit_are_refused(shared: Pipeline, what: str) -> None:
    """A wrong id, time or correlation is named, not repaired in silence."""
    headers, code, field = HEADERS[what]

    async def main(client: Client) -> None:
        refused(await ask(client, "headers", "create", headers=headers), code, field=field)
        assert await history(client, "headers") == []

    survives(shared, main)


VERBS = ("create", "start", "pause", "resume", "stop", "fail", "recover", "cleanup", "destroy")
LEGAL = {
    "": {"create"},
    "created": {"start", "fail", "destroy"},
    "starting": {"start", "stop", "fail"},
    "active": {"pause", "stop", "fail"},
    "pausing": {"pause", "stop", "fail"},
    "paused": {"resume", "stop", "fail"},
    "stopping": {"stop", "fail"},
    "stopped": {"recover", "cleanup", "destroy"},
    "error": {"recover", "cleanup", "destroy"},
    "destroyed": set(),
}
"""Written out anew from the design, not taken from the code it is held against."""


async def bring_to(client: Client, session: str, state: str) -> None:
    """Make a session and bring it to `state`."""
    roads: dict[str, list[tuple[str, dict[str, Any]]]] = {
        "": [],
        "created": [],
        "starting": [("start", {})],
        "active": [("start", {}), ("attach", {"recorder": "r"})],
        "pausing": [("start", {}), ("attach", {"recorder": "r"}), ("pause", {})],
        "paused": [
            *[("start", {}), ("attach", {"recorder": "r"}), ("pause", {})],
            ("drained", {"epoch": 1, "offset": 0}),
        ],
        "stopping": [("start", {}), ("attach", {"recorder": "r"}), ("stop", {})],
        "stopped": [("start", {}), ("stop", {})],
        "error": [("fail", {"reason": "a test"})],
        "destroyed": [("destroy", {})],
    }
    for verb, body in ([("create", {})] if state else []) + roads[state]:
        answer = await ask(client, session, verb, body)
        assert "error" not in answer, (verb, answer)
    if state == "stopped":
        await until_stored(client, session, "session.stopped.v1")


@pytest.mark.parametrize("state", list(LEGAL))
def test_every_illegal_transition_is_refused(shared: Pipeline, state: str) -> None:
    """What the table does not have is refused with what is allowed, and the history does not move."""

    async def main(client: Client) -> None:
        for verb in VERBS:
            if verb in LEGAL[state]:
                continue
            session = f"illegal-{state or 'none'}-{verb}"
            await bring_to(client, session, state)
            before = await history(client, session)
            error = refused(
                await ask(client, session, verb),
                "illegal_transition", "exists", "not_found", "erased", "stored",
            )  # fmt: skip
            assert error.get("state", "") == state
            if error["code"] == "illegal_transition":
                assert verb not in error.get("allowed", [])
                assert bool(error.get("allowed")) is (state != "destroyed"), error
            assert await history(client, session) == before

    survives(shared, main)
