"""Which topics there are, in how many partitions, and where each is kept."""

from collections.abc import Callable, Iterable
from typing import Final

from lucid_events.faust_nats.errors import Refused, Unsupported
from lucid_events.faust_nats.link import STREAM_EXISTS, STREAM_MISSING, Link
from lucid_events.faust_nats.topology import EventLog, Names

PARTITIONS, TOPIC = "faust.partitions", "faust.topic"
MAX_PARTITIONS: Final = 1024
NANOSECONDS: Final = 1_000_000_000


class Catalog:
    """The topics of one app.

    Args:
        is_table: whether a topic is the changelog of a table of this app; those live in its state stream.
    """

    def __init__(self, link: Link, names: Names, *, is_table: Callable[[str], bool]) -> None:
        self._link, self._names, self._is_table = link, names, is_table
        self._counts: dict[str, int] = {}
        self.logs: dict[str, EventLog] = {}

    def bind(self, log: EventLog) -> None:
        """Let an existing stream be a topic."""
        if not 1 <= log.partitions <= MAX_PARTITIONS:
            raise Unsupported(f"topic {log.topic!r}: {log.partitions} partitions, use 1 to {MAX_PARTITIONS}")
        self.logs[log.topic] = log
        self._counts[log.topic] = log.partitions

    def is_table(self, topic: str) -> bool:
        """Whether `topic` is the changelog of a table of this app."""
        return self._is_table(topic)

    def count(self, topic: str) -> int | None:
        """Return the number of partitions of a topic looked up before, None when it is not known."""
        return self._counts.get(topic)

    def place(self, topic: str, number: int) -> tuple[str, str]:
        """Return the stream of a topic's partition and the filter that finds it there."""
        if (log := self.logs.get(topic)) is not None:
            return log.stream, log.subject
        if self._is_table(topic):
            return self._names.state_stream, self._names.table_partition(topic, number)
        return self._names.stream(topic), self._names.topic_partition(topic, number)

    def message(self, topic: str, number: int, key: bytes | None) -> str:
        """Return the subject to write a message to.

        Raises:
            Unsupported: the topic is a stream of somebody else's.
        """
        if topic in self.logs:
            raise Unsupported(
                f"topic {topic!r} is the stream {self.logs[topic].stream}: it is only read here"
            )
        if self._is_table(topic):
            return self._names.entry(topic, number, key)
        return self._names.message(topic, number, key)

    async def look_up(self, topics: Iterable[str]) -> dict[str, int]:
        """Return the partitions of those of `topics` that exist."""
        found: dict[str, int] = {}
        for topic in topics:
            count = self._counts.get(topic)
            if count is None and not self._is_table(topic):
                count = await self._ask(topic)
            if count is not None:
                found[topic] = self._counts[topic] = count
        return found

    async def check_logs(self) -> None:
        """Check that every stream bound as a topic is there.

        Raises:
            Unsupported: one is not.
        """
        for log in self.logs.values():
            try:
                await self._link.api(f"STREAM.INFO.{log.stream}")
            except Refused as exc:
                if exc.err_code != STREAM_MISSING:
                    raise
                raise Unsupported(
                    f"topic {log.topic!r}: there is no stream {log.stream}: create it first"
                ) from exc

    async def declare(
        self,
        topic: str,
        partitions: int,
        *,
        replicas: int = 1,
        retention_s: float | None = None,
        compacting: bool = False,
    ) -> int:
        """Create a topic unless it is there, and return its partitions: one that is there keeps its own.

        Raises:
            Unsupported: the number of partitions can't be used.
        """
        if not 1 <= partitions <= MAX_PARTITIONS:
            raise Unsupported(f"topic {topic!r}: {partitions} partitions, use 1 to {MAX_PARTITIONS}")
        if topic in self._counts:
            return self._counts[topic]
        if self._is_table(topic):
            self._counts[topic] = partitions
            return partitions
        age = retention_s or 0.0
        dedupe_s = min(self._link.options.dedupe_s, age) if age else self._link.options.dedupe_s
        config: dict[str, object] = {
            "name": self._names.stream(topic),
            "subjects": [self._names.topic_subjects(topic)],
            "num_replicas": replicas,
            "storage": "file",
            "max_age": int(age * NANOSECONDS),
            "max_msgs_per_subject": 1 if compacting else -1,
            "duplicate_window": int(dedupe_s * NANOSECONDS),
            "allow_direct": True,
            "metadata": {PARTITIONS: str(partitions), TOPIC: topic},
        }
        try:
            await self._link.api(f"STREAM.CREATE.{self._names.stream(topic)}", config)
        except Refused as exc:
            if exc.err_code != STREAM_EXISTS:
                raise
        count = await self._ask(topic)
        self._counts[topic] = partitions if count is None else count
        return self._counts[topic]

    async def _ask(self, topic: str) -> int | None:
        name = self._names.stream(topic)
        try:
            info = await self._link.api(f"STREAM.INFO.{name}")
        except Refused as exc:
            if exc.err_code == STREAM_MISSING:
                return None
            raise
        metadata = info["config"].get("metadata") or {}
        if metadata.get(TOPIC) != topic or not str(metadata.get(PARTITIONS, "")).isdecimal():
            raise Unsupported(
                f"the stream {name} was not made for topic {topic!r}: give the driver another ?prefix="
            )
        return int(metadata[PARTITIONS])
