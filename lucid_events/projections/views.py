"""Where status views are kept: a bucket with view and index entry, written together or not at all."""

from collections.abc import AsyncIterator, Sequence

from lucid_events import codec
from lucid_events.domain.ids import SessionId
from lucid_events.ports import KeyValue
from lucid_events.projections import index
from lucid_events.projections.base import Held
from lucid_events.projections.status_view import StatusView

MAX_ENTRIES = 990
"""Writes of one batch: the server takes 1000; three belong to one view."""
PAGE = 100
"""Views of one page while generations are compared: 1 MiB when they are large."""

_Entry = tuple[str, bytes | None, int | None]


class StatusViews:
    """The views of one generation."""

    def __init__(self, kv: KeyValue) -> None:
        self._kv = kv

    async def load(self, session: SessionId) -> Held[StatusView]:
        """Return the session's view; an empty `Held` when there is none. May be a replica's answer.

        Raises:
            StoreUnavailable: the server could not be asked.
        """
        found = await self._kv.get(index.view_key(session))
        return Held() if found is None else Held(codec.decode(found[0], StatusView), found[1])

    async def save(self, view: StatusView, over: Held[StatusView]) -> Held[StatusView]:
        """Write `view` over the one that was read, and move its index entry, all or nothing.

        Raises:
            VersionConflict: another projector wrote first.
            StoreUnavailable: nothing was written.
            AppendUncertain: no reply; read before writing again.
        """
        return (await self.save_all([(view, over)]))[0]

    async def save_all(
        self, changes: Sequence[tuple[StatusView, Held[StatusView]]]
    ) -> list[Held[StatusView]]:
        """Write views of different sessions in one batch, all or nothing; raises like `save`."""
        entries: list[_Entry] = []
        positions = []
        for view, over in changes:
            entries += _moves(view, over.view)
            positions.append(len(entries))
            entries.append((index.view_key(view.session_id), codec.encode(view), over.revision))
        if len(entries) == 1:
            key, value, revision = entries[0]
            last = await self._kv.put(key, value or b"", revision=revision)
        else:
            last = await self._kv.put_many(entries)
        first = last - len(entries) + 1
        return [Held(view, first + at) for (view, _), at in zip(changes, positions, strict=True)]

    async def all(self) -> AsyncIterator[StatusView]:
        """Yield every view, page by page. For comparing generations; nothing else reads a whole bucket."""
        async for _, value in _everything(self._kv, index.VIEWS):
            yield codec.decode(value, StatusView)

    async def entries(self) -> AsyncIterator[tuple[str, index.IndexEntry]]:
        """Yield every index entry with its key, page by page. As `all`."""
        async for key, value in _everything(self._kv, index.ENTRIES):
            yield key, codec.decode(value, index.IndexEntry)

    async def has_entry(self, entry: index.IndexEntry) -> bool:
        """Return whether exactly this index entry stands."""
        found = await self._kv.get(index.entry_key(entry))
        return found is not None and codec.decode(found[0], index.IndexEntry) == entry


async def _everything(kv: KeyValue, pattern: str) -> AsyncIterator[tuple[str, bytes]]:
    cursor, full = 0, True
    while full:
        page = [item async for item in kv.scan(pattern, after=cursor, limit=PAGE)]
        for key, value, revision in page:
            cursor = revision
            yield key, value
        full = len(page) == PAGE


def _moves(view: StatusView, before: StatusView | None) -> list[_Entry]:
    old, new = index.entry_of(before), index.entry_of(view)
    if new is None or old == new:
        return []
    key = index.entry_key(new)
    gone = index.entry_key(old) if old else key
    # Not guarded: the guard of the view, in the same batch, stands for them.
    moves: list[_Entry] = [] if gone == key else [(gone, None, None)]
    return [*moves, (key, codec.encode(new), None)]
