"""What stands in the log of one append."""

from collections.abc import Sequence

from lucid_events.domain.envelope import Recorded, Stray
from lucid_events.domain.ids import NO_DIGEST, Digest, SessionId, Version
from lucid_events.jetstream.batch import BATCH_ID
from lucid_events.jetstream.connection import Connection, StoredMessage
from lucid_events.jetstream.pages import pages
from lucid_events.ports import Appended
from lucid_events.stored import read_message


def decode(message: StoredMessage, digest: Digest | None = None) -> Recorded | Stray:
    """Return the event in a stored message, or the stray that it is; see `read_message`."""
    return read_message(message, SessionId(message.subject.split(".", 3)[2]), digest)


def appended(messages: Sequence[StoredMessage], digests: Sequence[Digest] = ()) -> Appended:
    """Return what an append stored, from its messages, and their digests as far as they are known."""
    decoded = map(decode, messages, digests) if digests else map(decode, messages)
    recorded = tuple(one for one in decoded if isinstance(one, Recorded))
    head = recorded[-1].digest if recorded else NO_DIGEST
    return Appended(Version(messages[-1].sequence), head, recorded)


async def run_of(
    connection: Connection, stream: str, history: str, first: StoredMessage
) -> tuple[StoredMessage, ...]:
    """Return `first` and the messages of `history` stored in the same atomic batch.

    A batch stands side by side in the stream and its headers stay on the messages, so what an
    earlier attempt left is known even if that attempt was about more or fewer events.
    """
    batch = first.headers.get(BATCH_ID)
    if batch is None:
        return (first,)
    last = await connection.leader_get(stream, last_by_subj=history)
    known = first.sequence if last is None else last.sequence
    run = [first]
    async for page in pages(connection, stream, history, first=first.sequence + 1, known=known):
        for message in page:
            if message.headers.get(BATCH_ID) != batch:
                return tuple(run)
            run.append(message)
    return tuple(run)


def fits(filter_: str, subject: str) -> bool:
    """Return whether `subject` matches a filter with NATS wildcards."""
    wanted, tokens = filter_.split("."), subject.split(".")
    for place, wildcard in enumerate(wanted):
        if wildcard == ">":
            return len(tokens) > place
        if place >= len(tokens) or wildcard not in ("*", tokens[place]):
            return False
    return len(wanted) == len(tokens)
