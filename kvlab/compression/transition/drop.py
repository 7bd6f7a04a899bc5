"""How large a paired drop is, and whether it exceeds a margin: tests on cluster sums.

Examples that share a context are not independent, so the unit is the context: the standard error is
that of a mean from cluster totals (Cochran 1977, Sampling Techniques, ch. 9; the CR1 sandwich), the
reference distribution a t with one degree of freedom fewer than there are contexts. A percentile
bootstrap is too narrow at twenty values, and is not used for a call.

All functions take leading dimensions, so that a simulation is one call.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import special

from kvlab.compression.transition.scores import Bools, Floats, Ints

#: From so many clusters on there is an interval; a test below it could not reject at 2.5 % anyway.
MIN_CLUSTERS = 5
#: Sign flips drawn where there are too many clusters to go through all of them.
FLIPS = 4095
_EXACT_UP_TO = 12


class Mean(NamedTuple):
    """Of the last axis: the mean, its clustered standard error, the clusters and the values in it."""

    mean: Floats
    error: Floats
    clusters: Ints
    n: Ints


@dataclass(frozen=True)
class Drop:
    """A paired drop from budget 1.0 to another one.

    Attributes:
        budget: The other one.
        estimate: Mean of score(1.0) - score(budget); ``None`` without a pair.
        low: Of the two-sided t interval; ``None`` with a ``reason``.
        high: The other end.
        n: Pairs.
        clusters: Contexts among them.
        p_exceeds: One-sided, of "the drop is at most the margin".
        p_holds: One-sided, of "the drop is at least the margin".
        reason: Why there is no interval.
    """

    budget: float
    estimate: float | None
    low: float | None
    high: float | None
    n: int
    clusters: int
    p_exceeds: float
    p_holds: float
    reason: str | None = None


def totals(values: Floats, clusters: Ints) -> Floats:
    """Return the sum over each cluster; [..., examples] to [..., clusters], in the clusters' order."""
    if not len(clusters):
        return np.zeros((*values.shape[:-1], 0))
    order = np.argsort(clusters, kind="stable")
    _, starts = np.unique(clusters[order], return_index=True)
    return np.asarray(np.add.reduceat(values[..., order], starts, axis=-1))


def clustered_mean(values: Floats, clusters: Ints) -> Mean:
    """Return the mean over the last axis with its cluster-robust error; NaN values are left out.

    error² = G / (G - 1) · Σ_g (Σ_{i in g} (x_i - mean))² / n², over the G clusters with a value.
    """
    there = ~np.isnan(values)
    n = there.sum(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(there, values, 0.0).sum(axis=-1) / n
        rest = np.where(there, values - mean[..., None], 0.0)
        groups = (totals(there.astype(float), clusters) > 0).sum(axis=-1)
        spread = (totals(rest, clusters) ** 2).sum(axis=-1)
        error = np.sqrt(groups / (groups - 1) * spread) / n
    error = np.where(error < 1e-12, 0.0, error)  # what is left of equal values is rounding
    return Mean(mean, error, groups, n)


def p_exceeds(values: Floats, clusters: Ints, margin: float, *, seed: int) -> Floats:
    """Return the one-sided p-value of "the mean drop is at most ``margin``".

    The larger of two: a clustered t-test at the margin, and a sign-flip test of no drop at all,
    which is exact where the two budgets' answers could be exchanged (Fisher 1935) and keeps the t-test
    honest where few or equal differences leave it no spread: k contexts that all fall give no p
    below 2^-k. Without a value, or with one cluster, it is 1. Like every t-test it knows only the tails that
    it has seen: where nearly all examples lose a little more than the margin and a rare few gain much, a
    drop of the margin itself is called too often below some 200 contexts.

    Args:
        values: Differences score(1.0) - score(budget), NaN where missing; [..., examples].
        clusters: Of the examples.
        margin: What a drop must exceed.
        seed: Of the sign flips.
    """
    found = clustered_mean(values, clusters)
    p = _upper_tail(found.mean - margin, found.error, found.clusters)
    again = p < 0.25  # above it the t-test alone says no
    if again.any():
        p[again] = np.maximum(p[again], sign_flip(values[again], clusters, seed=seed))
    return p


def p_holds(values: Floats, clusters: Ints, margin: float) -> Floats:
    """Return the one-sided p-value of "the mean drop is at least ``margin``".

    A clustered t-test whose error is not taken below the one that this hypothesis itself implies:
    where a drop of m comes from a share m of answers that fall from 1 to 0, the variance is m (1 - m)
    per context, as in the score interval (Wilson 1927). Twenty answers without a change thus do not
    show that fewer than one in twenty would.
    """
    found = clustered_mean(values, clusters)
    with np.errstate(invalid="ignore", divide="ignore"):
        least = np.sqrt(max(margin * (1 - margin), 0.0) / found.clusters)
    return _upper_tail(margin - found.mean, np.fmax(found.error, least), found.clusters)


def _upper_tail(distance: Floats, error: Floats, clusters: Ints) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):
        t = np.where(error > 0, distance / error, np.where(distance > 1e-12, np.inf, -np.inf))
        p = special.stdtr(np.maximum(clusters - 1, 1), -t)
    return np.atleast_1d(np.where((clusters < 2) | np.isnan(distance), 1.0, p))


