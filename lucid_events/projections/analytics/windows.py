"""What a window of event time knows, and how an event changes it. Pure: no Faust, no clock.

Windows of one size are kept per partition of the log; `merged` puts the parts together. All but the
owners is a sum, so the order in which events arrive changes nothing. So it is with owners, up to
`MAX_OWNERS` of them in a part; above, their figures depend on the order, within a bound.
"""

from collections.abc import Iterable
from typing import Final

import msgspec
from ddsketch.ddsketch import BaseDDSketch
from ddsketch.mapping import LogarithmicMapping
from ddsketch.store import DenseStore

SIZES_S: Final = (10, 60, 3600)
"""Lengths of the windows, in seconds."""

KEPT: Final = {10: 3600, 60: 86_400, 3600: 30 * 86_400}
"""For how many seconds of event time, behind the newest event, windows of each size are kept."""

MAX_OWNERS: Final = 200
"""Owners counted in one window of one partition. With more, a figure may be wrong by one part in so many
of the window's bytes: half doubles that, twice doubles the rows of busy windows (6 KB of owners)."""
ACCURACY: Final = 0.01
"""Percentiles of delays are right to one in a hundred."""
MIN_DELAY_MS: Final = 0.001

_mapping = LogarithmicMapping(ACCURACY)


class CodecUse(msgspec.Struct, array_like=True):
    """Bytes before and after a codec, and chunks."""

    raw: int = 0
    stored: int = 0
    chunks: int = 0


class Window(msgspec.Struct, omit_defaults=True):
    """Sums over the events whose time is in the window.

    `captured` are bytes known to be captured (offsets that advanced, gaps left out), `delays` the
    seal-to-ready delays as a sketch (bin -> count), `entered` how often each state was entered.
    `owners` are a sketch too ("space-saving", Metwally et al. 2005): a new owner takes the place of the
    one with the fewest bytes, and their count with it, which is by how much its own may be too high
    (`surplus`). Whoever has more than 1/`MAX_OWNERS` of the bytes is in it.
    """

    events: int = 0
    captured: int = 0
    sealed: int = 0
    ready: int = 0
    stored: int = 0
    chunks: int = 0
    failures: int = 0
    gaps: int = 0
    gap_bytes: int = 0
    recoveries: int = 0
    salvaged: int = 0
    entered: dict[str, int] = {}
    codecs: dict[str, CodecUse] = {}
    delays: dict[int, int] = {}
    owners: dict[str, int] = {}
    surplus: dict[str, int] = {}

    @property
    def ratio(self) -> float | None:
        """Raw bytes divided by stored bytes; None when nothing was stored."""
        return self.ready / self.stored if self.stored else None

    def percentile(self, share: float) -> float | None:
        """Return the delay, in milliseconds, that `share` of the chunks did not exceed; None without any."""
        if not self.delays:
            return None
        sketch = BaseDDSketch(_mapping, DenseStore(), DenseStore(), 0)
        for key, count in self.delays.items():
            sketch._store.add(key, count)
            sketch._count += count
        found: float | None = sketch.get_quantile_value(share)
        return found


def delay_bin(delay_ms: float) -> int:
    """Return the bin of the sketch that a delay falls into."""
    return int(_mapping.key(max(delay_ms, MIN_DELAY_MS)))


def start_of(seconds: float, size_s: int) -> int:
    """Return when the window that `seconds` falls into begins."""
    return int(seconds // size_s) * size_s


def add_owner(window: Window, owner: str, count: int) -> None:
    """Count bytes for an owner, in bounded room."""
    owners, surplus = window.owners, window.surplus
    if owner not in owners and len(owners) >= MAX_OWNERS:
        least = min(owners, key=lambda name: (owners[name], name))
        owners[owner] = surplus[owner] = owners.pop(least)
        surplus.pop(least, None)
    owners[owner] = owners.get(owner, 0) + count


def add(whole: Window, part: Window) -> None:
    """Let `whole` hold what `part` holds too, in bounded room."""
    _add(whole, part)
    for owner, count in part.owners.items():
        add_owner(whole, owner, count)


def merged(parts: Iterable[Window]) -> Window:
    """Return the window over all of `parts`, with every owner that is in one of them."""
    whole = Window()
    for part in parts:
        _add(whole, part)
        for owner, count in part.owners.items():
            whole.owners[owner] = whole.owners.get(owner, 0) + count
        for owner, count in part.surplus.items():
            whole.surplus[owner] = whole.surplus.get(owner, 0) + count
    return whole


def _add(whole: Window, part: Window) -> None:
    for name in _SUMS:
        setattr(whole, name, getattr(whole, name) + getattr(part, name))
    for state, count in part.entered.items():
        whole.entered[state] = whole.entered.get(state, 0) + count
    for key, count in part.delays.items():
        whole.delays[key] = whole.delays.get(key, 0) + count
    for codec, use in part.codecs.items():
        had = whole.codecs.get(codec, CodecUse())
        whole.codecs[codec] = CodecUse(had.raw + use.raw, had.stored + use.stored, had.chunks + use.chunks)


_SUMS: Final = tuple(field for field in Window.__struct_fields__ if isinstance(getattr(Window(), field), int))
