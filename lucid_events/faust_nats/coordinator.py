"""Which worker has which partitions: a leader, generations, and a barrier between two of them.

Every change of the group starts a generation. Its members first let go of everything (what they had
in hand is finished and committed), say so, and only when all have does the leader hand out the parts,
by Faust's own assignor. A worker that finds itself left out, or whose session ran out while it slept,
is fenced: it must restart.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Protocol

from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment, ConsumerProtocolMemberMetadata

from lucid_events.faust_nats.errors import Fenced, Refused, Unavailable, first_of
from lucid_events.faust_nats.link import WRONG_SEQUENCE
from lucid_events.faust_nats.membership import (
    JOIN_TTL,
    Assignment,
    Generation,
    Group,
    Join,
    Leader,
    Member,
    Snapshot,
)

_log = logging.getLogger(__name__)

LOOK_S: Final = 1.0
"""How often the records are read without a sign that they changed: expiry gives none."""
SETTLE_S: Final = 0.15
"""Workers that start together should share one generation, not start one each."""


class Assignor(Protocol):
    """What of Faust's PartitionAssignor is used."""

    version: int

    def metadata(self, topics: set[str]) -> Any:
        """Return what the leader must know about this worker."""
        ...

    def assign(self, cluster: Any, member_metadata: Mapping[str, Any]) -> Mapping[str, Any]:
        """Share the partitions."""
        ...

    def on_assignment(self, assignment: Any) -> None:
        """Take the worker's part."""
        ...


class Worker(Protocol):
    """What the coordinator asks of the consumer."""

    async def let_go(self) -> None:
        """Finish and commit what is in hand; read nothing more."""
        ...

    async def take_over(self, generation: int, parts: list[tuple[str, list[int]]]) -> None:
        """Go on with `parts`."""
        ...

    async def partitions_of(self, topics: set[str]) -> dict[str, int]:
        """Return the number of partitions of each topic."""
        ...


class _Cluster:
    """As much of a Kafka cluster as Faust's assignor looks at."""

    def __init__(self, counts: Mapping[str, int]) -> None:
        self._counts = counts

    def partitions_for_topic(self, topic: str) -> set[int]:
        return set(range(self._counts.get(topic, 0)))


