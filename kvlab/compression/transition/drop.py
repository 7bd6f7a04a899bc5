"""How large a paired drop is, and whether it exceeds a margin: tests on contexts.

Examples that share a context are not independent, so the unit is the context. Scores lie in [0, 1], so a
drop lies in [-1, 1]: intervals and both tests are those of `kvlab.stats.scores`, which count what a few contexts may not
have shown. A clustered t interval, which stood here before, covered 26 to 83 % with contexts of unequal sizes, and
its tests called a drop of exactly the margin in 37 to 100 % where nearly all examples lose a little more
and a rare few gain much.

All functions take leading dimensions, so that a simulation is one call.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from kvlab.compression.transition.scores import Bools, Floats, Ints
from kvlab.stats import scores as bounded
from kvlab.stats.scores import totals

#: From so many contexts on there is an interval.
MIN_CLUSTERS = bounded.LEAST_CONTEXTS


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
        low: Of the two-sided interval over contexts; ``None`` with a ``reason``.
        high: The other end.
        n: Pairs.
        clusters: Contexts among them.
        p_exceeds: One-sided, of "the drop is at most the margin".
        p_holds: One-sided, of "the drop is at least the margin".
        reason: Why there is no interval.
        method: Of the interval.
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
    method: str = bounded.METHOD


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


def p_exceeds(
    values: Floats,
    clusters: Ints,
    margin: float,
    *,
    seed: int,
    least: float = -1.0,
    draws: int = bounded.DRAWS,
) -> Floats:
    """Return the one-sided p-value of "the mean drop is at most ``margin``"; [..., examples] to [...].

    k contexts that all fall from 1 to 0 give no p below ((1 + margin) / 2)^k. Without a value it is 1.

    Args:
        values: Differences score(1.0) - score(budget), NaN where missing; [..., examples].
        clusters: Of the examples.
        margin: What a drop must exceed.
        seed: Of the weights.
        least: The smallest value that is possible.
        draws: How many weights.
    """
    return bounded.p_mean_at_most(values, clusters, margin, least=least, seed=seed, draws=draws)


def p_holds(
    values: Floats,
    clusters: Ints,
    margin: float,
    *,
    seed: int = 0,
    most: float = 1.0,
    draws: int = bounded.DRAWS,
) -> Floats:
    """Return the one-sided p-value of "the mean drop is at least ``margin``"; see `p_exceeds`.

    n contexts without a change give (1 - margin)^n, which is exact: twenty do not show that fewer than one
    in twenty would fall; seventy-two do at 2.5 %.
    """
    return bounded.p_mean_at_least(values, clusters, margin, most=most, seed=seed, draws=draws)


def drop_at(
    budget: float, values: Floats, clusters: Ints, *, margin: float, confidence: float, seed: int
) -> Drop:
    """Return the drop at one budget, with its interval and both tests.

    Args:
        budget: Only named.
        values: Differences; [examples].
        clusters: [examples].
        margin: Of both tests.
        confidence: Of the two-sided interval.
        seed: Of the weights.
    """
    found = bounded.mean_interval(values, clusters, least=-1.0, seed=seed, confidence=confidence)
    if found.estimate is None:
        return Drop(budget, None, None, None, 0, 0, 1.0, 1.0, "no pair")
    exceeds = float(p_exceeds(values[None], clusters, margin, seed=seed)[0])
    holds = float(p_holds(values[None], clusters, margin, seed=seed)[0])
    n = int((~np.isnan(values)).sum())
    return Drop(budget, found.estimate, found.low, found.high, n, found.n, exceeds, holds, found.reason)


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
