"""Between which measured budgets the curve falls: the budgets at which a test does not say.

The location is where the true drop passes a threshold: half of its own height at the smallest budget (``half``:
the middle of the fall), or the margin (``margin``: the first loss that counts). The estimate is read off the isotonic
regression (Barlow et al. 1972) of the mean drop at each budget, planned and added, that never falls when the
budget does: the largest budget whose fit has reached the threshold, and the next larger one measured.

The interval is that of tests turned round. From the smallest budget upwards, "the drop has not reached the
threshold here" is tested at each; the last budget of the sequence that is rejected is the lower end. From 1.0
downwards, "it has" is tested; the last one rejected is the upper end. A bootstrap of the fit, which stood here before,
covered 71 to 85 % for the first loss of a margin: near the margin a fit is as often above as below it.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from kvlab.compression.transition.drop import MIN_CLUSTERS, leading, p_exceeds, p_holds
from kvlab.compression.transition.scores import FULL, Floats, Ints, Scores, Treatment
from kvlab.stats.scores import DRAWS

Threshold = Literal["half", "margin"]
METHOD = "tests at each budget, from both ends"


class Bracket(NamedTuple):
    """``below``: the largest budget that has reached the threshold, 0 where none has; ``above``: the next larger."""

    below: Floats
    above: Floats


@dataclass(frozen=True)
class Location:
    """Where the drop passes its threshold.

    Attributes:
        threshold: Which one.
        below: Of the fit to all examples: the largest measured budget that has reached it; ``None``: none.
        above: The next larger measured one.
        low: Of the interval; 0 means below the smallest budget; ``None`` with a ``reason``.
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

    By the min-max formula, fit_i = max over j ≤ i of min over k ≥ i of mean(x_j..x_k), which takes many
    curves at once; `scipy.optimize.isotonic_regression` gives the same, one row at a time. Not below 0
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
    resamples: int = DRAWS,
    treatment: Treatment = "zero",
) -> Location:
    """Return where the curve over all budgets, planned and added, falls.

    A budget that some example was not asked at is left out: a round that was stopped in its
    middle has other examples, and says nothing of the curve. So is a budget without a pair.
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
    low, high = interval(
        drops.T, scores.clusters, budgets, threshold, margin, confidence, seed=seed, draws=resamples
    )
    return Location(threshold, below, above, low, high)


def interval(
    drops: Floats,
    clusters: Ints,
    budgets: Floats,
    threshold: Threshold,
    margin: float,
    confidence: float,
    *,
    seed: int,
    draws: int = DRAWS,
) -> tuple[float, float]:
    """Return the interval of the location; its ends are measured budgets, or 0, or 1.0.

    Args:
        drops: In the order of ``budgets``, NaN where missing; [budgets, examples].
        clusters: Of the examples.
        budgets: Below 1.0, descending.
        threshold: Which one.
        margin: Of the rule.
        confidence: Of the two-sided interval.
        seed: Of the tests' weights.
        draws: How many.
    """
    level, how = (1 - confidence) / 2, {"seed": seed, "draws": draws}
    if threshold == "margin":
        past, before, bound, most = drops, drops, margin, 1.0
    else:  # by how much a drop lies above half of the last one; half of what is no drop is nowhere
        past, before, bound, most = drops - drops[-1:] / 2, drops - drops[-1:] / 2, 0.0, 1.5
    p_past = p_exceeds(past, clusters, bound, least=-most, **how)
    p_past[-1] = p_exceeds(drops[-1:], clusters, margin, **how)[0]
    p_before = p_holds(before, clusters, bound, most=most, **how)
    reached, not_yet = int(leading(p_past[::-1] <= level)), int(leading(p_before <= level))
    low = float(budgets[len(budgets) - reached]) if reached else 0.0
    high = float(budgets[not_yet - 1]) if not_yet else FULL
    return low, max(low, high)
