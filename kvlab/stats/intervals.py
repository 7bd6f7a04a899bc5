"""Intervals with a seed and a sample floor."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

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


def bootstrap_mean(
    clusters: Sequence[Sequence[float]], *, seed: int, confidence: float = 0.95, resamples: int = 10_000
) -> Interval:
    """Return the mean of all values with a percentile bootstrap interval that draws whole clusters.

    Values of one cluster depend on each other, so only clusters are units (Davison and Hinkley 1997, 3.8).

    Args:
        clusters: Values by cluster, finite; an empty cluster counts for nothing.
        seed: Of the resampling.
        confidence: Of the two-sided interval.
        resamples: How many.
    """
    full = [cluster for cluster in clusters if len(cluster)]
    n = len(full)
    if n == 0:
        return Interval(None, None, None, 0, confidence, "no values")
    sums, sizes = np.array([sum(cluster) for cluster in full]), np.array([len(cluster) for cluster in full])
    estimate = float(sums.sum() / sizes.sum())
    if n < MIN_BOOTSTRAP_N:
        return Interval(
            estimate, None, None, n, confidence, f"{n} clusters: an interval needs {MIN_BOOTSTRAP_N}"
        )
    drawn = np.random.default_rng(seed).integers(0, n, (resamples, n))
    means = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(estimate, float(low), float(high), n, confidence)


def bootstrap_increase(
    base: Sequence[float],
    other: Sequence[float],
    *,
    seed: int,
    paired: bool,
    confidence: float = 0.95,
    resamples: int = 10_000,
) -> Interval:
    """Return by how many percent the mean of ``other`` lies above that of ``base``, with an interval.

    ``(mean(other) - mean(base)) / mean(base) * 100``, with a percentile bootstrap interval (Efron
    1979). Positive: ``other`` is larger.

    Args:
        base: Positive values.
        other: As many, in the same order, where ``paired``.
        seed: Of the resampling.
        paired: Whether the two are resampled together, pair by pair, or each on its own.
        confidence: Of the two-sided interval.
        resamples: How many.
    """
    n = min(len(base), len(other))
    if n == 0:
        return Interval(None, None, None, 0, confidence, "no values")
    estimate = float(_increase(np.asarray(base, dtype=float), np.asarray(other, dtype=float)))
    if n < MIN_BOOTSTRAP_N:
        reason = f"{n} values: an interval needs {MIN_BOOTSTRAP_N}"
        return Interval(estimate, None, None, n, confidence, reason)
    draw = np.random.default_rng(seed)
    first = draw.integers(0, len(base), (resamples, len(base)))
    second = first if paired else draw.integers(0, len(other), (resamples, len(other)))
    values = _increase(np.asarray(base, dtype=float)[first], np.asarray(other, dtype=float)[second])
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(estimate, float(low), float(high), n, confidence)


def _increase(base: "np.typing.NDArray[np.float64]", other: "np.typing.NDArray[np.float64]") -> Any:  # noqa: ANN401 - a scalar or an array
    below = base.mean(axis=-1)
    return (other.mean(axis=-1) - below) / below * 100
