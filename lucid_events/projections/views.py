"""Where status views are kept: a bucket with view and index entry, written together or not at all."""

from collections.abc import AsyncIterator, Sequence

from lucid_events import codec
from lucid_events.domain.ids import SESSION_ID, SessionId
from lucid_events.errors import ContractError
from lucid_events.ports import KeyValue
from lucid_events.projections import index
from lucid_events.projections.base import Held
from lucid_events.projections.status_view import StatusView

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
            ContractError: what stands there is no view.
            StoreUnavailable: the server could not be asked.
        """
        found = await self._kv.get(index.view_key(session))
        return Held() if found is None else Held(codec.decode(found[0], StatusView), found[1])

    async def look(self, session: SessionId) -> Held[StatusView]:
        """Return what stands there to be written over; see `ViewStore.look`."""
        found = await self._kv.get(index.view_key(session))
        return Held() if found is None else _held(*found)

    async def save(self, view: StatusView, over: Held[StatusView]) -> Held[StatusView]:
        """Write `view` over what was read, and move its index entry, all or nothing.

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
            if over.view is None and over.revision:
                entries += await self._unknown(view)
            positions.append(len(entries))
            entries.append((index.view_key(view.session_id), codec.encode(view), over.revision))
        if len(entries) == 1:
            key, value, revision = entries[0]
            last = await self._kv.put(key, value or b"", revision=revision)
        else:
            last = await self._kv.put_many(entries)
        first = last - len(entries) + 1
        return [Held(view, first + at) for (view, _), at in zip(changes, positions, strict=True)]

    async def all(self) -> AsyncIterator[tuple[SessionId, Held[StatusView]]]:
        """Yield what stands of every session, page by page, as `look` returns it.

        For comparing generations; nothing else reads a whole bucket.
        """
        async for key, value, revision in _everything(self._kv, index.VIEWS):
            if (session := _owner(key)) is not None:
                yield session, _held(value, revision)

    async def sessions(self) -> AsyncIterator[SessionId]:
        """Yield every session that has a view, one that can't be read too, page by page. As `all`."""
        async for key, _, _ in _everything(self._kv, index.VIEWS):
            if (session := _owner(key)) is not None:
                yield session

    async def entries(self) -> AsyncIterator[tuple[str, SessionId]]:
        """Yield the key of every index entry and whose it is, page by page. As `all`."""
        async for key, _, _ in _everything(self._kv, index.ENTRIES):
            if (session := _owner(key)) is not None:
                yield key, session

    async def has_key(self, key: str) -> bool:
        """Return whether anything stands under `key`."""
        return await self._kv.get(key) is not None

    async def has_entry(self, entry: index.IndexEntry) -> bool:
        """Return whether exactly this index entry stands."""
        found = await self._kv.get(index.entry_key(entry))
        try:
            return found is not None and codec.decode(found[0], index.IndexEntry) == entry
        except ContractError:
            return False

    async def _unknown(self, view: StatusView) -> list[_Entry]:
        """Return what takes away the entries of a session whose view before this one can't be read."""
        new = index.entry_of(view)
        kept = "" if new is None else index.entry_key(new)
        pattern = index.entries_of(view.session_id)
        return [(key, None, None) async for key, _, _ in _everything(self._kv, pattern) if key != kept]


async def _everything(kv: KeyValue, pattern: str) -> AsyncIterator[tuple[str, bytes, int]]:
    cursor, full = 0, True
    while full:
        page = [item async for item in kv.scan(pattern, after=cursor, limit=PAGE)]
        for key, value, revision in page:
            cursor = revision
            yield key, value, revision
        full = len(page) == PAGE


def _held(value: bytes, revision: int) -> Held[StatusView]:
    try:
        return Held(codec.decode(value, StatusView), revision)
    except ContractError:
        return Held(revision=revision)


def _owner(key: str) -> SessionId | None:
    """Return whose view or entry stands under `key`, None when somebody else wrote it."""
    session = key.rpartition(".")[2]
    return SessionId(session) if SESSION_ID.fullmatch(session) else None


def _moves(view: StatusView, before: StatusView | None) -> list[_Entry]:
    old, new = index.entry_of(before), index.entry_of(view)
    if new is None or old == new:
        return []
    key = index.entry_key(new)
    gone = index.entry_key(old) if old else key
    # Not guarded: the guard of the view, in the same batch, stands for them.
    moves: list[_Entry] = [] if gone == key else [(gone, None, None)]
    return [*moves, (key, codec.encode(new), None)]
