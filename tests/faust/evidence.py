"""Which worker has what in hand, by the records on the server: whether a fault met what it was meant for."""

from __future__ import annotations

from typing import NamedTuple

import msgspec
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment

from lucid_events.faust_nats.ledger import Offset
from lucid_events.faust_nats.membership import Assignment, Generation
from tests.faust.counting import IN, OUT
from tests.faust.workers import Truth

_OFFSET_IN_ID = 4
"""Where an output's message id names the offset of its event: app|agent|topic|partition|offset|…"""


class Shares(NamedTuple):
    """The last parts that were handed out: in which generation, and which of the input's to whom."""

    number: int
    partitions: dict[str, set[int]]


class Evidence:
    """What an app of the counting kind left on the server."""

    def __init__(self, truth: Truth) -> None:
        self._truth = truth

    async def generation(self) -> Generation:
        """The generation that was begun last, and its members."""
        data = await self._record("generation")
        return msgspec.json.decode(data, type=Generation) if data else Generation(0, {})

    async def shares(self) -> Shares:
        """The generation whose parts were handed out last, and the parts."""
        data = await self._record("assignment")
        if not data:
            return Shares(0, {})
        made = msgspec.json.decode(data, type=Assignment)
        parts = {
            member: ConsumerProtocolMemberAssignment.decode(part).assignment
            for member, part in made.parts.items()
        }
        return Shares(
            made.number,
            {member: set(dict(part).get(IN, [])) for member, part in parts.items()},
        )

    async def _record(self, kind: str) -> bytes:
        found = await self._truth.last(self._truth.names.group_stream, self._truth.names.group(kind))
        return found.data if found is not None else b""

    async def offset(self, number: int) -> Offset:
        """What was committed of a partition of the input, and in which generation."""
        subject = self._truth.names.offset(IN, number)
        found = await self._truth.last(self._truth.names.state_stream, subject)
        return msgspec.json.decode(found.data, type=Offset) if found is not None else Offset(0, 0, "", "")

    async def unfinished(self, member: str) -> dict[int, int]:
        """How many sequences behind its last output each partition of `member` is committed, if it is.

        Empty in a rebalance, and for who has no part: then nothing is in hand.
        """
        shares = await self.shares()
        if shares.number != (await self.generation()).number:
            return {}
        found: dict[int, int] = {}
        for number in shares.partitions.get(member, set()):
            subject = self._truth.names.topic_partition(OUT, number)
            output = await self._truth.last(self._truth.names.stream(OUT), subject)
            committed = await self.offset(number)
            if output is None or committed.generation != shares.number:
                continue
            done = int(output.headers["Nats-Msg-Id"].split("|")[_OFFSET_IN_ID])
            if done >= committed.next:
                found[number] = done - committed.next + 1
        return found

    async def end(self, topic: str) -> int:
        """The sequence of a topic's last message, 0 for an empty one."""
        names = self._truth.names
        found = await self._truth.last(names.stream(topic), names.topic_subjects(topic))
        return found.sequence if found is not None else 0
