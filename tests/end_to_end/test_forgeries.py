"""Bytes, events and timers nobody should send: the sessions they are aimed at do not notice."""

import asyncio
import hashlib
import json
from collections.abc import Iterator
from typing import Any

import pytest
from nats.aio.client import Client
from nats.js.errors import BadRequestError

from tests.end_to_end.pipeline import Pipeline
from tests.end_to_end.plain import Stored, ask, history, refused, survives, until_stored

ARRIVE_S = 20.0
"""Bound of a message that nobody acknowledges."""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    """Run one pipeline for all of these tests: none of them may hurt the next."""
    patient = {"LUCID_LEASE": "120", "LUCID_START_TIMEOUT": "120", "LUCID_STOP_TIMEOUT": "120"}
    with Pipeline(tmp_path_factory.mktemp("forgeries"), patient) as pipeline:
        yield pipeline


async def captured(client: Client, session: str, data: bytes) -> dict[str, Any]:
    """Record `data` as the first chunk of a new session, without sealing it; returns the right seal."""
    for verb, body in (("create", {}), ("start", {}), ("attach", {"recorder": "r"})):
        answer = await ask(client, session, verb, body)
        assert "error" not in answer, answer
    sha256 = hashlib.sha256(data).hexdigest()
    ack = await client.jetstream().publish(
        f"lucid.cap.{session}.1.0",
        data,
        headers={"Lucid-Offset": "0", "Lucid-Length": str(len(data)), "Lucid-Sha256": sha256},
    )
    return {
        "epoch": 1,
        "n": 0,
        "offset": 0,
        "size": len(data),
        "sha256": sha256,
        "cut": "end",
        "first_seq": ack.seq,
        "last_seq": ack.seq,
        "started_at": "2026-01-01T00:00:00Z",
        "ended_at": "2026-01-01T00:00:01Z",
    }


SEALS: dict[str, dict[str, Any]] = {
    "another hash": {"sha256": "0" * 64},
    "a larger size": {"size": 4097},
    "a smaller size": {"size": 4095},
    "a later epoch": {"epoch": 2},
    "another n": {"n": 1},
    "another offset": {"offset": 1},
    "a sequence of nobody": {"first_seq": 999_999, "last_seq": 999_999},
    "an end before the beginning": {"ended_at": "2025-01-01T00:00:00Z"},
}


@pytest.mark.parametrize("what", SEALS)
def test_a_seal_that_capture_does_not_bear_out_is_refused(shared: Pipeline, what: str) -> None:
    """A seal with a wrong hash, size, place or epoch is refused; the right one is taken afterwards."""
    session = "seal-" + what.replace(" ", "-")

    async def main(client: Client) -> None:
        right = await captured(client, session, b"s" * 4096)
        before = await history(client, session)
        refused(await ask(client, session, "seal", {**right, **SEALS[what]}), "seal_mismatch", "fenced")
        assert await history(client, session) == before
        answer = await ask(client, session, "seal", right)
        assert [event["type"] for event in answer["events"]] == ["chunk.sealed.v1"]
        (ready,) = await until_stored(client, session, "chunk.ready.v1")
        assert ready.body["sha256"] == right["sha256"]

    survives(shared, main)


def test_wrong_words_of_a_recorder_are_refused(shared: Pipeline) -> None:
    """Drained, gap and detach that do not fit the seals are refused, and so is a second recorder."""

    async def main(client: Client) -> None:
        session = "wrong-recorder"
        right = await captured(client, session, b"w" * 2048)
        await ask(client, session, "seal", right)
        await until_stored(client, session, "chunk.ready.v1")
        before = await history(client, session)
        for verb, body in (
            ("drained", {"epoch": 1, "offset": 2048}),
            ("detach", {"epoch": 1, "offset": 4096}),
            ("detach", {"epoch": 7, "offset": 2048}),
            ("gap", {"epoch": 1, "start": 0, "end": 10, "reason": "x"}),
            ("gap", {"epoch": 1, "start": 2048, "end": 2048, "reason": "x"}),
            ("slow", {"epoch": 2, "offset": 0, "step": "blocking"}),
        ):
            refused(
                await ask(client, session, verb, body),
                "illegal_transition", "unsealed", "fenced", "gap_mismatch",
            )  # fmt: skip
        refused(await ask(client, session, "slow", {"epoch": 1, "offset": 0, "step": "idle"}), "contract")
        assert await history(client, session) == before

    survives(shared, main)


def test_bytes_nobody_sealed_do_no_harm(shared: Pipeline) -> None:
    """Capture bytes of no session, of no epoch or without headers: the session ends with what was sealed."""

    async def main(client: Client) -> None:
        session, js = "unsealed-bytes", client.jetstream()
        right = await captured(client, session, b"u" * 2048)
        await js.publish("lucid.cap.nobody.1.0", b"stray")
        await js.publish(f"lucid.cap.{session}.1.0", b"no headers at all")
        await js.publish(f"lucid.cap.{session}.1.5", b"junk", headers={"Lucid-Offset": "minus one"})
        await js.publish(f"lucid.cap.{session}.9.0", b"an epoch that never was")
        await js.publish(f"lucid.cap.{session}.1.0", b"x" * 100, headers={"Lucid-Offset": "5"})
        await ask(client, session, "seal", right)
        (ready,) = await until_stored(client, session, "chunk.ready.v1")
        assert ready.body["sha256"] == right["sha256"]
        assert "error" not in await ask(client, session, "stop")
        answer = await ask(client, session, "detach", {"epoch": 1, "offset": 2048})
        assert "error" not in answer, answer
        await until_stored(client, session, "session.stopped.v1")
        played = await asyncio.to_thread(shared.cli, "play", session, check=False)
        assert played.stdout.startswith("u" * 2048)

    survives(shared, main)


