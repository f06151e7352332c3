"""The arithmetic of the suite: ratios with an interval, from rounds in which the loops took turns."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Sequence

# Two-sided 95 % quantiles of Student's distribution by degrees of freedom; beyond the table the normal one's.
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)
NORMAL = 1.960


@dataclasses.dataclass(frozen=True)
class Ratio:
    """How many times faster one is than the other, with its 95 % interval; one round alone has none (low = 0)."""

    middle: float
    low: float
    high: float

    @property
    def tie(self) -> bool:
        """Whether the interval holds 1: the measurement cannot tell the two apart."""
        return self.low <= 1 <= self.high


def student(freedom: int) -> float:
    """Returns the two-sided 95 % quantile of Student's distribution; infinite without a degree of freedom."""
    if freedom < 1:
        return math.inf
    # Between the end of the table (15) and infinity the quantile falls as 1/freedom.
    return STUDENT[freedom - 1] if freedom <= len(STUDENT) else NORMAL + (STUDENT[-1] - NORMAL) * 15 / freedom


def paired(base: Sequence[float], other: Sequence[float]) -> Ratio:
    """Returns base/other, two series of times whose n-th values were measured one after the other.

    The geometric mean of the rounds' ratios: what the machine did in a round touches both, and cancels out.
    """
    logs = [math.log(a / b) for a, b in zip(base, other, strict=True)]
    error = statistics.stdev(logs) / math.sqrt(len(logs)) if len(logs) > 1 else 0.0
    return interval(statistics.fmean(logs), error, len(logs) - 1)


def unpaired(base: Sequence[float], other: Sequence[float]) -> Ratio:
    """Returns base/other for two series that were measured independently, the shorter one deciding the freedom."""
    first, second = [math.log(a) for a in base], [math.log(b) for b in other]
    freedom = min(len(first), len(second)) - 1
    error = 0.0
    if freedom > 0:
        error = math.sqrt(statistics.variance(first) / len(first) + statistics.variance(second) / len(second))
    return interval(statistics.fmean(first) - statistics.fmean(second), error, freedom)


def interval(middle: float, error: float, freedom: int) -> Ratio:
    """Returns the ratio for a mean of logarithms with its standard error."""
    if freedom < 1:
        return Ratio(math.exp(middle), 0.0, math.inf)
    reach = student(freedom) * error
    return Ratio(math.exp(middle), math.exp(middle - reach), math.exp(min(middle + reach, 700.0)))


def spread(values: Sequence[float]) -> float:
    """Returns how far the values lie apart: (largest - smallest) / median."""
    return (max(values) - min(values)) / statistics.median(values)
