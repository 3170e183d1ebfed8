"""A target that is a rate or a ratio to the rival, whichever is lower: reaching either meets it."""

import statistics
from dataclasses import dataclass

from bench.measure import Outcome


@dataclass
class Either(Outcome):
    """An outcome with a rate beside the ratio of its target; `rate` is in the outcome's unit."""

    rate: float = 0.0

    @property
    def met(self) -> bool:
        return self.work >= self.rate * self.median_s or self.target.met(self.ratio) is True

    @property
    def asked(self) -> str:
        return f"{self.rate:,.0f} {self.unit} or {self.target}"

    @property
    def median_s(self) -> float:
        return statistics.median(self.ours_s)

    def row(self) -> list[str]:
        return [*super().row()[:-2], self.asked, "met" if self.met else "**missed**"]

    def data(self) -> dict[str, object]:
        return {**super().data(), "target": self.asked, "met": self.met}
