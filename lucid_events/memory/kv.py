"""A bucket of small values with compare-and-set, in memory; a revision is a stream sequence."""

import re
from collections.abc import AsyncIterator, Sequence

from lucid_events.errors import ContractError, VersionConflict
from lucid_events.memory.server import MemoryServer
from lucid_events.memory.stream import Guard, MemoryStream, Outgoing, StoredMessage
from lucid_events.subjects import kv_key

OPERATION = "KV-Operation"

_key = re.compile(r"[-/_=A-Za-z0-9]+(\.[-/_=A-Za-z0-9]+)*", re.ASCII)


class MemoryKeyValue:
    """One key-value bucket of a `MemoryServer`; made when it is first named."""

    def __init__(self, server: MemoryServer, bucket: str) -> None:
        self.bucket = bucket
        self._server = server
        self._stream: MemoryStream = server.add_bucket(bucket)

    async def get(self, key: str) -> tuple[bytes, int] | None:
        """Return (value, revision), None when absent or deleted."""
        await self._server.faults.reach("read")
        last = self._stream.last(self._subject(key))
        return None if last is None or _deleted(last) else (last.data, last.sequence)

    async def put(self, key: str, value: bytes, *, revision: int | None = None) -> int:
        """Write, guarded by `revision`; returns the new one. See `KeyValue.put`."""
        return await self.put_many([(key, value, revision)])

    async def put_many(self, entries: Sequence[tuple[str, bytes | None, int | None]]) -> int:
        """Write (key, value or None to delete, revision or None) all or none; returns the last revision."""
        await self._server.faults.reach("kv")
        return self._stream.publish([self._outgoing(*entry) for entry in entries]).sequence

    async def scan(
        self, pattern: str, *, after: int = 0, limit: int = 100
    ) -> AsyncIterator[tuple[str, bytes, int]]:
        """Yield up to `limit` live (key, value, revision) whose key matches `pattern`, oldest write first."""
        await self._server.faults.reach("read")
        live = [
            m for m in self._stream.messages(kv_key(self.bucket, pattern), after=after) if not _deleted(m)
        ]
        for message in live[:limit]:
            yield message.subject.removeprefix(kv_key(self.bucket, "")), message.data, message.sequence

    def _outgoing(self, key: str, value: bytes | None, revision: int | None) -> Outgoing:
        subject = self._subject(key)
        headers = {OPERATION: "DEL"} if value is None else {}
        if revision is None:
            return Outgoing(subject, value or b"", headers)
        last = self._stream.last(subject)
        at = 0 if last is None else last.sequence
        if revision == 0 and last is not None and _deleted(last):
            revision = at  # deleted counts as absent
        if revision != at:
            raise VersionConflict(
                f"{key} of {self.bucket} is at revision {at}, not at {revision}: read it again",
                key=key,
                expected=revision,
                actual=at,
            )
        return Outgoing(subject, value or b"", headers, Guard(subject, at))

    def _subject(self, key: str) -> str:
        if _key.fullmatch(key) is None:
            raise ContractError(f"key {key[:60]!r} is not valid: use A-Z a-z 0-9 - / _ = .", field="key")
        return kv_key(self.bucket, key)


def _deleted(message: StoredMessage) -> bool:
    return OPERATION in message.headers
