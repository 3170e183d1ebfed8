import asyncio
import json
from typing import Any

import pytest

from lucid_events import codec
from lucid_events.domain import commands as cmd
from lucid_events.errors import IntegrityError, VersionConflict
from lucid_events.handlers.base import Done, Message, Outcome, Retry
from lucid_events.handlers.queued import QueuedCommands
from lucid_events.memory import MemoryCommandBus, MemoryLetters
from tests.unit.handlers.command_side import SID, CommandSide


class Queue(CommandSide):
    """A command side with the reaction to the command queue."""

    def __init__(self) -> None:
        super().__init__()
        self.bus = MemoryCommandBus(self.server)
        self.queued = QueuedCommands(self.handler, MemoryLetters(self.server), self.subjects)

    async def enqueue(
        self, verb: str, body: bytes = b"", *, session: str = SID, headers: dict[str, str] | None = None
    ) -> Message:
        """Store a command; returns it as a delivery shows it."""
        subject = f"lucid.cmdq.{session}.{verb}"
        sequence = await self.bus.enqueue(subject, body, headers=headers or {})
        stored = self.server.stream(self.subjects.commands_stream).get(sequence)
        assert stored is not None
        return Message(
            subject=stored.subject,
            headers=stored.headers,
            data=stored.data,
            sequence=stored.sequence,
            stored_at=stored.stored_at,
        )

    def outcomes(self) -> list[tuple[str, dict[str, Any]]]:
        """Return (subject, body) of every outcome stored."""
        stream = self.server.stream(self.subjects.outcomes_stream)
        return [(message.subject, json.loads(message.data)) for message in stream.messages()]

    async def put(self, verb: str, id: str, body: bytes = b"") -> Outcome:
        """Enqueue and handle one command."""
        return await self.queued.handle(await self.enqueue(verb, body, headers={codec.ID: id}))


def test_an_accepted_command_leaves_its_outcome_before_it_is_done() -> None:
    """The outcome stands under session and command id, and says what came of it."""

    async def main() -> None:
        queue = Queue()
        assert await queue.put("create", "c1") == Done()
        ((subject, body),) = queue.outcomes()
        assert subject == f"lucid.out.{SID}.c1"
        assert (body["outcome"], body["state"], body["command_id"]) == ("accepted", "created", "c1")

    asyncio.run(main())


def test_a_rejection_is_an_outcome_too() -> None:
    """What the rules refuse is handled: its outcome says why."""

    async def main() -> None:
        queue = Queue()
        await queue.put("create", "c1")
        assert await queue.put("resume", "c2") == Done()
        subject, body = queue.outcomes()[-1]
        assert subject == f"lucid.out.{SID}.c2"
        assert body["error"]["code"] == "illegal_transition"

    asyncio.run(main())


@pytest.mark.parametrize(
    ("session", "verb", "headers", "data", "token", "code"),
    [
        (SID, "explode", {codec.ID: "c1"}, b"", f"{SID}.c1", "contract"),
        (SID, "create", {codec.ID: "c1"}, b"{", f"{SID}.c1", "contract"),
        (SID, "create", {codec.ID: "not an id"}, b"", f"{SID}.", "contract"),
        ("s!1", "create", {codec.ID: "c1"}, b"", "~.c1", "contract"),
        ("a.b", "create", {}, b"", "~.", "contract"),
    ],
)
def test_what_is_malformed_gets_an_outcome_and_is_not_retried(
    session: str, verb: str, headers: dict[str, str], data: bytes, token: str, code: str
) -> None:
    """A command nobody can read is told so, under `~` when its session is not one, and leaves the queue."""

    async def main() -> None:
        queue = Queue()
        message = await queue.enqueue(verb, data, session=session, headers=headers)
        assert await queue.queued.handle(message) == Done()
        ((subject, body),) = queue.outcomes()
        assert subject.startswith(f"lucid.out.{token}")
        assert body["error"]["code"] == code
        assert queue.server.stream(queue.subjects.events_stream).last_sequence == 0

    asyncio.run(main())


def test_a_command_without_an_id_has_the_same_one_at_every_delivery() -> None:
    """Its id follows from where and when it was stored, so handling it again makes nothing twice."""

    async def main() -> None:
        queue = Queue()
        message = await queue.enqueue("create")
        assert await queue.queued.handle(message) == Done()
        await queue.clock.advance(3600)
        assert await queue.queued.handle(message) == Done()
        assert await queue.types() == ["session.created"]
        assert len(queue.outcomes()) == 1

    asyncio.run(main())


def test_a_worker_that_dies_before_the_ack_leaves_one_outcome() -> None:
    """A redelivery, however late, leaves the first outcome the only one."""

    async def main() -> None:
        queue = Queue()
        message = await queue.enqueue("create", headers={codec.ID: "c1"})
        await queue.queued.handle(message)
        await queue.queued.handle(message)
        await queue.clock.advance(3600)
        assert await queue.queued.handle(message) == Done()
        assert len(queue.outcomes()) == 1
        assert await queue.types() == ["session.created"]

    asyncio.run(main())