class Coordinator:
    """One worker's place in its group. `subscribe`, then `run` until cancelled or until `leave`."""

    def __init__(
        self,
        group: Group,
        assignor: Assignor,
        worker: Worker,
        *,
        member: str,
        session_s: float,
        beat_s: float,
        rebalance_s: float,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._group, self._assignor, self._worker = group, assignor, worker
        self._session_s, self._beat_s, self._rebalance_s = session_s, beat_s, rebalance_s
        self._clock, self._now = clock, now
        self.member = member
        self._topics: set[str] = set()
        self._nonce = 0
        self._member_seq = self._lease_seq = 0
        self._alive_at = 0.0
        self._joined = self._applied = 0
        self._joining_since: tuple[int, float] = (0, 0.0)
        self._left_out: dict[str, int] = {}
        self._changed = (asyncio.Event(), asyncio.Event())
        self._subscribed = asyncio.Event()
        self._leaving = False
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def generation(self) -> int:
        """The generation this worker works in; 0 before the first."""
        return self._applied

    async def subscribe(self, topics: set[str]) -> None:
        """Take part with `topics`; a change of them is a new generation."""
        if self._leaving or topics == self._topics:
            return
        self._topics = set(topics)
        self._nonce += 1
        if self._member_seq:
            await self._beat()
        self._subscribed.set()
        self._wake()

    async def run(self) -> None:
        """Take part until cancelled, or until `leave`.

        Raises:
            Fenced: the group goes on without this worker.
        """
        await self._subscribed.wait()
        stop = await self._group.watch(self._wake)
        try:
            self._alive_at = self._clock()
            self._member_seq = await self._group.put(
                "member", Member(self._nonce), member=self.member, ttl=self._group.session_ttl
            )
            async with asyncio.TaskGroup() as tasks:
                if not self._leaving:
                    leading = self._repeat(self._lead, self._changed[0])
                    following = self._repeat(self._follow, self._changed[1])
                    self._tasks = [
                        tasks.create_task(self._beating(), name="faust-nats-beat"),
                        tasks.create_task(leading, name="faust-nats-lead"),
                        tasks.create_task(following, name="faust-nats-follow"),
                    ]
        except BaseExceptionGroup as group:
            raise first_of(group) from group
        finally:
            stop()

    async def leave(self) -> None:
        """Say good-bye; the others go on at once. `run` ends."""
        self._leaving = True
        # Before the good-bye: it wakes them, and a leader would take its lease back and find itself left out.
        ending = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
        if self._member_seq:
            await self._group.leave(self.member, leading=bool(self._lease_seq))

    def _wake(self) -> None:
        for event in self._changed:
            event.set()

    async def _repeat(self, step: Callable[[], Awaitable[None]], changed: asyncio.Event) -> None:
        while True:
            changed.clear()
            try:
                await step()
            except Unavailable as exc:
                _log.warning("the group can't be reached", extra={"reason": str(exc)})
            try:
                async with asyncio.timeout(LOOK_S):
                    await changed.wait()
            except TimeoutError:
                continue

    async def _beating(self) -> None:
        while True:
            await asyncio.sleep(self._beat_s)
            if self._clock() - self._alive_at > self._session_s:
                raise Fenced(
                    f"nothing heard of {self.member} for {self._session_s:g} s: its partitions may be gone"
                )
            try:
                async with asyncio.timeout(self._session_s):
                    await self._beat()
            except (Unavailable, TimeoutError) as exc:
                _log.warning("a sign of life was not answered", extra={"reason": repr(exc)})

    async def _beat(self) -> None:
        began = self._clock()
        try:
            self._member_seq = await self._group.put(
                "member",
                Member(self._nonce),
                member=self.member,
                expect=self._member_seq,
                ttl=self._group.session_ttl,
            )
        except Refused as exc:
            if exc.err_code not in WRONG_SEQUENCE:
                raise
            # Either an answer was lost and the record is ours, or the session ran out.
            found, sequence = (await self._group.snapshot()).get("member", Member, self.member)
            if found is None:
                raise Fenced(f"the session of {self.member} ran out: its partitions may be gone") from exc
            self._member_seq = sequence
        self._alive_at = began
        if self._lease_seq:
            await self._lease(self._lease_seq)

    async def _lease(self, expect: int) -> None:
        try:
            self._lease_seq = await self._group.put(
                "leader", Leader(self.member), expect=expect, ttl=self._group.session_ttl
            )
        except Refused as exc:
            if exc.err_code not in WRONG_SEQUENCE:
                raise
            self._lease_seq = 0

    async def _lead(self) -> None:
        snapshot = await self._group.snapshot()
        leader, lease = snapshot.get("leader", Leader)
        if leader is None:
            await self._lease(lease)
        elif leader.id == self.member:
            self._lease_seq = lease
        else:
            self._lease_seq = 0
        if not self._lease_seq:
            return
        generation, sequence = snapshot.get("generation", Generation)
        present = self._present(snapshot)
        if generation is None or generation.members != present:
            await asyncio.sleep(SETTLE_S)
            await self._begin(self._present(await self._group.snapshot()), generation, sequence)
            return
        await self._hand_out(snapshot, generation, sequence)

    def _present(self, snapshot: Snapshot) -> dict[str, int]:
        return {
            member: nonce
            for member, nonce in snapshot.members().items()
            if self._left_out.get(member, -1) < nonce
        }

    async def _begin(self, members: dict[str, int], last: Generation | None, sequence: int) -> None:
        if not members:
            return
        # By the clock where that is later, so that offsets stay valid if the group's stream is lost.
        number = max(last.number + 1 if last is not None else 1, int(self._now()))
        try:
            await self._group.put("generation", Generation(number, members), expect=sequence)
        except Refused as exc:
            if exc.err_code not in WRONG_SEQUENCE:
                raise
            return
        self._joining_since = (number, self._clock())
        _log.info("a new generation", extra={"generation": number, "count": len(members)})
        self._wake()

    async def _hand_out(self, snapshot: Snapshot, generation: Generation, sequence: int) -> None:
        made, last = snapshot.get("assignment", Assignment)
        if made is not None and made.number == generation.number:
            return
        joined: dict[str, Join] = {}
        for member in generation.members:
            join, _ = snapshot.get("join", Join, member)
            if join is not None and join.number == generation.number:
                joined[member] = join
        missing = generation.members.keys() - joined.keys()
        if missing:
            if self._joining_since[0] != generation.number:
                self._joining_since = (generation.number, self._clock())
            if self._clock() - self._joining_since[1] > self._rebalance_s:
                if not joined:
                    # Without them nobody is left: the time counts from the first that let go.
                    _log.warning("no member let go in time: waiting on", extra={"count": len(missing)})
                    self._joining_since = (generation.number, self._clock())
                    return
                if self.member in missing:
                    raise Fenced(
                        f"{self.member} leads generation {generation.number} and did not let go in "
                        f"{self._rebalance_s:g} s, others did: restart this worker"
                    )
                _log.warning("members did not let go in time and are left out", extra={"count": len(missing)})
                self._left_out |= {member: generation.members[member] for member in missing}
                await self._begin(self._present(snapshot), generation, sequence)
            return
        counts = await self._worker.partitions_of(
            {topic for join in joined.values() for topic in join.topics}
        )
        metadata = {
            member: ConsumerProtocolMemberMetadata(self._assignor.version, join.topics, join.metadata)
            for member, join in joined.items()
        }
        parts = self._assignor.assign(_Cluster(counts), metadata)
        coded = {member: part.encode() for member, part in parts.items()}
        try:
            await self._group.put("assignment", Assignment(generation.number, coded), expect=last)
        except Refused as exc:
            # Another leads by now: its parts may be in force, two different ones of a generation never.
            if exc.err_code not in WRONG_SEQUENCE:
                raise
        self._wake()

    async def _follow(self) -> None:
        snapshot = await self._group.snapshot()
        generation, _ = snapshot.get("generation", Generation)
        if generation is None or generation.number < self._joined:
            return
        if self.member not in generation.members:
            if self._joined:
                raise Fenced(
                    f"generation {generation.number} goes on without {self.member}: restart this worker"
                )
            return
        if generation.number > self._joined:
            await self._worker.let_go()
            metadata = self._assignor.metadata(self._topics)
            join = Join(generation.number, sorted(self._topics), metadata.user_data)
            await self._group.put("join", join, member=self.member, ttl=JOIN_TTL)
            self._joined = generation.number
            self._wake()
            return
        made, _ = snapshot.get("assignment", Assignment)
        if made is None or made.number != self._joined or self._applied == self._joined:
            return
        part = ConsumerProtocolMemberAssignment.decode(made.parts[self.member])
        self._assignor.on_assignment(part)
        self._applied = self._joined
        await self._worker.take_over(self._joined, [(topic, list(found)) for topic, found in part.assignment])


def new_member(host: str) -> str:
    """Return an id for this start of a worker; `host` only makes it readable."""
    kept = "".join(c if c.isalnum() else "-" for c in host)[:32]
    return f"{kept}-{secrets.token_hex(6)}"
