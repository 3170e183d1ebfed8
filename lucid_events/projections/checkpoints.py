"""The highest position of the log anyone has seen, so that a log that was cut back is noticed.

A store restored from an old copy hands out sequences a second time; histories, views and objects
made from the first ones would mix with the second. Writing stops until an operator has looked
and raised the incarnation.
"""

from collections.abc import Awaitable, Callable

from lucid_events import codec
from lucid_events.domain.values import Fact
from lucid_events.errors import IntegrityError, VersionConflict
from lucid_events.ports import KeyValue, Position

ATTEMPTS = 8
"""Tries against other writers of one checkpoint; who loses finds a higher one."""


class Checkpoint(Fact, frozen=True, kw_only=True):
    """The highest sequence seen in an incarnation of the log."""

    incarnation: int
    sequence: int


class Checkpoints:
    """The checkpoint of the log `stream` in its `incarnation`, kept in the bucket of metadata."""

    def __init__(self, meta: KeyValue, stream: str, incarnation: int) -> None:
        self._meta, self._stream, self._incarnation = meta, stream, incarnation
        self._key = f"checkpoint.{stream}"
        self._highest = 0

    async def check(self, last: Callable[[], Awaitable[Position]]) -> None:
        """Compare where the log ends with the checkpoint; to be called on every connect.

        Args:
            last: asks for the log's last position. It is asked behind the checkpoint: the other way
                round, what others store and note in between would look like a log that was cut back.

        Raises:
            IntegrityError: the log ends below the checkpoint, or is an older incarnation.
            StoreUnavailable: the checkpoint or the log could not be read.
        """
        found = await self._read()
        if found is None:
            return
        kept, _ = found
        position = await last()
        self._refuse_older(position.incarnation, kept)
        if position.incarnation == kept.incarnation and position.sequence < kept.sequence:
            raise IntegrityError(
                f"{self._stream} ends at {position.sequence}, {kept.sequence} was seen before: it was cut "
                f"back and would use sequences again; restore it, or raise its incarnation above "
                f"{kept.incarnation} and rebuild the views",
                stream=self._stream,
                expected=kept.sequence,
                actual=position.sequence,
            )

    def _refuse_older(self, incarnation: int, kept: Checkpoint) -> None:
        if incarnation < kept.incarnation:
            raise IntegrityError(
                f"{self._stream} is incarnation {incarnation}, the checkpoint is of "
                f"{kept.incarnation}: this is an older log; connect to the right one",
                stream=self._stream,
                expected=kept.incarnation,
                actual=incarnation,
            )

    async def note(self, sequence: int) -> None:
        """Raise the checkpoint to `sequence`; a lower one changes nothing.

        Raises:
            IntegrityError: the checkpoint is of a later incarnation.
            StoreUnavailable, AppendUncertain, VersionConflict: not noted; note again later.
        """
        if sequence <= self._highest:
            return
        for _ in range(ATTEMPTS):
            found = await self._read()
            kept, revision = found or (Checkpoint(incarnation=0, sequence=0), 0)
            self._refuse_older(self._incarnation, kept)
            if (kept.incarnation, kept.sequence) >= (self._incarnation, sequence):
                self._highest = kept.sequence
                return
            raised = Checkpoint(incarnation=self._incarnation, sequence=sequence)
            try:
                await self._meta.put(self._key, codec.encode(raised), revision=revision)
            except VersionConflict:
                continue
            self._highest = sequence
            return
        raise VersionConflict(
            f"the checkpoint of {self._stream} was written by others {ATTEMPTS} times in a row",
            stream=self._stream,
        )

    async def _read(self) -> tuple[Checkpoint, int] | None:
        found = await self._meta.get(self._key)
        return None if found is None else (codec.decode(found[0], Checkpoint), found[1])
