"""The records of a group of workers, in a stream that keeps the last of each.

member.<id>   who is there, until its time to live runs out; an empty body says that it left
leader        who decides, until its time to live runs out
generation    which members, in which subscription, are to share the partitions
join.<id>     the member let go of what it had and waits for its part of that generation
assignment    the parts
"""

import asyncio
import math
from collections.abc import Callable
from typing import Final, TypeVar

import msgspec
from nats.aio.msg import Msg

from lucid_events.faust_nats.errors import Refused
from lucid_events.faust_nats.link import STREAM_EXISTS, Link, unsubscribe
from lucid_events.faust_nats.protocol import EXPECT, TTL
from lucid_events.faust_nats.topology import Names

LEFT_TTL: Final = "1s"
JOIN_TTL: Final = "86400s"
"""Far longer than a rebalance: it only keeps the joins of workers long gone from piling up."""

T = TypeVar("T")


class Member(msgspec.Struct):
    """A worker: `nonce` changes whenever what it subscribes to does."""

    nonce: int


class Leader(msgspec.Struct):
    """The worker that decides."""

    id: str


class Generation(msgspec.Struct):
    """The members, with their nonces, that share the partitions from now on."""

    number: int
    members: dict[str, int]


class Join(msgspec.Struct):
    """A member is ready for generation `number`; `metadata` is for Faust's assignor."""

    number: int
    topics: list[str]
    metadata: bytes


class Assignment(msgspec.Struct):
    """What each member gets in generation `number`, as Faust's assignor encodes it."""

    number: int
    parts: dict[str, bytes]


class Snapshot:
    """The records as of one moment, with the sequence of each."""

    def __init__(self, found: dict[str, tuple[int, bytes]]) -> None:
        self._found = found

    def get(self, kind: str, of: type[T], member: str = "") -> tuple[T | None, int]:
        """Return a record and its sequence; None for one that is not there or is empty."""
        sequence, data = self._found.get(f"{kind}.{member}" if member else kind, (0, b""))
        return (msgspec.json.decode(data, type=of) if data else None), sequence

    def members(self) -> dict[str, int]:
        """Return the nonces of the members that are there."""
        return {
            name.partition(".")[2]: msgspec.json.decode(data, type=Member).nonce
            for name, (_, data) in self._found.items()
            if name.startswith("member.") and data
        }


class Group:
    """Reads and writes the records, and tells when they change."""

    def __init__(self, link: Link, names: Names, *, session_s: float) -> None:
        self._link, self._names = link, names
        self.session_ttl = f"{max(1, math.ceil(session_s))}s"

    async def create(self, replicas: int) -> None:
        """Create the group's stream unless it is there."""
        config = {
            "name": self._names.group_stream,
            "subjects": [self._names.group_subjects],
            "max_msgs_per_subject": 1,
            "num_replicas": replicas,
            "storage": "file",
            "allow_direct": True,
            "allow_msg_ttl": True,
        }
        try:
            await self._link.api(f"STREAM.CREATE.{self._names.group_stream}", config)
        except Refused as exc:
            if exc.err_code != STREAM_EXISTS:
                raise

    async def snapshot(self) -> Snapshot:
        """Return all records as of one moment."""
        prefix = len(self._names.group(""))
        found: dict[str, tuple[int, bytes]] = {}
        async for page in self._link.pages(
            self._names.group_stream, {"multi_last": [self._names.group_subjects]}
        ):
            for message in page:
                headers = message.headers or {}
                found[headers["Nats-Subject"][prefix:]] = (int(headers["Nats-Sequence"]), message.data)
        return Snapshot(found)

    async def put(
        self, kind: str, value: object, *, member: str = "", expect: int | None = None, ttl: str = ""
    ) -> int:
        """Write a record, which goes after `ttl` if it is given, and return its sequence.

        Raises:
            Refused: the record's last sequence is not `expect`.
        """
        headers = {TTL: ttl} if ttl else {}
        if expect is not None:
            headers[EXPECT] = str(expect)
        subject = self._names.group(kind, member)
        return (await (await self._link.publish(subject, msgspec.json.encode(value), headers))).seq

    async def leave(self, member: str, *, leading: bool) -> None:
        """Say that `member` goes, so that nobody waits for its session to run out."""
        for subject in [
            self._names.group("member", member),
            *([self._names.group("leader")] if leading else []),
        ]:
            await (await self._link.publish(subject, b"", {TTL: LEFT_TTL}))

    async def watch(self, changed: Callable[[], None]) -> Callable[[], "asyncio.Future[None]"]:
        """Call `changed` when a record may have changed; returns how to stop that.

        Plain messages, which may be lost: a reader looks by itself now and then.
        """
        known: set[str] = set()
        member = self._names.group("member", "")

        async def take(message: Msg) -> None:
            # Signs of life of members that are known change nothing.
            beats = message.subject.startswith(member) or message.subject.endswith(".leader")
            if beats and message.data and message.subject in known:
                return
            (known.add if message.data else known.discard)(message.subject)
            changed()

        subscription = await self._link.client.subscribe(self._names.group_subjects, cb=take)
        return lambda: asyncio.ensure_future(unsubscribe(subscription))
