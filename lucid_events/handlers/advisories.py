"""Notices when the server gave up on a message of ours, which our configuration never lets it do."""

import logging
from typing import ClassVar

import msgspec

from lucid_events import codec
from lucid_events.errors import ContractError
from lucid_events.handlers.base import Done, Message, Outcome, Skip
from lucid_events.handlers.dead_letters import Pointer, set_aside
from lucid_events.ports import Clock, Letters
from lucid_events.subjects import Subjects

_log = logging.getLogger(__name__)

MAX_DELIVERIES = "MAX_DELIVERIES"
"""Token of the advisory's subject: `$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.<stream>.<consumer>`."""


class Advisory(msgspec.Struct, frozen=True, kw_only=True):
    """What the server says of a message it stops delivering."""

    stream: str
    consumer: str
    stream_seq: int
    deliveries: int = 0


class Advisories:
    """On every advisory kept: a message given up becomes a dead letter; terminations are ours."""

    name: ClassVar[str] = "advisories"

    def __init__(self, letters: Letters, clock: Clock, subjects: Subjects) -> None:
        self._letters, self._clock, self._subjects = letters, clock, subjects
        self.given_up = 0

    async def handle(self, message: Message) -> Outcome:
        """Set the message aside that the server gave up: consumers of ours have no delivery limit."""
        if MAX_DELIVERIES not in message.subject.split("."):
            return Skip("no concern")
        try:
            advisory = codec.decode(message.data, Advisory)
        except ContractError:
            return Skip("not an advisory")
        self.given_up += 1
        _log.error(
            "the server gave a message up: somebody limited the consumer's deliveries, remove max_deliver",
            extra={
                "stream": advisory.stream,
                "consumer": advisory.consumer,
                "sequence": advisory.stream_seq,
                "attempt": advisory.deliveries,
            },
        )
        pointer = Pointer(
            stream=advisory.stream,
            sequence=advisory.stream_seq,
            subject="",
            consumer=advisory.consumer,
            code="max_deliveries",
            reason=f"the server gave it up after {advisory.deliveries} deliveries",
            attempts=advisory.deliveries,
            time=self._clock.now(),
        )
        await set_aside(self._letters, self._subjects, pointer)
        return Done()

    def lane(self, message: Message) -> str | None:
        """Advisories are independent of each other."""
        return None

    def cost_bytes(self, message: Message) -> int:
        """Count the message alone."""
        return len(message.data)
