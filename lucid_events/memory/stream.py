"""One stream: messages in order, with the guards and limits of a JetStream stream on one replica.

Sequences are never used twice and belong to the whole stream, so those of one history, chunk or
key have holes, as on a server. Knows nothing of events, chunks or keys.
"""

import asyncio
import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from typing import NamedTuple

from lucid_events.errors import ContractError, StoreFull, VersionConflict
from lucid_events.ports import Clock

MSG_ID = "Nats-Msg-Id"
DEDUPE_WINDOW_S = 120.0
"""The server's default window in which a message id is stored once."""

_GROUP_TOKENS = 3
"""Subjects are indexed by their first three tokens: prefix, kind and session."""


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> re.Pattern[str]:
    tokens = (r"[^.]+" if t == "*" else r".+" if t == ">" else re.escape(t) for t in pattern.split("."))
    return re.compile(r"\.".join(tokens))


def matches(pattern: str, subject: str) -> bool:
    """Return whether `subject` fits `pattern` (`*` is one token, `>` one or more at the end)."""
    return _compiled(pattern).fullmatch(subject) is not None


class Guard(NamedTuple):
    """Store only if the last sequence on `filter` is `sequence`."""

    filter: str
    sequence: int


class Outgoing(NamedTuple):
    """A message to be stored."""

    subject: str
    data: bytes | memoryview
    headers: Mapping[str, str] = {}
    guard: Guard | None = None


class Stored(NamedTuple):
    """The last sequence of a publish; `duplicate` when nothing was stored because the id is known."""

    sequence: int
    duplicate: bool = False


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """A message as the stream holds it."""

    subject: str
    sequence: int
    stored_at: datetime
    headers: Mapping[str, str]
    data: bytes

    @property
    def size(self) -> int:
        """Bytes it counts for."""
        return len(self.subject) + len(self.data) + sum(len(k) + len(v) for k, v in self.headers.items())


