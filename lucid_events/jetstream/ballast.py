"""Room kept in the capture stream, so that an epoch can be closed when the stream is full.

    lucid.cap.~.ballast.<k>     zeros, `subjects.BALLAST_PARTS` parts; of no session, read by nobody

A full stream refuses fences like everything else. Then a part is given up, and the fences go
where it was; it is put back as soon as there is room. Between the two another recorder's piece
may slip in, but only one that is smaller than a part: then the next part is given up.
"""

import asyncio
import logging

from lucid_events.errors import StoreFull, VersionConflict
from lucid_events.jetstream.append import EXPECTED, EXPECTED_SUBJECT
from lucid_events.jetstream.connection import Connection
from lucid_events.subjects import Subjects, ballast_part_bytes

log = logging.getLogger(__name__)


class Ballast:
    """The parts of one prefix; any process may give them up and put them back."""

    def __init__(self, connection: Connection, subjects: Subjects) -> None:
        self._connection, self._subjects = connection, subjects
        self._stream = subjects.capture_stream
        self._giving = asyncio.Lock()
        self.given = 0
        """Parts this process has given up; what was sent at one count and refused may fit at the next."""

    async def keep(self) -> bool:
        """Put back what is missing as far as there is room; returns whether every part stands.

        Raises:
            StoreUnavailable: the server could not be asked.
            AppendUncertain: no reply to a part; it may stand.
        """
        standing, limit = await self._standing()
        if limit <= 0:
            return True  # never full
        part = bytes(ballast_part_bytes(limit))
        for subject in self._subjects.ballast:
            if subject in standing:
                continue
            # Guarded by itself: two processes at once leave one message and not two.
            headers = {EXPECTED: "0", EXPECTED_SUBJECT: subject}
            try:
                await self._connection.publish_acked(subject, part, headers=headers)
            except VersionConflict:
                continue
            except StoreFull:
                log.info("no room to keep for fences", extra={"stream": self._stream})
                return False
        return True

    async def give_up(self, seen: int) -> bool:
        """Make room for what was refused when `given` was `seen`; returns whether there may be some now.

        Of many that are refused together, one gives up a part and all go on.

        Raises:
            StoreUnavailable, AppendUncertain: the server did not answer.
        """
        async with self._giving:
            if self.given != seen:
                return True
            found, _ = await self._standing()
            if not found:
                return False
            part = min(found)
            # An answer that counts nothing is another process's purge of the same part: room, too.
            await self._connection.api(f"STREAM.PURGE.{self._stream}", {"filter": part})
            self.given += 1
            log.warning("capture is full: gave up room kept for fences", extra={"subject": part})
            return True

    async def _standing(self) -> tuple[set[str], int]:
        """Return which parts stand, and how many bytes the stream may hold (-1: any number)."""
        body = {"subjects_filter": self._subjects.all_ballast}
        info = await self._connection.api(f"STREAM.INFO.{self._stream}", body)
        return set(info["state"].get("subjects") or {}), int(info["config"]["max_bytes"])
