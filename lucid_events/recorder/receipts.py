"""What became of each sealed chunk: the digest made at the source against the one in the history."""

from collections.abc import Callable

import msgspec

from lucid_events.domain import events as ev
from lucid_events.errors import IntegrityError
from lucid_events.recorder.waiting import Signal


class Expected(msgspec.Struct, frozen=True):
    """A chunk this recorder sealed."""

    offset: int
    size: int
    sha256: str


class Receipts:
    """Keeps the sealed chunks that are not confirmed yet, and adds up those that are.

    Args:
        on_ready: called with the offset below which everything this recorder sealed is stored.
    """

    def __init__(self, on_ready: Callable[[int], None], moved: Signal) -> None:
        self._on_ready, self._moved = on_ready, moved
        self._open: dict[int, Expected] = {}
        self._early: dict[int, ev.ChunkReady | ev.ChunkFailed] = {}
        self._upto, self._last = 0, -1
        self.chunks = self.raw_bytes = self.stored_bytes = 0
        self.failed: dict[int, str] = {}

    @property
    def waiting(self) -> tuple[int, ...]:
        """Indices sealed and neither ready nor failed."""
        return tuple(self._open)

    def expect(self, index: int, offset: int, size: int, sha256: str) -> None:
        """Wait for chunk `index`, which was sealed with these facts."""
        self._open[index] = Expected(offset, size, sha256)
        self._upto, self._last = offset + size, index
        early = self._early.pop(index, None)
        # Chunks are sealed one at a time, so whatever else was kept belongs to another recorder.
        self._early = {i: event for i, event in self._early.items() if i > index}
        if early is not None:
            self.note(early)

    def note(self, event: ev.SessionEvent) -> None:
        """Take an event of the session's history in; repeats change nothing.

        Raises:
            IntegrityError: a chunk became ready with other bytes than were sealed.
        """
        if not isinstance(event, ev.ChunkReady | ev.ChunkFailed):
            return
        expected = self._open.get(event.index)
        if expected is None:
            if isinstance(event, ev.ChunkReady) and self.failed.pop(event.index, None) is not None:
                self._count(event)
            elif event.index > self._last:
                self._early[event.index] = event  # the live feed may be ahead of the reply to the seal
                while len(self._early) > _MOST_EARLY:
                    del self._early[min(self._early)]
            return
        if isinstance(event, ev.ChunkFailed):
            self.failed[event.index] = f"{event.code}: {event.reason}"
        else:
            if (event.offset, event.size, event.sha256) != (expected.offset, expected.size, expected.sha256):
                raise IntegrityError(
                    f"chunk {event.index} is stored with SHA-256 {event.sha256}, "
                    f"was read with {expected.sha256}: keep the source, delete nothing, verify the session",
                    index=event.index,
                )
            self._count(event)
        del self._open[event.index]
        self._release()
        self._moved.notify()

    def ready_below(self, index: int) -> None:
        """Take in that the service says every chunk below `index` is ready, where its events may not be read.

        Their sizes are in no total: only an event tells them.
        """
        for done in [*self._open, *self.failed]:
            if done < index:
                self._open.pop(done, None)
                self.failed.pop(done, None)
                self.chunks += 1
                self._release()
                self._moved.notify()

    def _count(self, event: ev.ChunkReady) -> None:
        self.chunks += 1
        self.raw_bytes += event.size
        self.stored_bytes += event.stored_size

    def _release(self) -> None:
        if not self.failed:
            self._on_ready(min((e.offset for e in self._open.values()), default=self._upto))


_MOST_EARLY = 64
"""Confirmations kept ahead of the reply to their seal; in practice one."""
