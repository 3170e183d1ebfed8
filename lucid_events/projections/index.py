"""The index of sessions by owner, state and day: keys beside the views, moved with them.

    s.<session id>                                   the view
    i.<owner token>.<state>.<day>.<session id>       the entry: one per session

The day is that of creation, in UTC. A key is a subject of the bucket's stream, so every question
is a wildcard the server answers; pages follow the order of last moves, and nothing lists a bucket.
"""

import base64
import hashlib
from collections.abc import AsyncGenerator, Iterable
from datetime import UTC, date, datetime

from lucid_events import codec
from lucid_events.domain.ids import SessionId
from lucid_events.domain.transitions import State
from lucid_events.domain.values import Fact
from lucid_events.errors import ContractError
from lucid_events.ports import KeyValue
from lucid_events.projections.status_view import StatusView

VIEWS = "s.*"
"""Pattern of all views; only a comparison of whole generations pages through it."""
ENTRIES = "i.>"
"""Pattern of all entries; likewise."""
MAX_PAGE = 1000
"""Most entries of one page: about 250 KiB."""
_TOKEN_BYTES = 15  # 20 characters; two owners in 2**60 would have to share one by chance


class IndexEntry(Fact, frozen=True, kw_only=True):
    """What a list shows of a session; it changes only when the session moves to another state."""

    session_id: SessionId
    owner: str
    label: str
    state: State
    since: datetime
    created_at: datetime


class Page(Fact, frozen=True, kw_only=True):
    """Entries in order of their last move, oldest first; `cursor` is where the next page begins, if any."""

    entries: tuple[IndexEntry, ...]
    cursor: int | None


def view_key(session: SessionId) -> str:
    """Return the key of a session's view."""
    return f"s.{session}"


def owner_token(owner: str) -> str:
    """Return `owner` as a token of a key: a digest, because an owner may be any text.

    >>> owner_token("Zoë *")
    'TDhzWQAMFkD5U4r3f6Wa'
    """
    digest = hashlib.sha256(owner.encode()).digest()[:_TOKEN_BYTES]
    return base64.urlsafe_b64encode(digest).decode()


def entry_of(view: StatusView | None) -> IndexEntry | None:
    """Return the entry of a session; None while it is not created."""
    if view is None or view.state is None or view.since is None:
        return None
    return IndexEntry(
        session_id=view.session_id,
        owner=view.owner,
        label=view.label,
        state=view.state,
        since=view.since,
        created_at=view.created_at or view.since,
    )


def entry_key(entry: IndexEntry) -> str:
    """Return the key an entry stands under."""
    day = entry.created_at.astimezone(UTC).strftime("%Y%m%d")
    return f"i.{owner_token(entry.owner)}.{entry.state}.{day}.{entry.session_id}"


def entries_of(session: SessionId) -> str:
    """Return the pattern of all entries of a session; one, unless its view was damaged."""
    return f"i.*.*.*.{session}"


class SessionIndex:
    """Pages through the sessions of one generation's bucket."""

    def __init__(self, kv: KeyValue) -> None:
        self._kv = kv

    async def page(
        self,
        *,
        owner: str | None = None,
        state: State | None = None,
        created_on: date | None = None,
        after: int = 0,
        limit: int = 100,
    ) -> Page:
        """Return up to `limit` sessions that fit every filter given, behind the cursor `after`.

        A session that moves between two pages may be seen again, further on; none is left out that
        fits the filters all along.

        Raises:
            ContractError: `limit` is not 1 to 1000.
            StoreUnavailable: the server could not be asked.
        """
        if not 1 <= limit <= MAX_PAGE:
            raise ContractError(
                f"a page has 1 to {MAX_PAGE} entries, not {limit}: ask for less and follow the cursor",
                field="limit",
            )
        tokens = (
            "*" if owner is None else owner_token(owner),
            "*" if state is None else str(state),
            "*" if created_on is None else created_on.strftime("%Y%m%d"),
        )
        entries: list[IndexEntry] = []
        cursor = after
        async for _, value, revision in self._kv.scan(f"i.{'.'.join(tokens)}.*", after=after, limit=limit):
            entries.append(codec.decode(value, IndexEntry))
            cursor = revision
        return Page(entries=tuple(entries), cursor=cursor if len(entries) == limit else None)

    async def sessions(self, states: Iterable[State]) -> AsyncGenerator[SessionId, None]:
        """Yield the sessions in `states`, state by state; one that moves meanwhile may come twice."""
        for state in states:
            cursor: int | None = 0
            while cursor is not None:
                page = await self.page(state=state, after=cursor, limit=MAX_PAGE)
                for entry in page.entries:
                    yield entry.session_id
                cursor = page.cursor
