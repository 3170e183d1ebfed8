"""The one object that every port in memory shares: streams, consumers, subscriptions, faults.

It takes the place of the server and the network. Everything it holds is gone with the process.
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from lucid_events import subjects as names
from lucid_events.clock import SystemClock
from lucid_events.errors import ConfigError, StoreUnavailable
from lucid_events.memory.consumer import MAX_ACK_PENDING, MemoryConsumer
from lucid_events.memory.faults import Faults
from lucid_events.memory.schedules import ScheduledStream
from lucid_events.memory.stream import MemoryStream, Outgoing, Stored, StoredMessage, check_size, matches
from lucid_events.ports import Clock, CommandReply
from lucid_events.subjects import Subjects

MAX_PAYLOAD_BYTES = 2 * 1024 * 1024
"""What the embedded server takes, so that pieces have the same size on both."""

Listener = Callable[[str, Mapping[str, str], bytes], None]
Responder = Callable[[str, Mapping[str, str], bytes], Awaitable[CommandReply]]

STREAM, SUBJECT, SEQUENCE = "Nats-Stream", "Nats-Subject", "Nats-Sequence"
FROM_SERVER = frozenset({STREAM, SUBJECT, SEQUENCE})
"""Headers of a republished message that its writer did not send."""


class MemoryServer:
    """Streams as lists, subscriptions as calls; `faults` lets go wrong what goes wrong on a network."""

    def __init__(
        self,
        subjects: Subjects | None = None,
        *,
        clock: Clock | None = None,
        max_payload: int = MAX_PAYLOAD_BYTES,
        capture_max_bytes: int | None = None,
        events_max_bytes: int | None = None,
        incarnation: int = 1,
    ) -> None:
        self.subjects = subjects or Subjects()
        self.clock: Clock = clock or SystemClock()
        self.max_payload = max_payload
        self.incarnation = incarnation
        self.faults = Faults()
        self._streams: dict[str, MemoryStream] = {}
        self._consumers: dict[str, MemoryConsumer] = {}
        self._listeners: list[tuple[str, Listener]] = []
        self._responders: list[tuple[str, Responder]] = []
        s, prefix = self.subjects, self.subjects.prefix
        self._add(s.events_stream, f"{prefix}.evt.>", max_bytes=events_max_bytes)
        self.stream(s.events_stream).on_stored.append(self._republish)
        self._add(s.capture_stream, f"{prefix}.cap.>", max_bytes=capture_max_bytes)
        self._add(s.commands_stream, f"{prefix}.cmdq.>", work_queue=True)
        self._add(s.outcomes_stream, f"{prefix}.out.>")
        self._add(s.dlq_stream, f"{prefix}.dlq.>")
        self._add(s.checkpoints_stream, s.checkpoint)
        timed = (f"{prefix}.timer.>", f"{prefix}.due.>")
        self.timers = ScheduledStream(s.timers_stream, timed, self.clock, last_per_subject=True)
        self._streams[s.timers_stream] = self.timers
        self.add_object_store(s.chunks_bucket)
        for bucket in (s.status_bucket(1), s.meta_bucket, s.snapshots_bucket):
            self.add_bucket(bucket)

    # streams

    def stream(self, name: str) -> MemoryStream:
        """Return a stream by name.

        Raises:
            ConfigError: there is none.
        """
        try:
            return self._streams[name]
        except KeyError:
            raise ConfigError(
                f"no stream {name}: use one of {', '.join(sorted(self._streams))}", stream=name
            ) from None

    @property
    def streams(self) -> list[MemoryStream]:
        """Every stream there is."""
        return list(self._streams.values())

    def add_bucket(self, bucket: str) -> MemoryStream:
        """Make sure the key-value bucket exists; returns the stream behind it."""
        return self._add(names.kv_stream(bucket), names.kv_key(bucket, ">"), last_per_subject=True)

    def add_object_store(self, bucket: str) -> MemoryStream:
        """Make sure the object-store bucket exists; returns the stream behind it."""
        return self._add(names.object_stream(bucket), f"$O.{bucket}.C.>", f"$O.{bucket}.M.>")

    def publish(self, subject: str, data: bytes = b"", headers: Mapping[str, str] | None = None) -> Stored:
        """Store a message on whichever stream carries `subject`, as any client could.

        Raises:
            StoreUnavailable: no stream carries it.
            ContractError: it is larger than `max_payload`.
        """
        message = Outgoing(subject, data, headers or {})
        check_size(message, self.max_payload)
        for stream in self._streams.values():
            if any(matches(pattern, subject) for pattern in stream.subjects):
                return stream.publish([message])
        raise StoreUnavailable(f"no stream carries {subject}: check the prefix ({self.subjects.prefix})")

    # consumers

    def add_consumer(
        self,
        name: str,
        filters: Sequence[str],
        *,
        stream: str | None = None,
        ack_wait_s: float = 30.0,
        max_ack_pending: int = MAX_ACK_PENDING,
    ) -> None:
        """Create a durable consumer on `stream` (the event log by default) from its first message on.

        Repeating it with the same name changes nothing.
        """
        if name not in self._consumers:
            self._consumers[name] = MemoryConsumer(
                name,
                self.stream(stream or self.subjects.events_stream),
                tuple(filters),
                self.faults,
                ack_wait_s=ack_wait_s,
                max_ack_pending=max_ack_pending,
            )

    def consumer(self, name: str) -> MemoryConsumer:
        """Return a consumer by name.

        Raises:
            ConfigError: there is none.
        """
        try:
            return self._consumers[name]
        except KeyError:
            raise ConfigError(f"no consumer {name}: create it first (add_consumer)", consumer=name) from None

    # messages that are not stored

    @contextmanager
    def listening(self, pattern: str, listener: Listener) -> Iterator[None]:
        """Call `listener` with every message on `pattern` that is sent meanwhile."""
        entry = (pattern, listener)
        self._listeners.append(entry)
        try:
            yield
        finally:
            self._listeners.remove(entry)

    @contextmanager
    def responding(self, pattern: str, responder: Responder) -> Iterator[None]:
        """Let `responder` answer requests on `pattern` meanwhile."""
        entry = (pattern, responder)
        self._responders.append(entry)
        try:
            yield
        finally:
            self._responders.remove(entry)

    def send(self, subject: str, headers: Mapping[str, str], data: bytes) -> int:
        """Hand a message to every listener; returns how many there were."""
        heard = [listener for pattern, listener in self._listeners if matches(pattern, subject)]
        for listener in heard:
            listener(subject, headers, data)
        return len(heard)

    def responder(self, subject: str) -> Responder | None:
        """Return who answers requests on `subject`, in turn when there are several."""
        for i, (pattern, responder) in enumerate(self._responders):
            if matches(pattern, subject):
                self._responders.append(self._responders.pop(i))
                return responder
        return None

    def _add(
        self,
        name: str,
        *subjects: str,
        max_bytes: int | None = None,
        last_per_subject: bool = False,
        work_queue: bool = False,
    ) -> MemoryStream:
        if name not in self._streams:
            self._streams[name] = MemoryStream(
                name,
                subjects,
                self.clock,
                max_bytes=max_bytes,
                last_per_subject=last_per_subject,
                work_queue=work_queue,
            )
        return self._streams[name]

    def _republish(self, message: StoredMessage) -> None:
        if self.faults.drops("live"):
            return
        added = {
            STREAM: self.subjects.events_stream,
            SUBJECT: message.subject,
            SEQUENCE: str(message.sequence),
        }
        self.send(self.subjects.live(message.subject), {**message.headers, **added}, message.data)