def sign_flip(values: Floats, clusters: Ints, *, seed: int) -> Floats:
    """Return the one-sided p-value of the sum of ``values`` under flips of whole clusters' signs.

    Every flip where there are at most 12 clusters, else 4,095 seeded ones, the observed one added.
    """
    sums = totals(np.nan_to_num(values), clusters)
    groups = sums.shape[-1]
    if groups <= _EXACT_UP_TO:
        every = (np.arange(2**groups)[:, None] >> np.arange(groups)) & 1
        signs, added = 1.0 - 2.0 * every, 0
    else:
        signs, added = np.random.default_rng(seed).choice([-1.0, 1.0], size=(FLIPS, groups)), 1
    rows = sums.reshape(-1, groups)
    observed = rows.sum(axis=-1) - 1e-9
    above = np.empty(len(rows))
    for start in range(0, len(rows), 1024):  # the product of all of a simulation would not fit
        part = slice(start, start + 1024)
        above[part] = (rows[part] @ signs.T >= observed[part, None]).sum(axis=-1)
    p: Floats = (above + added) / (len(signs) + added)
    return p.reshape(sums.shape[:-1])


def drop_at(
    budget: float, values: Floats, clusters: Ints, *, margin: float, confidence: float, seed: int
) -> Drop:
    """Return the drop at one budget, with its interval and both tests.

    Args:
        budget: Only named.
        values: Differences; [examples].
        clusters: [examples].
        margin: Of both tests.
        confidence: Of the two-sided t interval.
        seed: Of the sign flips.
    """
    found = clustered_mean(values, clusters)
    n, groups, error = int(found.n), int(found.clusters), float(found.error)
    if n == 0:
        return Drop(budget, None, None, None, 0, 0, 1.0, 1.0, "no pair")
    mean = float(found.mean)
    exceeds = float(p_exceeds(values[None], clusters, margin, seed=seed)[0])
    holds = float(p_holds(values[None], clusters, margin)[0])
    low = high = reason = None
    if groups < MIN_CLUSTERS:
        reason = f"{groups} contexts: an interval needs {MIN_CLUSTERS}"
    elif error == 0:
        reason = "all differences are equal: no spread to make an interval from"
    else:
        half = float(special.stdtrit(groups - 1, (1 + confidence) / 2)) * error
        low, high = max(mean - half, -1.0), min(mean + half, 1.0)  # scores are in [0, 1]
    return Drop(budget, mean, low, high, n, groups, exceeds, holds, reason)


def holm(p: Floats) -> Floats:
    """Return p-values adjusted for the family along the last axis (Holm 1979); NaN counts as 1."""
    p = np.where(np.isnan(p), 1.0, p)
    order = np.argsort(p, axis=-1, kind="stable")
    count = p.shape[-1]
    stepped = np.take_along_axis(p, order, -1) * (count - np.arange(count))
    stepped = np.minimum(np.maximum.accumulate(stepped, axis=-1), 1.0)
    adjusted: Floats = np.empty(stepped.shape)
    np.put_along_axis(adjusted, order, stepped, -1)
    return adjusted


def leading(rejected: Bools) -> Ints:
    """Return how many tests in a row are rejected from the first on, along the last axis."""
    return np.asarray(np.cumprod(rejected, axis=-1).sum(axis=-1))
