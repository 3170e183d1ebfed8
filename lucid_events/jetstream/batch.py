"""Atomic batches (NATS ADR-50): several messages stored all or none, at the price of one fsync.

All but the last go out without waiting, the last one commits and is answered; guards in the
headers are checked at the commit against the state before the batch.
"""

import secrets
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from lucid_events.errors import AppendUncertain, ContractError
from lucid_events.jetstream.connection import Connection
from lucid_events.jetstream.replies import read_ack

MAX_BATCH: Final = 1000
"""Messages the server takes in one batch (error 10199 beyond)."""

BATCH_ID, BATCH_SEQUENCE, BATCH_COMMIT = "Nats-Batch-Id", "Nats-Batch-Sequence", "Nats-Batch-Commit"
"""Headers of a batch: they stay on the stored messages and mean nothing there."""


class BatchMessage(NamedTuple):
    """One message of a batch."""

    subject: str
    data: bytes
    headers: Mapping[str, str] | None = None


async def publish_batch(
    connection: Connection, messages: Sequence[BatchMessage], *, timeout_s: float | None = None
) -> tuple[int, int]:
    """Store `messages` of one stream in order and without a gap, all of them or none.

    Does not retry: each attempt is a batch of its own, so a retry is safe only under a guard.

    Args:
        connection: where to.
        messages: 1 to `MAX_BATCH`; all subjects must belong to one stream that allows batches.
        timeout_s: how long to wait for the answer to the commit.

    Returns:
        The sequences of the first and the last message.

    Raises:
        VersionConflict: a guard does not hold; nothing was written.
        StoreUnavailable: nothing was written (no leader; too many batches open, 10210; a part was
            refused or lost, 10176).
        AppendUncertain: no answer, or one of the ids is stored already (10201), most likely by an
            earlier attempt: read before anything else.
        ContractError: too many messages, or one is too large.
    """
    if not 1 <= len(messages) <= MAX_BATCH:
        raise ContractError(f"a batch of {len(messages)} messages: send 1 to {MAX_BATCH}", field="messages")
    batch = secrets.token_hex(11)
    *early, last = messages
    for number, (subject, data, headers) in enumerate(early, 1):
        connection.publish(
            subject, data, headers={**(headers or {}), BATCH_ID: batch, BATCH_SEQUENCE: str(number)}
        )
    subject, data, headers = last
    commit = {BATCH_ID: batch, BATCH_SEQUENCE: str(len(messages)), BATCH_COMMIT: "1"}
    reply = await connection.call(subject, data, headers={**(headers or {}), **commit}, timeout_s=timeout_s)
    ack = read_ack(subject, reply)
    if ack.count != len(messages):
        # A server that does not know batches stores the last message alone and says so like this.
        raise AppendUncertain(
            f"batch on {subject}: {len(messages)} messages sent, {ack.count} acknowledged: read first",
            stream=ack.stream,
            sequence=ack.sequence,
        )
    return ack.sequence - ack.count + 1, ack.sequence
