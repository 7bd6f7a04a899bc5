"""Percentile bootstrap (Efron 1979) of whole clusters, seeded."""

from functools import lru_cache

import numpy as np

from kvlab.compression.transition.drop import totals
from kvlab.compression.transition.scores import Floats, Ints
from kvlab.stats.intervals import MIN_BOOTSTRAP_N, Interval

_CHUNK = 1000


def resampled_means(values: Floats, clusters: Ints, *, seed: int, resamples: int) -> Floats:
    """Return column means of resamples of whole clusters; [resamples, columns], NaN where a column is empty.

    Args:
        values: NaN where missing; [examples, columns].
        clusters: [examples].
        seed: Of the resampling.
        resamples: How many.
    """
    sums = totals(np.nan_to_num(values).T, clusters).T
    counts = totals((~np.isnan(values)).T.astype(float), clusters).T
    means = np.empty((resamples, values.shape[1]))
    for start in range(0, resamples, _CHUNK):  # weights of all resamples at once may not fit
        weights = _weights(len(sums), seed, start, min(_CHUNK, resamples - start))
        with np.errstate(invalid="ignore", divide="ignore"):
            means[start : start + len(weights)] = (weights @ sums) / (weights @ counts)
    return means


@lru_cache(maxsize=16)
def _weights(groups: int, seed: int, start: int, size: int) -> Floats:
    """Return how often each cluster is drawn; [size, groups]. A report resamples the same clusters again and again."""
    draw = np.random.default_rng([seed, start])
    return np.asarray(draw.multinomial(groups, np.full(groups, 1 / groups), size=size), dtype=float)


def mean_interval(
    values: Floats, clusters: Ints, *, seed: int, confidence: float, resamples: int
) -> Interval:
    """Return the mean of ``values`` with a percentile interval over resampled clusters.

    It describes a curve. Calls are made by `call`, with a test that keeps its level at few clusters.

    Args:
        values: NaN where missing; [examples].
        clusters: [examples].
        seed: Of the resampling.
        confidence: Of the two-sided interval.
        resamples: How many.
    """
    there = ~np.isnan(values)
    values, clusters = values[there], clusters[there]
    n, groups = len(values), len(np.unique(clusters))
    if n == 0:
        return Interval(None, None, None, 0, confidence, "no values")
    mean = float(values.mean())
    if groups < MIN_BOOTSTRAP_N:
        reason = f"{groups} contexts: an interval needs {MIN_BOOTSTRAP_N}"
        return Interval(mean, None, None, n, confidence, reason)
    means = resampled_means(values[:, None], clusters, seed=seed, resamples=resamples)[:, 0]
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(mean, float(low), float(high), n, confidence)


def percentile(values: Floats, percent: int) -> tuple[float | None, str | None]:
    """Return a percentile (linear interpolation), or ``None`` and why.

    p50 needs 5 values; p95 needs 20, as below that the p95 lies above the second largest value: it would
    be the maximum by another name.
    """
    known = values[~np.isnan(values)]
    least = {50: 5, 95: 20}[percent]
    if len(known) == 0:
        return None, "no values"
    if len(known) < least:
        return None, f"{len(known)} values: p{percent} needs {least}"
    return float(np.percentile(known, percent)), None
