"""What one measure is, how the two sides take turns, and how the outcome is printed.

A measure is a pair of coroutines that each return seconds for the same work. They run in turn, A B A B,
in one process on one server, so what disturbs the machine disturbs both; only the ratio is worth reading.
"""

import statistics
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

Timed = Callable[[], Awaitable[float]]


@dataclass(frozen=True)
class Target:
    """What the ratio has to reach; a `most` ratio is ours / theirs in time, a `least` one in rate."""

    least: float | None = None
    most: float | None = None

    def met(self, ratio: float) -> bool | None:
        if self.most is not None:
            return ratio <= self.most
        return None if self.least is None else ratio >= self.least

    def __str__(self) -> str:
        if self.most is not None:
            return f"at most {self.most:g}"
        return "–" if self.least is None else f"at least {self.least:g}"


@dataclass
class Outcome:
    """One row of the table: seconds per run of both sides, and how they are shown."""

    name: str
    rival: str
    target: Target
    work: float
    unit: str
    ours_s: list[float] = field(default_factory=list)
    theirs_s: list[float] = field(default_factory=list)

    def add(self, ours_s: float, theirs_s: float) -> None:
        self.ours_s.append(ours_s)
        self.theirs_s.append(theirs_s)

    @property
    def ratios(self) -> list[float]:
        pairs = zip(self.ours_s, self.theirs_s, strict=True)
        if self.target.most is not None:
            return [ours / theirs for ours, theirs in pairs]
        return [theirs / ours for ours, theirs in pairs]

    @property
    def ratio(self) -> float:
        return statistics.median(self.ratios)

    def shown(self, seconds: Sequence[float]) -> str:
        middle = statistics.median(seconds)
        if self.unit == "ms":
            return f"{middle * 1000:.2f} ms"
        return f"{self.work / middle:,.0f} {self.unit}"

    def row(self) -> list[str]:
        met = self.target.met(self.ratio)
        return [
            self.name,
            self.shown(self.ours_s),
            self.rival,
            self.shown(self.theirs_s),
            f"{self.ratio:.2f} ({min(self.ratios):.2f} – {max(self.ratios):.2f})",
            str(self.target),
            "–" if met is None else "met" if met else "**missed**",
        ]

    def data(self) -> dict[str, object]:
        return {
            "name": self.name,
            "rival": self.rival,
            "ours_s": self.ours_s,
            "theirs_s": self.theirs_s,
            "ratio": self.ratio,
            "ratios": self.ratios,
            "target": str(self.target),
            "met": self.target.met(self.ratio),
            "row": self.row(),
        }


HEADINGS = ["measure", "ours", "rival", "theirs", "ratio: median (min – max)", "target", ""]


async def in_turns(outcome: Outcome, ours: Timed, theirs: Timed, *, runs: int) -> Outcome:
    """Run both sides once to warm up, then `runs` times in turn."""
    await ours()
    await theirs()
    for _ in range(runs):
        outcome.add(await ours(), await theirs())
    return outcome


def table(outcomes: Sequence[Outcome]) -> str:
    """Return the rows as a Markdown table."""
    return aligned([HEADINGS, *(outcome.row() for outcome in outcomes)])


def aligned(rows: Sequence[list[str]]) -> str:
    """Return `rows`, the headings first, as a Markdown table, aligned for reading as text."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    lines.insert(1, "| " + " | ".join("-" * width for width in widths) + " |")
    return "\n".join(lines)