@dataclass
class MemoryStream:
    """A list of messages with the rules of a stream; every method is one indivisible step."""

    name: str
    subjects: tuple[str, ...]
    clock: Clock
    max_bytes: int | None = None
    last_per_subject: bool = False
    """Keep one message per subject, as a key-value bucket does."""
    work_queue: bool = False
    """An acknowledged message is removed."""
    on_stored: list[Callable[[StoredMessage], None]] = field(default_factory=list)
    """Called with every message right after it is stored, in order."""
    last_sequence: int = 0
    bytes: int = 0

    def __post_init__(self) -> None:
        self._messages: dict[int, StoredMessage] = {}
        self._groups: dict[tuple[str, ...], dict[str, list[int]]] = {}
        self._ids: dict[str, tuple[int, datetime]] = {}
        self._wakers: set[asyncio.Event] = set()

    # writing

    def publish(self, messages: Sequence[Outgoing]) -> Stored:
        """Store `messages` all or none; guards see the stream as it is before the first of them.

        Raises:
            VersionConflict: a guard does not hold.
            StoreFull: the byte limit would be passed.
        """
        now = self.clock.now()
        for message in messages:
            if message.guard is not None:
                self._check(message.guard)
        known = [entry for entry in map(self._known, messages) if entry is not None]
        if known:
            return Stored(known[-1], duplicate=True)
        made = [
            StoredMessage(m.subject, self.last_sequence + i, now, dict(m.headers), bytes(m.data))
            for i, m in enumerate(messages, 1)
        ]
        size = sum(message.size for message in made)
        if self.max_bytes is not None and self.bytes + size > self.max_bytes:
            raise StoreFull(
                f"stream {self.name} is full ({self.bytes} of {self.max_bytes} bytes): make room in it",
                stream=self.name,
            )
        for one in made:
            self._store(one)
        self.wake()
        return Stored(self.last_sequence)

    def remove(self, sequences: Iterable[int]) -> int:
        """Delete the messages at `sequences`; returns how many there were."""
        gone = [self._messages.pop(s) for s in list(sequences) if s in self._messages]
        for message in gone:
            self._indexed(message.subject).remove(message.sequence)
            self.bytes -= message.size
        return len(gone)

    # reading

    def get(self, sequence: int) -> StoredMessage | None:
        """Return the message at `sequence`, None when there is none."""
        return self._messages.get(sequence)

    def last(self, filter: str) -> StoredMessage | None:
        """Return the newest message whose subject fits `filter`."""
        newest = max((index[-1] for index in self._matching([filter])), default=0)
        return self._messages.get(newest)

    def select(self, filters: Sequence[str] = (), *, after: int = 0, upto: int | None = None) -> list[int]:
        """Return the sequences behind `after`, up to `upto`, that fit a filter (none: all), in order."""
        found: list[int] = []
        for index in self._matching(filters or [">"]):
            found += index[bisect_right(index, after) :]
        found.sort()
        return found if upto is None else found[: bisect_right(found, upto)]

    def messages(self, filter: str = ">", *, after: int = 0) -> list[StoredMessage]:
        """Return the messages that fit `filter`, in order."""
        return [self._messages[sequence] for sequence in self.select([filter], after=after)]

    # waiting

    def due(self) -> datetime | None:
        """Return when the stream changes by itself next; a plain stream never does."""
        return None

    def refresh(self) -> None:
        """Let happen what is due by now; nothing on a plain stream."""

    def watch(self, event: asyncio.Event) -> None:
        """Set `event` at every change until `unwatch`."""
        self._wakers.add(event)

    def unwatch(self, event: asyncio.Event) -> None:
        """Stop setting `event`."""
        self._wakers.discard(event)

    def wake(self) -> None:
        """Set every watching event."""
        for event in self._wakers:
            event.set()

    def _check(self, guard: Guard) -> None:
        last = self.last(guard.filter)
        actual = 0 if last is None else last.sequence
        if actual != guard.sequence:
            raise VersionConflict(
                f"{guard.filter} is at {actual}, not at {guard.sequence}: read it again",
                expected=guard.sequence,
                actual=actual,
            )

    def _known(self, message: Outgoing) -> int | None:
        entry = self._ids.get(message.headers.get(MSG_ID, ""))
        if entry is None or self.clock.now() - entry[1] > timedelta(seconds=DEDUPE_WINDOW_S):
            return None
        return entry[0]

    def _store(self, message: StoredMessage) -> None:
        index = self._indexed(message.subject)
        if self.last_per_subject:
            self.remove(list(index))
        self.last_sequence = message.sequence
        self._messages[message.sequence] = message
        index.append(message.sequence)
        self.bytes += message.size
        if MSG_ID in message.headers:
            self._ids[message.headers[MSG_ID]] = (message.sequence, message.stored_at)
        for call in self.on_stored:
            call(message)

    def _indexed(self, subject: str) -> list[int]:
        tokens = tuple(subject.split(".", _GROUP_TOKENS)[:_GROUP_TOKENS])
        return self._groups.setdefault(tokens, {}).setdefault(subject, [])

    def _matching(self, filters: Sequence[str]) -> list[list[int]]:
        found: dict[str, list[int]] = {}
        for filter in filters:
            tokens = tuple(filter.split(".", _GROUP_TOKENS)[:_GROUP_TOKENS])
            literal = len(tokens) == _GROUP_TOKENS and not {"*", ">"} & set(tokens)
            groups = [self._groups.get(tokens, {})] if literal else list(self._groups.values())
            for group in groups:
                found.update((s, index) for s, index in group.items() if index and matches(filter, s))
        return list(found.values())


def check_size(message: Outgoing, limit: int) -> None:
    """Refuse a message the server would not take.

    Raises:
        ContractError: body and headers together are over `limit` bytes.
    """
    size = len(message.data) + sum(len(k) + len(v) + 4 for k, v in message.headers.items())
    if size > limit:
        raise ContractError(
            f"the message on {message.subject} has {size} bytes, at most {limit} are taken", field="body"
        )
