"""Intervals with a seed and a sample floor."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

#: Below this many values a bootstrap interval of a median is not worth its name.
MIN_BOOTSTRAP_N = 5


@dataclass(frozen=True)
class Interval:
    """An estimate with its interval; ``low`` and ``high`` are ``None`` with a ``reason`` where there is none."""

    estimate: float | None
    low: float | None
    high: float | None
    n: int
    confidence: float
    reason: str | None = None


def bootstrap_median(
    values: Sequence[float], *, seed: int, confidence: float = 0.95, resamples: int = 10_000
) -> Interval:
    """Return the median of ``values`` with a percentile bootstrap interval (Efron 1979).

    Args:
        values: One per unit of resampling (a pair), finite.
        seed: Of the resampling; the same seed gives the same interval.
        confidence: Of the two-sided interval.
        resamples: How many.
    """
    n = len(values)
    if n == 0:
        return Interval(None, None, None, 0, confidence, "no values")
    middle = float(np.median(values))
    if n < MIN_BOOTSTRAP_N:
        return Interval(middle, None, None, n, confidence, f"{n} pairs: an interval needs {MIN_BOOTSTRAP_N}")
    from scipy import stats  # takes a second to import, and most commands need no interval

    if np.ptp(values) == 0:  # scipy warns and answers NaN
        return Interval(middle, middle, middle, n, confidence)
    result = stats.bootstrap(
        (np.asarray(values, dtype=float),),
        np.median,
        confidence_level=confidence,
        n_resamples=resamples,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(middle, float(result.low), float(result.high), n, confidence)
