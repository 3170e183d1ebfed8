"""What of the log is there: its first and last message, and the sequences in between that are not.

The log denies deletion, so a message that is missing was taken out by somebody who could change the
stream or its files, or was lost to a damaged disk.
"""

import msgspec

from lucid_events.jetstream.connection import Connection

MAX_MISSING = 1000
"""Missing sequences named one by one; they are counted all."""


class Extent(msgspec.Struct, frozen=True, kw_only=True):
    """The log from `first` to `last`; `missing_count` messages in between are gone, `missing` names some."""

    first: int
    last: int
    messages: int
    missing: tuple[int, ...]
    missing_count: int


async def extent(connection: Connection, stream: str) -> Extent:
    """Return what the stream's leader holds.

    Raises:
        StoreUnavailable: the server could not be asked.
        NotFound: there is no such stream.
    """
    info = await connection.api(f"STREAM.INFO.{stream}", {"deleted_details": True})
    state = info["state"]
    missing = sorted(int(sequence) for sequence in state.get("deleted") or ())
    return Extent(
        first=int(state["first_seq"]),
        last=int(state["last_seq"]),
        messages=int(state["messages"]),
        missing=tuple(missing[:MAX_MISSING]),
        missing_count=int(state.get("num_deleted") or len(missing)),
    )