@pytest.mark.parametrize("again", ["delivered", "enqueued"])
def test_a_rejection_stands_although_the_rules_would_accept_now(again: str) -> None:
    """A rejected id stays rejected, delivered again or enqueued again hours later: nothing comes of it."""

    async def main() -> None:
        queue = Queue()
        refused = await queue.enqueue("start", headers={codec.ID: "c1"})
        assert await queue.queued.handle(refused) == Done()
        assert await queue.put("create", "c2") == Done()
        await queue.clock.advance(3 * 3600)
        if again == "enqueued":
            refused = await queue.enqueue("start", headers={codec.ID: "c1"})
        assert await queue.queued.handle(refused) == Done()
        assert await queue.types() == ["session.created"]
        assert [body.get("error", {}).get("code") for _, body in queue.outcomes()] == ["not_found", None]

    asyncio.run(main())


def test_what_is_no_outcome_of_ours_keeps_no_command_from_being_handled() -> None:
    """A server's acknowledgement that somebody had stored where the outcome goes is no outcome."""

    async def main() -> None:
        queue = Queue()
        queue.server.publish(f"lucid.out.{SID}.c1", b'{"stream":"LUCID_CAPTURE","seq":1}')
        queue.server.publish(f"lucid.out.{SID}.c1", b"{}", {codec.MSG_ID: "other.c1"})
        assert await queue.put("create", "c1") == Done()
        assert await queue.types() == ["session.created"]
        assert queue.outcomes()[-1][1]["outcome"] == "accepted"

    asyncio.run(main())


def test_outcomes_that_can_not_be_read_keep_the_command() -> None:
    """Without knowing whether the id has an outcome nothing is handled: it is tried again later."""

    async def main() -> None:
        queue = Queue()
        queue.faults.fail_next("read")
        message = await queue.enqueue("create", headers={codec.ID: "c1"})
        assert isinstance(await queue.queued.handle(message), Retry)
        assert await queue.types() == []
        assert await queue.queued.handle(message) == Done()

    asyncio.run(main())


def test_a_command_from_long_ago_is_judged_by_its_time() -> None:
    """A command that waited in the queue beyond the horizon is expired, not executed."""

    async def main() -> None:
        queue = Queue()
        message = await queue.enqueue("create", headers={codec.ID: "c1"})
        await queue.clock.advance(25 * 3600)
        assert await queue.queued.handle(message) == Done()
        assert queue.outcomes()[0][1]["error"]["code"] == "expired"

    asyncio.run(main())


def test_the_same_id_in_two_sessions_has_two_outcomes() -> None:
    """Nobody hides another session's outcome by using its command id."""

    async def main() -> None:
        queue = Queue()
        for session in ("a", "b"):
            await queue.queued.handle(await queue.enqueue("create", session=session, headers={codec.ID: "c"}))
        assert [subject for subject, _ in queue.outcomes()] == ["lucid.out.a.c", "lucid.out.b.c"]

    asyncio.run(main())


@pytest.mark.parametrize("place", ["append", "read"])
def test_a_server_that_is_away_is_no_outcome(place: Any) -> None:
    """What may succeed later is retried, and nobody is told otherwise."""

    async def main() -> None:
        queue = Queue()
        queue.faults.fail_next(place, times=2)
        outcome = await queue.put("create", "c1")
        assert isinstance(outcome, Retry)
        assert outcome.own_failure is False
        assert queue.outcomes() == []

    asyncio.run(main())


def test_conflicts_are_no_outcome() -> None:
    """A history that is too busy is tried again later."""

    async def main() -> None:
        queue = Queue()
        queue.faults.fail_next("append", VersionConflict("busy"), times=20)
        assert isinstance(await queue.put("create", "c1"), Retry)
        assert queue.outcomes() == []

    asyncio.run(main())


@pytest.mark.parametrize("stored", [True, False])
def test_an_outcome_that_can_not_be_stored_keeps_the_command(stored: bool) -> None:
    """No ack before the outcome is known to be there; the repeat leaves one."""

    async def main() -> None:
        queue = Queue()
        queue.faults.lose_reply("letter", stored=stored, times=3)
        message = await queue.enqueue("create", headers={codec.ID: "c1"})
        assert isinstance(await queue.queued.handle(message), Retry)
        assert await queue.queued.handle(message) == Done()
        assert len(queue.outcomes()) == 1
        assert await queue.types() == ["session.created"]

    asyncio.run(main())


def test_a_history_that_can_not_be_read_is_an_outcome() -> None:
    """A person has to look: the sender hears so instead of waiting for ever."""

    async def main() -> None:
        queue = Queue()

        async def broken(session: object) -> object:
            raise IntegrityError("unreadable")

        queue.histories.load = broken  # type: ignore[method-assign, assignment] # put in the way
        assert await queue.put("create", "c1") == Done()
        assert queue.outcomes()[0][1]["error"]["code"] == "integrity"

    asyncio.run(main())


def test_commands_of_one_session_keep_their_order() -> None:
    """The lane is the session; what has none is in nobody's way."""

    async def main() -> None:
        queue = Queue()
        assert queue.queued.lane(await queue.enqueue("create")) == SID
        assert queue.queued.lane(await queue.enqueue("create", session="a.b")) is None
        assert queue.queued.cost_bytes(await queue.enqueue("create", b"{}")) == 2

    asyncio.run(main())


def test_a_queued_and_an_immediate_command_share_their_ids() -> None:
    """Asked twice, once on each road, under one id: it happens once."""

    async def main() -> None:
        queue = Queue()
        await queue.ask(cmd.Create(), id="c1")
        await queue.put("create", "c1")
        assert queue.outcomes()[0][1]["repeated"] is True
        assert await queue.types() == ["session.created"]

    asyncio.run(main())
