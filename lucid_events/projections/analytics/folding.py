"""How one event of the log changes the tables. Pure: dictionaries in, dictionaries out.

Three kinds of rows: a session's own (its state, its open chunks), the totals of a partition, and the
windows of a partition. The same events in the same order per partition give the same rows, whenever
they are read: time comes from the events alone, their own and that of their storing.
"""

from collections.abc import MutableMapping
from typing import Final, TypeVar

import msgspec

from lucid_events.domain import events as ev
from lucid_events.domain.envelope import Recorded
from lucid_events.domain.transitions import State, target, trigger_of
from lucid_events.projections.analytics.windows import (
    KEPT,
    SIZES_S,
    CodecUse,
    Window,
    add,
    add_owner,
    delay_bin,
    start_of,
)

Rows = MutableMapping[bytes, bytes]
T = TypeVar("T")

AHEAD_S: Final = 300.0
"""How far an event's own time may be ahead of when it was stored. Half would not believe clocks that
differ by some minutes; twice lets a wrong one end windows so much earlier."""


class Session(msgspec.Struct, omit_defaults=True):
    """What must be known of a session to place its next event: open chunks by index, when sealed."""

    state: str = ""
    owner: str = ""
    offset: int = 0
    sealed: dict[int, float] = {}


class Totals(msgspec.Struct, omit_defaults=True):
    """One partition since the beginning of the log; `newest` is the latest event time, in seconds.

    `late` counts windows an event came too late for: they were no longer kept. `ahead` counts events
    whose time was no time at all (see `AHEAD_S`). `strays` were no events, `undecodable` were set aside.
    """

    events: int = 0
    sequence: int = 0
    newest: float = 0.0
    late: int = 0
    ahead: int = 0
    strays: int = 0
    undecodable: int = 0
    states: dict[str, int] = {}
    live: dict[int, list[int]] = {}


_encode = msgspec.json.Encoder().encode


def window_key(size_s: int, start: int, partition: int) -> bytes:
    """Return the key of a window's part."""
    return f"{size_s}/{start}/{partition}".encode()


def totals_key(partition: int) -> bytes:
    """Return the key of a partition's totals."""
    return f"totals/{partition}".encode()


def fold(recorded: Recorded, partition: int, sessions: Rows, totals: Rows, windows: Rows) -> None:
    """Let the tables know of one event."""
    mine = _read(totals, totals_key(partition), Totals)
    row_key = recorded.session.encode()
    row = _read(sessions, row_key, Session)
    at, stored_at = recorded.time.timestamp(), recorded.stored_at.timestamp()
    if at > stored_at + AHEAD_S:
        # A clock that is wrong: believed, it would end every window, and all that follows would be late.
        at = stored_at
        mine.ahead += 1
    change = _change(recorded.event, row, mine, at)
    change.events = 1
    mine.events += 1
    mine.sequence = recorded.sequence
    mine.newest = max(mine.newest, at)
    for size_s in SIZES_S:
        _into_window(change, size_s, start_of(at, size_s), partition, mine, windows)
    if row.state == State.DESTROYED:
        sessions.pop(row_key, None)
    else:
        sessions[row_key] = _encode(row)
    totals[totals_key(partition)] = _encode(mine)


def note(partition: int, sequence: int, totals: Rows, *, strays: int = 0, undecodable: int = 0) -> None:
    """Let the totals know of a message that is no event, or none that this version can read."""
    mine = _read(totals, totals_key(partition), Totals)
    mine.sequence = sequence
    mine.strays += strays
    mine.undecodable += undecodable
    totals[totals_key(partition)] = _encode(mine)


def _read(rows: Rows, key: bytes, kind: type[T]) -> T:
    found = rows.get(key)
    return msgspec.json.decode(found, type=kind) if found else kind()


def _into_window(
    change: Window, size_s: int, start: int, partition: int, mine: Totals, windows: Rows
) -> None:
    key = window_key(size_s, start, partition)
    horizon = mine.newest - KEPT[size_s]
    if start + size_s <= horizon:
        mine.late += 1
        return
    found = windows.get(key)
    if found is None:
        # A new window: the moment to let those go that are no longer kept.
        live = sorted({*mine.live.get(size_s, []), start})
        for old in [old for old in live if old + size_s <= horizon]:
            windows.pop(window_key(size_s, old, partition), None)
        mine.live[size_s] = [old for old in live if old + size_s > horizon]
    window = msgspec.json.decode(found, type=Window) if found else Window()
    add(window, change)
    windows[key] = _encode(window)


def _change(event: ev.SessionEvent, row: Session, mine: Totals, at: float) -> Window:
    """Return what one event adds to its windows, and bring the session's row up to date."""
    change = Window()
    _move(event, row, mine, change)
    match event:
        case ev.SessionCreated():
            row.owner = event.owner
        case ev.SessionFailed():
            change.failures = 1
        case ev.SessionRecovered():
            change.recoveries = 1
        case ev.ChunkFailed():
            change.failures = 1
            row.sealed.pop(event.index, None)
        case ev.GapDeclared():
            change.gaps, change.gap_bytes = 1, event.end - event.start
            row.offset = max(row.offset, event.end)
        case ev.ChunkSealed():
            change.sealed, change.salvaged = event.size, int(event.recovered)
            if event.gap_before:
                change.gaps, change.gap_bytes = 1, event.gap_before
            row.offset = max(row.offset, event.offset)
            _capture(row, event.offset + event.size, change)
            row.sealed[event.index] = at
        case ev.ChunkReady():
            change.ready, change.stored, change.chunks = event.size, event.stored_size, 1
            change.codecs[event.codec] = CodecUse(event.size, event.stored_size, 1)
            add_owner(change, row.owner, event.size)
            sealed_at = row.sealed.pop(event.index, None)
            if sealed_at is not None:
                change.delays[delay_bin((at - sealed_at) * 1000)] = 1
        case ev.RecorderDrained() | ev.RecorderDetached():
            _capture(row, event.offset, change)
    return change


def _capture(row: Session, offset: int, change: Window) -> None:
    if offset > row.offset:
        change.captured = offset - row.offset
        row.offset = offset


def _move(event: ev.SessionEvent, row: Session, mine: Totals, change: Window) -> None:
    state = State(row.state) if row.state else None
    trigger = trigger_of(state, event)
    moved = target(state, trigger) if trigger else None
    if moved is None:
        return
    if state is not None:
        mine.states[state] = mine.states.get(state, 0) - 1
        if not mine.states[state]:
            del mine.states[state]
    mine.states[moved] = mine.states.get(moved, 0) + 1
    change.entered[moved] = 1
    row.state = moved
