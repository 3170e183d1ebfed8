"""Bytes of one session on the local disk, while the server does not take them.

A folder holds, per session, a lock and segments named by the offset they begin at:

    <session>.lock                           its content: the epoch of the recorder that left the segments
    <session>.<offset, 20 digits>.spool      a segment: frames, as `spool_frames.py` draws them

Within a segment each frame begins where the one before ended. A torn or damaged frame ends its
segment: what is behind it counts as not written. Segments are deleted whole, once released.
"""

import asyncio
import logging
import math
import os
import re
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from lucid_events.domain.ids import SessionId
from lucid_events.errors import ConfigError, IntegrityError
from lucid_events.recorder.spool_files import locked, make_folder, noted, sync_folder, write_note
from lucid_events.recorder.spool_frames import HEAD_BYTES, MAGIC, Frame, frames, head_of

SEGMENT_BYTES = 8 * 1024 * 1024
"""Unit of deletion. Half doubles the files, twice holds more of a small limit back."""
FSYNC_INTERVAL_S = 1.0
"""Between fsyncs under `interval`; half doubles them, twice loses twice as much with the host."""

Fsync = Literal["never", "interval", "always"]

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Segment:
    path: Path
    start: int
    end: int
    size: int


class Spool:
    """The spool of one session; one process at a time has it open.

    Blocking, and safe to call from several threads: call it from one where a disk may be slow.

    Args:
        folder: where the files are; made when missing.
        max_bytes: most bytes on disk; `append` takes nothing beyond.
        fsync: `always` after each append, `never` leaves it to the system; `interval` with an append a
            second after the last fsync, or with the `sync` that is called when `sync_due_s` has passed:
            a spool has no clock of its own. Against a killed process all three are safe, against a
            crashed host the first is, and the last but for what was appended within that second.
        always: spool every byte before it is sent, not only under pressure.

    Attributes:
        epoch: of the recorder that left what is held; 0 when that is not known.

    Raises:
        ConfigError: the folder can't be used, or another process has this session's spool open.
    """

    def __init__(
        self,
        folder: Path,
        session: SessionId,
        *,
        max_bytes: int,
        fsync: Fsync = "interval",
        always: bool = False,
        segment_bytes: int = SEGMENT_BYTES,
    ) -> None:
        self.folder, self.session, self.max_bytes, self.always = folder, session, max_bytes, always
        self._fsync, self._segment_bytes = fsync, segment_bytes
        self._synced_at = 0.0
        self._unsynced = False
        self._complained = ""
        self._fd: int | None = None
        self._cursor: tuple[Path, int] | None = None
        self._turn = threading.Lock()
        try:
            make_folder(folder, durably=fsync != "never")
            self._lock = locked(folder / f"{session}.lock")
            try:
                self.epoch = noted(self._lock)
                self._segments = self._scan()
            except BaseException:
                os.close(self._lock)
                raise
        except BlockingIOError as exc:
            raise ConfigError(
                f"another process is recording {session} with the spool {folder}: stop it first",
                folder=str(folder),
            ) from exc
        except OSError as exc:
            raise ConfigError(
                f"the spool folder {folder} can't be used: {exc.strerror}", folder=str(folder)
            ) from exc

    @classmethod
    async def opened(cls, folder: Path, session: SessionId, *, max_bytes: int) -> Self:
        """Open it in a thread: what is in it is read whole, minutes for gigabytes, and beats must go on.

        Raises:
            ConfigError: as the constructor.
        """
        opening = asyncio.create_task(
            asyncio.to_thread(cls, folder, session, max_bytes=max_bytes), name=f"open the spool of {session}"
        )
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            # The thread goes on: what it opens has to be unlocked for whoever records the session next.
            opening.add_done_callback(_close_unwanted)
            raise

    @property
    def stored_bytes(self) -> int:
        """Bytes on disk."""
        return sum(segment.size for segment in self._segments)

    @property
    def start(self) -> int:
        """Offset of the first byte held; 0 when there is none."""
        return self._segments[0].start if self._segments else 0

    @property
    def end(self) -> int:
        """Offset behind the last byte held; 0 when there is none."""
        return self._segments[-1].end if self._segments else 0

    def covers(self, start: int) -> bool:
        """Return whether every byte from `start` to `end` is here."""
        at = start
        for segment in self._segments:
            if segment.start <= at < segment.end:
                at = segment.end
        return start < at == self.end

    def append(self, offset: int, data: bytes | memoryview) -> bool:
        """Write `data`, the bytes from `offset` on; False when disk or limit have no room for all of it.

        What fits below the limit is held, up to `end`; a disk that fails takes none of it. Bytes that
        are held already are not written again, so repeating it is harmless.
        """
        with self._turn:
            view = memoryview(data)
            if self._segments and offset < self.end:
                offset, view = self.end, view[self.end - offset :]
            fits = view[: self._room(offset)]
            return (not fits or self._write(offset, len(fits), fits)) and len(fits) == len(view)

    def append_gap(self, start: int, end: int) -> bool:
        """Write down that the bytes from `start` to `end` are missing; taken even beyond the limit."""
        with self._turn:
            return self._write(start, end - start, None)

    def note(self, epoch: int) -> None:
        """Write down that what is held is from now on that of `epoch`, whose recorder sends it."""
        with self._turn:
            self.epoch = epoch
            try:
                write_note(self._lock, epoch, durably=self._fsync != "never")
            except OSError as exc:
                self._complain(exc)

    def read(self, offset: int) -> Frame:
        """Return the frame that holds `offset`, cut to begin there; reading on in order is quick.

        Raises:
            IntegrityError: the byte is not here, or what is here is damaged.
        """
        with self._turn:
            segment = next((s for s in self._segments if s.start <= offset < s.end), None)
        if segment is None:
            raise IntegrityError(f"the spool of {self.session} does not hold byte {offset}", offset=offset)
        at = self._cursor[1] if self._cursor and self._cursor[0] == segment.path else len(MAGIC)
        for attempt_at in dict.fromkeys((at, len(MAGIC))):
            for frame, behind in frames(segment.path, attempt_at):
                if frame.offset > offset:
                    break  # the cursor was ahead: begin again
                if offset < frame.end:
                    self._cursor = (segment.path, behind)
                    skip = offset - frame.offset
                    data = frame.data[skip:] if frame.data is not None and skip else frame.data
                    return Frame(offset, frame.size - skip, data)
        raise IntegrityError(
            f"{segment.path.name} is damaged: byte {offset} was written and can't be read",
            path=str(segment.path),
        )

    def release(self, upto: int) -> None:
        """Delete the segments that hold nothing from offset `upto` on."""
        with self._turn:
            while self._segments and self._segments[0].end <= upto:
                if len(self._segments) == 1:
                    self._close_segment(sync=False)
                self._segments.pop(0).path.unlink(missing_ok=True)

    @property
    def sync_due_s(self) -> float | None:
        """Seconds until `sync` has to be called for what was appended; None while nothing waits for it."""
        if not self._unsynced or self._fsync != "interval":
            return None
        return max(0.0, self._synced_at + FSYNC_INTERVAL_S - time.monotonic())

    def sync(self) -> bool:
        """Return when everything appended is on the disk; False when the disk does not take it."""
        with self._turn:
            try:
                if self._fd is not None:  # those before it were synced when they were closed
                    self._fsync_now(self._fd)
            except OSError as exc:
                self._complain(exc)
                return False
            return True

    def close(self) -> None:
        """Sync, close, unlock; the files of what is not released stay for the next recorder."""
        with self._turn:
            try:
                self._close_segment()
            except OSError as exc:
                self._complain(exc)
            if self._lock >= 0:
                if not self._segments:
                    with suppress(OSError):
                        (self.folder / f"{self.session}.lock").unlink(missing_ok=True)
                os.close(self._lock)
                self._lock = -1

    def _write(self, offset: int, size: int, data: memoryview | None) -> bool:
        if self._lock < 0:
            return False  # closed: a thread that was still on its way comes too late
        length = 0 if data is None else size
        fd, segment = self._fd, self._segments[-1] if self._segments else None
        if fd is None or segment is None or self._begins(offset):
            try:
                fd, segment = self._new_segment(offset)
            except OSError as exc:
                self._complain(exc)
                return False
        try:
            _write_all(fd, head_of(offset, size, data))
            if data is not None:
                _write_all(fd, data)
            self._sync_in_time(fd)
        except OSError as exc:
            self._take_back(fd, segment)
            self._complain(exc)
            return False
        segment.size += HEAD_BYTES + length
        segment.end = offset + size
        self._complained = ""
        return True

    def _begins(self, offset: int) -> bool:
        """Return whether a frame at `offset` needs a segment of its own."""
        last = self._segments[-1] if self._segments else None
        return self._fd is None or last is None or last.end != offset or last.size >= self._segment_bytes

    def _room(self, offset: int) -> int:
        """Return how many bytes a frame at `offset` may hold below the limit."""
        heads = HEAD_BYTES + (len(MAGIC) if self._begins(offset) else 0)
        return max(0, self.max_bytes - self.stored_bytes - heads)

    def _sync_in_time(self, fd: int) -> None:
        self._unsynced = True
        due_s = {"always": 0.0, "interval": FSYNC_INTERVAL_S, "never": math.inf}[self._fsync]
        if time.monotonic() - self._synced_at >= due_s:
            self._fsync_now(fd)

    def _fsync_now(self, fd: int) -> None:
        self._synced_at = time.monotonic()  # a disk that fails is asked again after the interval, not at once
        os.fsync(fd)
        self._unsynced = False

    def _take_back(self, fd: int, segment: _Segment) -> None:
        """Cut off a frame that was refused; a segment that can't be cut gets no further one."""
        try:
            os.ftruncate(fd, segment.size)
            os.lseek(fd, segment.size, os.SEEK_SET)
        except OSError:
            with suppress(OSError):
                self._close_segment(sync=False)

    def _new_segment(self, offset: int) -> tuple[int, _Segment]:
        """Begin a segment; after an error there is no open one, and no file of this one.

        Raises:
            OSError: the disk does not take it, or does not take the end of the one before.
        """
        self._close_segment()
        path = self.folder / f"{self.session}.{offset:020d}.spool"
        self._segments = [s for s in self._segments if s.path != path]
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            _write_all(fd, MAGIC)
            if self._fsync != "never":
                sync_folder(self.folder)  # without its name a synced file is gone with the host
        except BaseException:
            with suppress(OSError):
                os.close(fd)
            with suppress(OSError):
                path.unlink()
            raise
        self._fd = fd
        self._segments.append(_Segment(path, offset, offset, len(MAGIC)))
        return fd, self._segments[-1]

    def _close_segment(self, *, sync: bool = True) -> None:
        fd, self._fd = self._fd, None
        if fd is None:
            return
        self._unsynced = False  # whatever comes of it, nobody can sync it later
        try:
            if sync and self._fsync != "never":
                os.fsync(fd)
        finally:
            os.close(fd)

    def _complain(self, exc: OSError) -> None:
        """Tell once of each trouble: whoever waits for room asks four times a second."""
        if self._complained != str(exc):
            self._complained = str(exc)
            _log.warning("the spool can't be written", extra={"session": self.session, "reason": str(exc)})

    def _scan(self) -> list[_Segment]:
        name = re.compile(re.escape(self.session) + r"\.(\d{20})\.spool")
        found: list[_Segment] = []
        for path in sorted(self.folder.iterdir()):
            match = name.fullmatch(path.name)
            if match is None:
                continue
            segment = _Segment(path, int(match[1]), int(match[1]), len(MAGIC))
            for frame, behind in frames(path, len(MAGIC)):
                segment.end, segment.size = frame.end, behind
            if path.stat().st_size > segment.size:
                _log.warning(
                    "the spool ends in a torn frame", extra={"session": self.session, "offset": segment.end}
                )
            if segment.end > segment.start:
                found.append(segment)
            else:
                path.unlink()
        return found


def _write_all(fd: int, data: bytes | memoryview) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


def _close_unwanted(opening: asyncio.Task[Spool]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().close()
