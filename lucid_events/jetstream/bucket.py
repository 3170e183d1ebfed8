"""The stream behind an object-store bucket: what stands under a name, what pieces a nuid has."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any, Final

import msgspec

from lucid_events import codec
from lucid_events.errors import AppendUncertain, ContractError, StoreUnavailable
from lucid_events.jetstream.blob_format import Entry, ObjectMeta, entry
from lucid_events.jetstream.connection import Connection, StoredMessage
from lucid_events.jetstream.pages import pages
from lucid_events.subjects import object_meta, object_pieces, object_stream

PAGE_BYTES: Final = 4 * 1024 * 1024
PURGE_TIMEOUT_S: Final = 15.0
PURGE_ATTEMPTS: Final = 3


class PieceCount(msgspec.Struct, frozen=True):
    """How many messages stand under a nuid."""

    nuid: str
    pieces: int


class Bucket:
    """One bucket as its stream's leader knows it; pieces and lists may come from a replica."""

    def __init__(self, connection: Connection, name: str) -> None:
        self.name = name
        self.stream = object_stream(name)
        self.connection = connection

    async def entry(self, name: str) -> Entry:
        """Return what stands under `name`."""
        return entry(
            name, await self.connection.leader_get(self.stream, last_by_subj=object_meta(self.name, name))
        )

    async def entries(self) -> AsyncIterator[Entry]:
        """Yield what stands under every name, oldest first; paged."""
        subject = object_meta(self.name, "").removesuffix(".") + ".>"
        last = await self.connection.leader_get(self.stream, last_by_subj=subject)
        if last is None:
            return
        found = pages(self.connection, self.stream, subject, last=last.sequence, known=last.sequence)
        async with aclosing(found):
            async for page in found:
                for message in page:
                    yield entry(_name(message), message)

    def pieces(
        self, nuid: str, *, first: int = 1, last: int | None = None, known: int = 0
    ) -> AsyncGenerator[tuple[StoredMessage, ...], None]:
        """Yield the pieces of one object from sequence `first` on, page by page.

        Everything up to `last`, or up to `known` and what is behind, is there or gone; beyond, a replica
        may lag.
        """
        subject = object_pieces(self.name, nuid)
        return pages(
            self.connection,
            self.stream,
            subject,
            first=first,
            last=last,
            known=last or known,
            page_bytes=PAGE_BYTES,
        )

    async def count(self, nuid: str) -> int:
        """Return how many messages the leader holds under `nuid`."""
        subject = object_pieces(self.name, nuid)
        info = await self.connection.api(f"STREAM.INFO.{self.stream}", {"subjects_filter": subject})
        return int((info["state"].get("subjects") or {}).get(subject, 0))

    async def counts(self) -> tuple[list[PieceCount], str]:
        """Return how many messages the leader holds under each nuid, and the server's time."""
        found: dict[str, int] = {}
        offset, now = 0, ""
        while True:
            body: dict[str, Any] = {"subjects_filter": object_pieces(self.name, ">"), "offset": offset}
            info = await self.connection.api(f"STREAM.INFO.{self.stream}", body)
            now = now or info["ts"]
            part = info["state"].get("subjects") or {}
            found.update(part)
            offset += len(part)
            if not part or offset >= int(info.get("total") or 0):
                break
        return [PieceCount(subject.rsplit(".", 1)[1], count) for subject, count in found.items()], now

    async def drop(self, nuid: str) -> None:
        """Delete every piece of `nuid`.

        Raises:
            StoreUnavailable: it may not have been done; a sweep takes what is left.
        """
        for attempt in range(1, PURGE_ATTEMPTS + 1):
            try:
                await self.connection.api(
                    f"STREAM.PURGE.{self.stream}",
                    {"filter": object_pieces(self.name, nuid)},
                    timeout_s=PURGE_TIMEOUT_S,
                )
                return
            except (StoreUnavailable, AppendUncertain) as exc:
                if attempt == PURGE_ATTEMPTS:
                    raise StoreUnavailable(
                        f"the pieces of {nuid} in {self.name} could not be deleted: a sweep takes them"
                    ) from exc


def _name(message: StoredMessage) -> str:
    try:
        return codec.decode(message.data, ObjectMeta).name
    except ContractError:
        return ""
