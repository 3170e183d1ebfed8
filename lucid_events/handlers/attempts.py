"""What went before with a message: failures of ours, and workers that died on it.

The server counts deliveries, whatever the reason; a day of full disks would look like a poisoned
message. So attempts that end in order are told from attempts that end with their process: an
attempt is noted when it begins, and the note is taken back when it ends in order.
"""

from contextlib import suppress

import msgspec

from lucid_events import codec
from lucid_events.errors import LucidError
from lucid_events.ports import KeyValue

MAX_KNOWN = 10_000
"""Records one process keeps, 1 MB: more troubled messages than that at once is an outage, where
none of them is at fault."""


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """`begun` attempts that have not ended in order, and own `failures`."""

    begun: int = 0
    failures: int = 0


class Attempts:
    """The records of one consumer's troubled messages, shared by its processes through `notes`.

    A first delivery writes nothing, so a message without trouble costs nothing. Notes are best
    effort: without them (None, or the bucket can't be reached) this process counts alone, and a
    message it has never seen counts one death for every earlier delivery.
    """

    def __init__(self, consumer: str, notes: KeyValue | None = None) -> None:
        self._consumer, self._notes = consumer, notes
        self._known: dict[int, Record] = {}

    async def begin(self, sequence: int, attempt: int) -> int:
        """Note that an attempt begins; returns how many before it died."""
        if attempt <= 1 and sequence not in self._known:
            return 0
        record = await self._load(sequence)
        if record is None:
            # Every attempt that ends in order leaves a record, so the first one did not.
            record = Record(begun=1 if self._notes else attempt - 1)
        await self._save(sequence, msgspec.structs.replace(record, begun=record.begun + 1))
        return record.begun

    async def end(self, sequence: int, attempt: int, *, failed: bool) -> int:
        """Note that the attempt ended in order and will be repeated; returns the own failures so far."""
        record = self._known.get(sequence, Record(begun=1))
        failures = record.failures + failed
        await self._save(sequence, Record(begun=max(0, record.begun - 1), failures=failures))
        return failures

    async def forget(self, sequence: int) -> None:
        """Drop the record: the message will not come again."""
        if self._known.pop(sequence, None) is not None and self._notes is not None:
            with suppress(LucidError):
                await self._notes.put_many([(self._key(sequence), None, None)])

    def leave(self, sequence: int) -> None:
        """Forget this process's copy: the message may come again elsewhere."""
        if self._notes is not None:
            self._known.pop(sequence, None)

    async def _load(self, sequence: int) -> Record | None:
        if self._notes is not None:
            with suppress(LucidError):
                found = await self._notes.get(self._key(sequence))
                if found is not None:
                    return codec.decode(found[0], Record)
        return self._known.get(sequence)

    async def _save(self, sequence: int, record: Record) -> None:
        self._known[sequence] = record
        if len(self._known) > MAX_KNOWN:
            del self._known[next(iter(self._known))]
        if self._notes is not None:
            with suppress(LucidError):
                await self._notes.put(self._key(sequence), codec.encode(record))

    def _key(self, sequence: int) -> str:
        return f"attempts.{self._consumer}.{sequence}"