def test_junk_on_a_history_is_skipped_and_counted(shared: Pipeline) -> None:
    """Messages without our headers stop neither commands nor views, and replay and rebuild name them."""

    async def main(client: Client) -> None:
        session, js = "junk", client.jetstream()
        await ask(client, session, "create")
        for subject in ("chunk.sealed", "session.started", "session.stopping", "no.such", "a.b.c.d"):
            await js.publish(f"lucid.evt.{session}.{subject}", b"junk")
        await js.publish("lucid.evt.junk-alone.session.started", b"{}")
        assert (await ask(client, session, "start"))["state"] == "starting"
        assert (await ask(client, session, "stop"))["state"] in ("stopping", "stopped")
        await until_stored(client, session, "session.stopped.v1")

    survives(shared, main)
    shown = [json.loads(line) for line in shared.cli("replay", "junk", "--json").stdout.splitlines()]
    assert sum("stray" in line for line in shown) == 5
    assert shown[-1]["type"] == "session.stopped.v1"
    status = json.loads(shared.cli("status", "junk", "--json").stdout)
    assert status["state"] == "stopped"
    report = json.loads(shared.cli("rebuild", "--json").stdout)
    assert report["differences"] == []
    assert report["strays"] >= 6


def test_a_forged_timer_does_nothing(shared: Pipeline) -> None:
    """Messages on due and timer subjects that did not come from the scheduler time nobody out."""

    async def main(client: Client) -> None:
        session, js = "forged-timer", client.jetstream()
        await captured(client, session, b"t" * 100)
        before = await history(client, session)
        body = json.dumps({"name": "lease", "armed_at": before[-1].sequence, "epoch": 1}).encode()
        due = f"lucid.due.{session}.lease"
        await js.publish(due, body)
        for scheduler in (f"lucid.timer.{session}.lease", "lucid.timer.other.lease"):
            # The server keeps the scheduler's signature to itself.
            with pytest.raises(BadRequestError, match="scheduler"):
                await js.publish(due, body, headers={"Nats-Scheduler": scheduler})
        for place in ("due.x", "due.a.b.c", f"due.{session}.stop", f"timer.{session}.x"):
            await js.publish(f"lucid.{place}", b"\x00junk")
        assert "error" not in await ask(client, session, "mark", {"label": "still here"})
        assert [event.type for event in (await history(client, session))[len(before) :]] == [
            "session.marked.v1"
        ]

    survives(shared, main)


def test_a_reply_subject_can_not_write_history(shared: Pipeline) -> None:
    """An acknowledgement that the server was tricked into writing into the log is no event."""

    async def main(client: Client) -> None:
        session = "reply-trick"
        await ask(client, session, "create")
        target = f"lucid.evt.{session}.session.started"
        await client.publish(f"lucid.cap.{session}.1.0", b"x", reply=target)
        await client.publish("lucid.cmdq.reply-trick-2.create", b"{}", reply=target)
        (stray, *_) = await arrived(client, session, 3)
        assert stray.type == ""
        answer = await ask(client, session, "start")
        assert answer["state"] == "starting", answer
        events = [event.type for event in await history(client, session) if event.type]
        assert events == ["session.created.v1", "session.started.v1"]
        # A command whose answer would go into the log is no way round it either.
        await client.publish(f"lucid.cmd.{session}.stop", b"{}", reply=target)
        await until_stored(client, session, "session.stopping.v1")

    survives(shared, main)


async def arrived(client: Client, session: str, count: int) -> list[Stored]:
    """Return the messages on a history that are no events, once there are `count` messages."""
    async with asyncio.timeout(ARRIVE_S):
        while len(found := await history(client, session)) < count:  # noqa: ASYNC110 # the log wakes nobody
            await asyncio.sleep(0.05)
    return [message for message in found if not message.type]


def test_a_command_id_belongs_to_its_session(shared: Pipeline) -> None:
    """One command id used for two sessions takes effect once in each, and never suppresses the other's."""

    async def main(client: Client) -> None:
        same = {"Nats-Msg-Id": "the-same-id"}
        for session in ("twin-1", "twin-2"):
            assert "error" not in await ask(client, session, "create", headers=same)
            again = await ask(client, session, "create", headers=same)
            assert again["repeated"] is True
            assert len(await history(client, session)) == 1

    survives(shared, main)


def test_a_forged_event_damages_its_session_loudly(shared: Pipeline) -> None:
    """An event that breaks the chain is found; its session can still be read and ended, no other suffers."""
    session = "forged-event"

    async def main(client: Client) -> None:
        await ask(client, session, "create")
        headers = {"Nats-Msg-Id": "f-1", "ce-specversion": "1.0", "ce-id": "f-1", "ce-subject": session}
        rest = {"ce-type": "session.started.v1", "ce-time": "2026-01-01T00:00:00Z", "Lucid-Causation": "f"}
        chain = {"Lucid-Prev": "0" * 64}
        subject = f"lucid.evt.{session}.session.started"
        await client.jetstream().publish(subject, b"{}", headers={**headers, **rest, **chain})
        refused(await ask(client, session, "attach", {"recorder": "r"}), "damaged")
        answer = await ask(client, session, "fail", {"reason": "forged"})
        assert answer["state"] == "error", answer

    survives(shared, main)
    shown = [json.loads(line) for line in shared.cli("replay", session, "--json").stdout.splitlines()]
    assert [event["type"] for event in shown][-1] == "session.failed.v1"
    assert shown[1]["prev"] != shown[0]["digest"]
    status = json.loads(shared.cli("status", session, "--json").stdout)
    assert status["damaged_at"] == shown[1]["sequence"]
