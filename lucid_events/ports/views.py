"""Small values with compare-and-set."""

from collections.abc import AsyncIterator, Sequence
from typing import Protocol


class KeyValue(Protocol):
    """One bucket of small values with compare-and-set."""

    async def get(self, key: str) -> tuple[bytes, int] | None:
        """Return (value, revision), None when absent or deleted; may be a replica's answer."""
        ...

    async def put(self, key: str, value: bytes, *, revision: int | None = None) -> int:
        """Write, guarded by `revision` (0 = must be absent, None = unguarded); returns the new revision.

        Raises:
            VersionConflict: the key is at another revision.
        """
        ...

    async def put_many(self, entries: Sequence[tuple[str, bytes | None, int | None]]) -> int:
        """Write (key, value or None to delete, revision or None) all or none; returns the last revision.

        1 to 1000 entries, of different keys; they get consecutive revisions in their order.
        """
        ...

    def scan(
        self, pattern: str, *, after: int = 0, limit: int = 100
    ) -> AsyncIterator[tuple[str, bytes, int]]:
        """Yield up to `limit` live (key, value, revision) behind revision `after`, oldest write first.

        `pattern` is a key or has NATS wildcards.
        """
        ...
