"""Between which measured budgets the curve falls: a bootstrap of a monotone fit.

The fitted drop is the isotonic regression (Barlow et al. 1972) of the mean drop at each budget, planned
and added, that never falls when the budget does; it is 0 at 1.0. The transition is where it passes a
threshold: half of its own height at the smallest budget (``half``: the middle of the fall), or the
margin (``margin``: the first loss that counts). Nothing was measured between two budgets, so a resample
does not give a point but a bracket: the largest budget whose fit has reached the threshold, and the next
larger one measured. The interval runs from the lower quantile of the one to the upper quantile of the other.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from kvlab.compression.transition.bootstrap import resampled_means
from kvlab.compression.transition.drop import MIN_CLUSTERS
from kvlab.compression.transition.scores import FULL, Floats, Scores, Treatment

Threshold = Literal["half", "margin"]


class Bracket(NamedTuple):
    """``below``: the largest budget that has reached the threshold, 0 where none has; ``above``: the next larger."""

    below: Floats
    above: Floats


@dataclass(frozen=True)
class Location:
    """Where the fitted drop passes its threshold.

    Attributes:
        threshold: Which one.
        below: Of the fit to all examples: the largest measured budget that has reached it; ``None``: none.
        above: The next larger measured one.
        low: Of the bootstrap interval; 0 means below the smallest budget; ``None`` with a ``reason``.
        high: The other end.
        reason: Why there is no interval.
    """

    threshold: Threshold
    below: float | None
    above: float | None
    low: float | None
    high: float | None
    reason: str | None = None


def monotone(drops: Floats) -> Floats:
    """Return the isotonic regression along the last axis, never falling, and not below 0.

    By the min-max formula, fit_i = max over j ≤ i of min over k ≥ i of mean(x_j..x_k), which takes all
    resamples at once; `scipy.optimize.isotonic_regression` gives the same, one row at a time. Not below 0
    because the curve starts at 0 at budget 1.0.

    Args:
        drops: In the order of falling budgets, without NaN; [..., budgets].
    """
    count = drops.shape[-1]
    total = np.concatenate([np.zeros((*drops.shape[:-1], 1)), np.cumsum(drops, axis=-1)], axis=-1)
    fit = np.full(drops.shape, -np.inf)
    for j in range(count):
        means = (total[..., j + 1 :] - total[..., j : j + 1]) / np.arange(1, count - j + 1)
        smallest = np.minimum.accumulate(means[..., ::-1], axis=-1)[..., ::-1]
        fit[..., j:] = np.maximum(fit[..., j:], smallest)
    return np.asarray(np.maximum(fit, 0.0))


def bracket(drops: Floats, budgets: Floats, threshold: Threshold, margin: float) -> Bracket:
    """Return between which budgets the fit passes the threshold.

    Args:
        drops: Means in the order of ``budgets``; [..., budgets].
        budgets: Below 1.0, descending.
        threshold: ``half`` counts only where the whole fit exceeds the margin: half of noise is nowhere.
        margin: Of the rule.
    """
    fit = monotone(drops)
    height = fit[..., -1:]
    level = np.full_like(height, margin) if threshold == "margin" else height / 2
    reached = (fit >= level - 1e-12) & (height > margin + 1e-12)
    first = np.where(reached.any(axis=-1), reached.argmax(axis=-1), len(budgets))
    return Bracket(np.append(budgets, 0.0)[first], np.insert(budgets, 0, FULL)[first])


def locate(
    scores: Scores,
    *,
    margin: float,
    threshold: Threshold = "half",
    confidence: float,
    seed: int,
    resamples: int,
    treatment: Treatment = "zero",
) -> Location:
    """Return where the curve over all budgets, planned and added, falls.

    A budget that some example was not asked at is left out of the fit: a round that was stopped in its
    middle has other examples, and says nothing of the curve. So is a budget without a pair, and a
    resample in which one has none.
    """
    drops = scores.drops(treatment)
    asked = ~np.isnan(scores.values) | scores.failed
    used = (scores.budgets < FULL) & asked.all(axis=0) & ~np.isnan(drops).all(axis=0)
    if not used.any():
        return Location(threshold, None, None, None, None, "no budget below 1.0 has a pair")
    drops, budgets = drops[:, used], scores.budgets[used]
    found = bracket(np.nanmean(drops, axis=0), budgets, threshold, margin)
    below = float(found.below) or None
    above = float(found.above) if below is not None else None
    clusters = len(np.unique(scores.clusters[~np.isnan(drops).all(axis=1)]))
    if clusters < MIN_CLUSTERS:
        reason = f"{clusters} contexts: an interval needs {MIN_CLUSTERS}"
        return Location(threshold, below, above, None, None, reason)
    means = resampled_means(drops, scores.clusters, seed=seed, resamples=resamples)
    low, high = interval(means[~np.isnan(means).any(axis=1)], budgets, threshold, margin, confidence)
    return Location(threshold, below, above, float(low), float(high))


def interval(
    means: Floats, budgets: Floats, threshold: Threshold, margin: float, confidence: float
) -> tuple[Floats, Floats]:
    """Return the interval from the resamples' mean drops; [..., resamples, budgets] to two of [...].

    Its ends are measured budgets (or 0, or 1.0): quantiles are taken without interpolation, outwards.
    """
    found = bracket(means, budgets, threshold, margin)
    low = np.quantile(found.below, (1 - confidence) / 2, axis=-1, method="lower")
    high = np.quantile(found.above, (1 + confidence) / 2, axis=-1, method="higher")
    return low, high
