"""One append as bytes: encoded, chained and guarded once, then sent as often as it takes.

    first message    Nats-Expected-Last-Subject-Sequence: <version>
                     Nats-Expected-Last-Subject-Sequence-Subject: <the history's filter>
    more than one    an atomic batch: its headers stay on the stored messages and say where it ends

Whether an attempt that was not acknowledged landed is not known here; `store.py` settles that.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final, Protocol

import msgspec

from lucid_events import codec
from lucid_events.domain.envelope import NewEvent
from lucid_events.domain.ids import Digest, SessionId, Version
from lucid_events.errors import ContractError
from lucid_events.evidence import chain
from lucid_events.jetstream.batch import MAX_BATCH, BatchMessage, publish_batch
from lucid_events.jetstream.connection import Connection, StoredMessage
from lucid_events.subjects import Subjects

MAX_EVENTS: Final = MAX_BATCH
"""Events of one append: what fits one atomic batch."""

EXPECTED: Final = "Nats-Expected-Last-Subject-Sequence"
EXPECTED_SUBJECT: Final = "Nats-Expected-Last-Subject-Sequence-Subject"


HEADER_BYTES: Final = 700
"""About what the headers of one event take."""


class Draft(msgspec.Struct, frozen=True):
    """An append ready to send: the same bytes at every attempt.

    `history` is the filter its guard holds on, `first_id` the id its first event is known by, `digests`
    what the chain goes on from behind each message.
    """

    session: SessionId
    history: str
    expected: Version
    first_id: str
    messages: tuple[BatchMessage, ...]
    digests: tuple[Digest, ...]

    @property
    def size(self) -> int:
        """About how many bytes go over the wire."""
        return sum(len(data) + HEADER_BYTES for _, data, _ in self.messages)

    def without_ids(self) -> "Draft":
        """Return the draft without message ids, for when the server mistakes it for another's.

        The guard alone keeps it from being stored twice.
        """
        bare = tuple(
            message._replace(headers={k: v for k, v in (message.headers or {}).items() if k != codec.MSG_ID})
            for message in self.messages
        )
        return msgspec.structs.replace(self, messages=bare)


class Landed(msgspec.Struct, frozen=True):
    """What the server says about a draft: the sequence of its first message.

    With `duplicate` nothing was stored now.
    """

    first: int
    duplicate: bool = False


class Writer(Protocol):
    """Sends drafts."""

    async def write(self, draft: Draft, *, timeout_s: float) -> Landed:
        """Send `draft` once and return where it went.

        Raises:
            VersionConflict: its guard does not hold.
            AppendUncertain: it may have been stored.
            StoreUnavailable: nothing was stored.
        """
        ...


def draft(
    subjects: Subjects,
    session: SessionId,
    events: Sequence[NewEvent],
    *,
    expected: Version,
    head: Digest,
) -> Draft:
    """Return the append of `events` behind version `expected`, chained from digest `head`.

    Raises:
        ContractError: no events or too many, one of another session, or one that is too large.
    """
    if not 1 <= len(events) <= MAX_EVENTS:
        raise ContractError(f"an append takes 1 to {MAX_EVENTS} events, not {len(events)}", session=session)
    history = subjects.history(session)
    messages: list[BatchMessage] = []
    digests: list[Digest] = []
    for event in events:
        if event.session != session:
            raise ContractError(
                f"an append to {session} holds an event of {event.session}: append to one history at a time",
                session=session,
            )
        headers, body = codec.encode_event(event, head)
        subject = subjects.event(session, event.event.type)
        head = chain.digest(subject, headers, body)
        digests.append(head)
        if not messages:
            headers |= {EXPECTED: str(int(expected)), EXPECTED_SUBJECT: history}
        messages.append(BatchMessage(subject, body, headers))
    return Draft(session, history, expected, events[0].id, tuple(messages), tuple(digests))


def as_sent(draft: Draft, first: int) -> tuple[StoredMessage, ...]:
    """Return the messages of a draft that was acknowledged, and not as a duplicate, at sequence `first`.

    Under its guard nothing else can be there, so they need not be read back; only the server's
    time is not known, and the time of the acknowledgement stands for it.
    """
    now = datetime.now(UTC)
    return tuple(
        StoredMessage(subject, sequence, now, headers or {}, data)
        for sequence, (subject, data, headers) in enumerate(draft.messages, first)
    )


class SingleWriter:
    """Sends each draft on its own: one event as a publish, more as an atomic batch."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def write(self, draft: Draft, *, timeout_s: float) -> Landed:
        """Send `draft`; see `Writer.write`."""
        if len(draft.messages) == 1:
            ((subject, data, headers),) = draft.messages
            ack = await self._connection.publish_acked(subject, data, headers=headers, timeout_s=timeout_s)
            return Landed(ack.sequence, duplicate=ack.duplicate)
        first, _ = await publish_batch(self._connection, draft.messages, timeout_s=timeout_s)
        return Landed(first)
