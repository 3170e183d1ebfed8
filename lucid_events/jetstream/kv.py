"""Small values with compare-and-set: a key-value bucket as NATS ADR-8 lays it out.

A value is the last message on `$KV.<bucket>.<key>`, its revision the stream sequence; a message
with `KV-Operation` marks a deleted key. Any client's KV calls read what is written here.
"""

import re
from collections.abc import AsyncIterator, Sequence
from typing import Final

from lucid_events.errors import ContractError, VersionConflict
from lucid_events.jetstream.batch import BatchMessage, publish_batch
from lucid_events.jetstream.connection import Connection, StoredMessage
from lucid_events.jetstream.faults import WRONG_SEQUENCE
from lucid_events.subjects import kv_key, kv_stream

OPERATION: Final = "KV-Operation"
DELETED: Final = "DEL"
EXPECTED: Final = "Nats-Expected-Last-Subject-Sequence"
PAGE: Final = 256
"""Keys read at a time; values are small, so a page stays far below the limit of a direct get."""

_key = re.compile(r"[-/_=.A-Za-z0-9]+", re.ASCII)

Entry = tuple[str, bytes | None, int | None]


class JetStreamKeyValue:
    """One bucket, which must exist."""

    def __init__(self, connection: Connection, bucket: str) -> None:
        self.bucket = bucket
        self._connection = connection
        self._stream = kv_stream(bucket)
        self._prefix = len(kv_key(bucket, ""))

    async def get(self, key: str) -> tuple[bytes, int] | None:
        """Return (value, revision), None when absent or deleted; may be a replica's answer.

        Raises:
            StoreUnavailable: the bucket could not be asked.
        """
        found = await self._connection.direct_last(self._stream, self._subject(key))
        return None if found is None or OPERATION in found.headers else (found.data, found.sequence)

    async def put(self, key: str, value: bytes, *, revision: int | None = None) -> int:
        """Write, guarded by `revision` (0 = must be absent, None = unguarded); returns the new revision.

        Raises:
            VersionConflict: the key is at another revision.
            StoreUnavailable: nothing was written.
            AppendUncertain: no reply; read before writing again.
        """
        return await self.put_many([(key, value, revision)])

    async def put_many(self, entries: Sequence[Entry]) -> int:
        """Write (key, value or None to delete, revision or None) all or none; returns the last revision.

        Raises as `put` does.
        """
        try:
            return await self._write(entries)
        except VersionConflict as exc:
            if exc.fields.get("err_code") not in WRONG_SEQUENCE:
                raise
            # A deleted key is absent, but its marker has a sequence, which the guard must name.
            settled = [await self._over_marker(entry) for entry in entries]
            if settled == list(entries):
                raise
        return await self._write(settled)

    async def scan(
        self, pattern: str, *, after: int = 0, limit: int = 100
    ) -> AsyncIterator[tuple[str, bytes, int]]:
        """Yield up to `limit` live (key, value, revision) whose key matches, oldest write first.

        A key written meanwhile comes with its new value, behind the others.

        Raises:
            StoreUnavailable: the bucket could not be asked.
        """
        subject = kv_key(self.bucket, pattern)
        sequence = after + 1
        while limit > 0:
            page = await self._connection.direct_get(
                self._stream, {"seq": sequence, "next_by_subj": subject, "batch": min(PAGE, limit)}
            )
            for message in page:
                if OPERATION not in message.headers:
                    yield message.subject[self._prefix :], message.data, message.sequence
                    limit -= 1
            if page.pending == 0 or not len(page):
                return
            sequence = page.last_sequence + 1

    async def _write(self, entries: Sequence[Entry]) -> int:
        messages = [self._message(*entry) for entry in entries]
        if len(messages) == 1:
            subject, data, headers = messages[0]
            return (await self._connection.publish_acked(subject, data, headers=headers)).sequence
        _, last = await publish_batch(self._connection, messages)
        return last

    def _message(self, key: str, value: bytes | None, revision: int | None) -> BatchMessage:
        headers: dict[str, str] = {}
        if value is None:
            headers[OPERATION] = DELETED
        if revision is not None:
            headers[EXPECTED] = str(revision)
        return BatchMessage(self._subject(key), value or b"", headers)

    async def _over_marker(self, entry: Entry) -> Entry:
        key, value, revision = entry
        if revision != 0:
            return entry
        found: StoredMessage | None = await self._connection.leader_get(
            self._stream, last_by_subj=self._subject(key)
        )
        return (key, value, found.sequence) if found is not None and OPERATION in found.headers else entry

    def _subject(self, key: str) -> str:
        if _key.fullmatch(key) is None or key.startswith(".") or key.endswith(".") or ".." in key:
            raise ContractError(f"key {key[:60]!r} is not valid: use A-Z a-z 0-9 - / _ = .", field="key")
        return kv_key(self.bucket, key)
