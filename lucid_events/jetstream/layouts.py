r"""Blocks of headers read by their layout: what one writer sends has the same names in the same order.

    Nats-Msg-Id: 5995084e-…\r\n          names:    Nats-Msg-Id, ce-specversion, …
    ce-specversion: 1.0\r\n      ──>     pattern:  Nats-Msg-Id: (…)\r\nce-specversion: (…)\r\n…
    …                                    values:   one match, instead of a look at every line

A layout that was met often enough becomes a pattern. It takes only blocks of which it makes what
`parse` makes; every other block is left to `parse`, which decides what a header is.
"""

import re
from collections.abc import Callable
from typing import Final, NamedTuple

SIGHTINGS: Final = 100
"""A layout becomes a pattern when it is met that often: compiling takes a millisecond, so a stranger who
invents layouts costs no more than 10 µs a message. Half doubles that."""
KNOWN: Final = 4
"""Patterns of as many lines that are kept, the latest first: ours are two or three."""
MAX_LINES: Final = 64
"""A block with more lines is not learned: ours have 25 at most."""
MAX_COUNTED: Final = 256
"""Layouts on their way to a pattern; beyond, all are forgotten."""

_VALUE: Final = r": (?:(\S[^\r]*+)(?<!\s))?+\r\n"
"""Possessive, because a line has one end: giving back could only cost time."""
_NAME: Final = re.compile(r"[^\s:]+", re.ASCII)


class Layout(NamedTuple):
    """Names in their order, and the pattern of a block that has them so."""

    names: tuple[str, ...]
    pattern: re.Pattern[str]


class Layouts:
    """Reads blocks by the layouts that came before; `parse` is asked about those it does not know."""

    def __init__(self, parse: Callable[[bytes], dict[str, str]]) -> None:
        self._parse = parse
        self._known: dict[int, list[Layout]] = {}
        self._met: dict[tuple[str, ...], int] = {}

    def read(self, block: bytes) -> dict[str, str]:
        """Return what `parse` returns of `block`: its lines, each with its end, and an empty one."""
        lines = block.count(b"\n")
        known = self._known.get(lines)
        if known is not None:
            text = block.decode("utf-8", "replace")
            for place, layout in enumerate(known):
                if found := layout.pattern.fullmatch(text):
                    if place:
                        known.insert(0, known.pop(place))
                    return dict(zip(layout.names, found.groups(""), strict=True))
        if lines <= MAX_LINES:
            self._learn(block, lines)
        return self._parse(block)

    def _learn(self, block: bytes, lines: int) -> None:
        names = tuple(line.partition(": ")[0] for line in block.decode("utf-8", "replace").split("\r\n")[:-2])
        if not names or not all(name.isascii() and _NAME.fullmatch(name) for name in names):
            return
        met = self._met.get(names, 0) + 1
        if met < SIGHTINGS:
            if len(self._met) >= MAX_COUNTED:
                self._met.clear()
            self._met[names] = met
            return
        self._met.pop(names, None)
        known = self._known.setdefault(lines, [])
        if all(layout.names != names for layout in known):
            pattern = re.compile("".join(re.escape(name) + _VALUE for name in names) + "\r\n")
            known.insert(0, Layout(names, pattern))
            del known[KNOWN:]
