"""Two results side by side: what became faster or slower from one run to another."""

from __future__ import annotations

import dataclasses
import math
import statistics

from ..text import table
from . import stats
from .results import Results
from .show import duration, ratio_text, size_text


@dataclasses.dataclass(frozen=True)
class Change:
    """One workload on one loop, before and after; `ratio` above 1 means that it became faster."""

    workload: str
    loop: str
    before: float
    after: float
    ratio: stats.Ratio
    unit: str = "second"

    @property
    def word(self) -> str:
        """What the ratio means."""
        if math.isinf(self.ratio.high):
            return "one round only"
        if self.ratio.tie:
            return "no difference seen"
        better, worse = ("smaller", "LARGER") if self.unit == "byte" else ("faster", "SLOWER")
        return better if self.ratio.middle > 1 else worse

    @property
    def slower_by(self) -> float:
        """The part of the time (or memory) that was added, 0 where no slow-down can be told from noise."""
        return 1 / self.ratio.middle - 1 if self.ratio.high < 1 else 0.0


def changes(before: Results, after: Results, loop: str | None = None) -> list[Change]:
    """Returns the changes of what both results measured; raises ValueError where they share nothing."""
    earlier = {row.name: row for row in before.rows}
    found = []
    for row in after.rows:
        for name, cell in row.cells.items():
            old = earlier[row.name].cells.get(name) if row.name in earlier else None
            if old is None or loop not in (None, name) or old.error or cell.error or not (old.values and cell.values):
                continue
            middles = statistics.median(old.values), statistics.median(cell.values)
            found.append(Change(row.name, name, *middles, stats.unpaired(old.values, cell.values), row.unit))
    if not found:
        raise ValueError(f"the two results have no workload{f' of {loop}' if loop else ''} in common")
    return found


def told(change: Change, value: float) -> str:
    """Returns a value with its unit."""
    return size_text(value) if change.unit == "byte" else duration(value)


def text(found: list[Change]) -> str:
    """Returns the changes as a table."""
    lines = [
        [c.workload, c.loop, told(c, c.before), told(c, c.after), ratio_text(c.ratio).removesuffix(" tie"), c.word]
        for c in found
    ]
    return table(("workload", "loop", "before", "after", "speed-up", ""), lines, left=(0, 1, 5))
