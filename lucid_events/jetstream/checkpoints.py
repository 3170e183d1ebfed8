"""The stream of checkpoints: appended to one after the other, each only behind the one it was made for."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Final

from lucid_events.errors import AppendUncertain, ConfigError, NotFound, StoreUnavailable, VersionConflict
from lucid_events.jetstream.append import EXPECTED
from lucid_events.jetstream.connection import Connection, StoredMessage
from lucid_events.jetstream.faults import STREAM_NOT_FOUND
from lucid_events.jetstream.pages import pages
from lucid_events.subjects import Subjects

ATTEMPTS: Final = 3
"""Sends under one guard until a reply comes; each waits for a whole request timeout."""


class JetStreamCheckpoints:
    """Checkpoints of one prefix.

    Args:
        stream: where to read them, when not where they are made: the name of a mirror.
    """

    def __init__(self, connection: Connection, subjects: Subjects, stream: str = "") -> None:
        self._connection, self._subject = connection, subjects.checkpoint
        self.stream = stream or subjects.checkpoints_stream

    async def last(self) -> StoredMessage | None:
        """Return the newest message from the leader, None when there is none.

        Raises:
            NotFound: there is no such stream.
        """
        # By its subject, not by ">": for that a server answers nothing when the last one was deleted.
        return await self._get(last_by_subj=self._subject)

    async def before(self, sequence: int) -> StoredMessage | None:
        """Return the message right before `sequence`, None when there is none."""
        return await self._get(seq=sequence - 1) if sequence > 1 else None

    async def all(self) -> AsyncGenerator[StoredMessage, None]:
        """Yield every message up to the newest of now, in order."""
        newest = await self.last()
        if newest is None:
            return
        known = newest.sequence
        async with aclosing(pages(self._connection, self.stream, None, last=known, known=known)) as found:
            async for page in found:
                for message in page:
                    yield message

    async def append(self, body: bytes, headers: Mapping[str, str], *, expected: int) -> int:
        """Store a checkpoint behind the message at `expected` (0: as the first), and return its place.

        A lost reply is settled inside: the guard lets the same bytes in once only.

        Raises:
            VersionConflict: another worker's stands there; nothing was written.
            StoreUnavailable: nothing was written.
            AppendUncertain: an attempt was not answered, and whether it came through could not be settled.
        """
        sent = {**headers, EXPECTED: str(expected)}
        uncertain: AppendUncertain | None = None
        for _ in range(ATTEMPTS):
            conflict: VersionConflict | None = None
            try:
                return (await self._connection.publish_acked(self._subject, body, headers=sent)).sequence
            except AppendUncertain as exc:
                uncertain = exc
            except VersionConflict as exc:
                conflict = exc
            except StoreUnavailable:
                # Of this attempt nothing was written; of one before it, something may be.
                if uncertain is None:
                    raise
            try:
                there = await self._get(seq=expected + 1)
            except StoreUnavailable:
                if uncertain is None:
                    raise
                continue
            if there is not None and there.data == body:
                return there.sequence
            # Without anything there, the conflict is with an earlier attempt that is still in flight.
            if conflict is not None and (there is not None or uncertain is None):
                raise conflict
        raise uncertain or AssertionError("unreachable")

    async def _get(self, *, seq: int | None = None, last_by_subj: str | None = None) -> StoredMessage | None:
        try:
            return await self._connection.leader_get(self.stream, seq=seq, last_by_subj=last_by_subj)
        except ConfigError as exc:
            if exc.fields.get("err_code") != STREAM_NOT_FOUND:
                raise
            raise NotFound(
                f"there is no stream {self.stream}: `lucid deploy` makes it", stream=self.stream
            ) from exc
