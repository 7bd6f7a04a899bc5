"""The median, with the interval between two order statistics.

The number of values below the median is binomial whatever the distribution is (Thompson 1936; Hahn & Meeker
1991, 5.2): skewed, with outliers, each value from a law of its own, with ties. A bootstrap of a median of
seven covers 86 to 90 % instead of 95, and equal values give it an interval of no width.
"""

import math
from collections.abc import Sequence

import numpy as np

from kvlab.stats.intervals import Interval
from kvlab.stats.serial import ENOUGH, effective_n

METHOD = "order statistics of the median"


def least_n(confidence: float) -> int:
    """Return the fewest values with an interval: the extremes of n enclose the median in 1 - 2^(1-n)."""
    return 1 + math.ceil(-math.log2(1 - confidence) - 1e-9)


def median_interval(values: Sequence[float], *, confidence: float = 0.95, unit: str = "pairs") -> Interval:
    """Return the median of ``values`` with an order-statistic interval.

    Neighbours that are alike count for fewer (`kvlab.stats.serial`). Where both ends fall on one of
    several equal values, they go out to the next other ones: a clock that ticks in whole milliseconds does
    not know the median better than that. Of values that are all equal there is no interval.

    Args:
        values: One per unit, finite, in the order in which they were measured.
        confidence: At least that of the two-sided interval.
        unit: What a value is of.
    """
    n = len(values)

    def without(reason: str) -> Interval:
        middle = float(np.median(values)) if n else None
        return Interval(middle, None, None, n, confidence, reason, METHOD, unit)

    if n == 0:
        return without("no values")
    if n < (least := least_n(confidence)):
        return without(f"{n} {unit}: an interval at {confidence:.0%} needs {least}")
    known = np.sort(np.asarray(values, dtype=float))
    if known[0] == known[-1]:
        return without(f"all {n} {unit} are equal: no spread to make an interval from")
    effective = effective_n(values)
    if effective < least:
        return without(
            f"neighbouring {unit} are so alike that {n} count for {effective:.0f}: an interval needs {least}"
        )
    rank = _rank(n, effective, confidence)
    low, high = float(known[rank - 1]), float(known[n - rank])
    if low == high:
        below, above = known[known < low], known[known > high]
        low, high = (float(below[-1]) if len(below) else low), (float(above[0]) if len(above) else high)
    assumes = None if n >= ENOUGH else f"neighbouring {unit} do not depend on each other"
    return Interval(float(np.median(known)), low, high, n, confidence, None, METHOD, unit, assumes)


def _rank(n: int, effective: float, confidence: float) -> int:
    """Return which smallest and which largest value the ends are, from 1."""
    from scipy import special  # the binomial distribution alone

    counted = math.floor(effective)
    rank = 0
    while float(special.bdtr(rank, counted, 0.5)) <= (1 - confidence) / 2:
        rank += 1
    return max(1, rank if counted == n else math.floor(rank / (counted + 1) * (n + 1)))
