"""Means of scores that have a smallest and a largest possible value, by context: intervals and tests.

A t interval or a bootstrap knows only the tails that it has seen. Where 97 of 100 contexts lose a little
more than a margin and three gain much, twenty contexts show none of the three, and both are certain of a loss
that is not there (false alarms 37 to 100 %). Scores are bounded, so the worst that may not have been seen is
known: it is added as one more context, all are weighted at random (the Bayesian bootstrap, Rubin 1981), and the
quantiles of the weighted means are the ends. Of zeros and ones this is the exact interval of Clopper & Pearson
(1934); for any other bounded values Gaffke (2005) conjectured that it covers, and no counterexample is known
(Learned-Miller & Thomas 2019, arXiv:1905.06208).

The unit is the context, however many examples it has: the mean is that of the examples, and the context that is
added has the size of the context of a random example, Σ n² / Σ n. One context with most of the examples thus
leaves a wide interval, as it should: it is one witness.
"""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from kvlab.stats.intervals import Interval
from kvlab.stats.resample import Floats, exponential_weights, multinomial_weights

Ints = npt.NDArray[np.int64]

#: Draws of a test: the smallest p-value is 1 / (DRAWS + 1).
DRAWS = 9_999
#: Fewer contexts than this get no interval: it would hardly be narrower than what is possible at all.
LEAST_CONTEXTS = 5
METHOD = "random weights over contexts with the worst possible one added"
_ROWS = 512  # of many means at once


class Totals(NamedTuple):
    """Of each context: the sum of its values, [..., contexts], and how many they are, [..., contexts]."""

    sums: Floats
    sizes: Floats


def by_context(values: Floats, contexts: Ints) -> Totals:
    """Return sums and sizes by context, NaN left out; [..., examples] to [..., contexts]."""
    return Totals(
        totals(np.nan_to_num(values), contexts), totals((~np.isnan(values)).astype(float), contexts)
    )


def totals(values: Floats, contexts: Ints) -> Floats:
    """Return the sum over each context; [..., examples] to [..., contexts], in the contexts' order."""
    if not len(contexts):
        return np.zeros((*values.shape[:-1], 0))
    order = np.argsort(contexts, kind="stable")
    _, starts = np.unique(contexts[order], return_index=True)
    return np.asarray(np.add.reduceat(values[..., order], starts, axis=-1))


def p_mean_at_most(
    values: Floats, contexts: Ints, bound: float, *, least: float, seed: int, draws: int = DRAWS
) -> Floats:
    """Return the one-sided p-value of "the mean is at most ``bound``"; [..., examples] to [...].

    It is the share of weighted means, with one more context whose values are all ``least``, that are at
    most ``bound``. 1 where there is no value, or the mean itself is not above the bound.

    Args:
        values: NaN where missing; [..., examples].
        contexts: [examples].
        bound: What the mean must exceed.
        least: The smallest value that is possible.
        seed: Of the weights.
        draws: How many.
    """
    found = by_context(np.atleast_2d(values), contexts)
    excess = (found.sums - bound * found.sizes).reshape(-1, found.sums.shape[-1])
    sizes = found.sizes.reshape(excess.shape)
    p = np.ones(len(excess))
    above = np.flatnonzero(excess.sum(axis=-1) > 1e-12)
    for start in range(0, len(above), _ROWS):
        rows = above[start : start + _ROWS]
        worst = _one_more(sizes[rows]) * (least - bound)
        p[rows] = (_at_most_0(excess[rows], worst, seed, draws) + 1) / (draws + 1)
    return p.reshape(values.shape[:-1]) if values.ndim > 1 else p


def _one_more(sizes: Floats) -> Floats:
    """Return the size of the context of a random example; [rows, contexts] to [rows]."""
    return np.asarray((sizes**2).sum(axis=-1) / sizes.sum(axis=-1))


def _at_most_0(excess: Floats, worst: Floats, seed: int, draws: int) -> Floats:
    count = np.zeros(len(excess))
    for weights in exponential_weights(excess.shape[-1] + 1, seed=seed, draws=draws):
        sums = weights[:, :-1] @ excess.T + np.outer(weights[:, -1], worst)
        count += (sums <= 1e-12).sum(axis=0)
    return count


def p_mean_at_least(
    values: Floats, contexts: Ints, bound: float, *, most: float, seed: int, draws: int = DRAWS
) -> Floats:
    """Return the one-sided p-value of "the mean is at least ``bound``"; see `p_mean_at_most`."""
    return p_mean_at_most(-np.asarray(values), contexts, -bound, least=-most, seed=seed, draws=draws)


def mean_interval(
    values: Floats,
    contexts: Ints,
    *,
    least: float = 0.0,
    most: float = 1.0,
    seed: int,
    confidence: float = 0.95,
    draws: int = DRAWS,
) -> Interval:
    """Return the mean of ``values`` with its interval over contexts.

    Args:
        values: NaN where missing; [examples].
        contexts: Of each example; [examples].
        least: The smallest value that is possible.
        most: The largest one.
        seed: Of the weights.
        confidence: Of the two-sided interval.
        draws: How many.
    """
    there = ~np.isnan(values)
    found = by_context(values[there], contexts[there])
    groups = len(found.sums)
    if groups == 0:
        return Interval(None, None, None, 0, confidence, "no values", METHOD, "contexts")
    mean = float(found.sums.sum() / found.sizes.sum())
    if groups < LEAST_CONTEXTS:
        reason = f"{groups} contexts: an interval needs {LEAST_CONTEXTS}"
        return Interval(mean, None, None, groups, confidence, reason, METHOD, "contexts")
    more = float(_one_more(found.sizes[None])[0])
    lows, highs = [], []
    for weights in exponential_weights(groups + 1, seed=seed, draws=draws):
        sums, sizes, added = (
            weights[:, :-1] @ found.sums,
            weights[:, :-1] @ found.sizes,
            weights[:, -1] * more,
        )
        lows.append((sums + added * least) / (sizes + added))
        highs.append((sums + added * most) / (sizes + added))
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(lows), tail), np.quantile(np.concatenate(highs), 1 - tail)
    return Interval(mean, float(low), float(high), groups, confidence, None, METHOD, "contexts")


def least_contexts(bound: float, level: float, *, least: float, most: float) -> int:
    """Return with how many equal contexts a mean of ``most`` is first shown to exceed ``bound`` at ``level``.

    Of G contexts that all have ``most``, the added one outweighs the others with the chance (1 - s)^G, where
    s is (most - bound) / (most - least).
    """
    share = (most - bound) / (most - least)
    return max(1, math.ceil(math.log(level) / math.log(1 - share))) if 0 < share < 1 else 1


def resampled_means(values: Floats, contexts: Ints, *, seed: int, resamples: int) -> Floats:
    """Return column means of bootstrap resamples of whole contexts; [resamples, columns], NaN where a column is empty.

    They describe, such as how often a column is the largest. They make no interval: of means of few contexts those
    of the percentile bootstrap are too narrow.

    Args:
        values: NaN where missing; [examples, columns].
        contexts: [examples].
        seed: Of the resampling.
        resamples: How many.
    """
    found = by_context(values.T, contexts)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.concatenate(
            [
                (weights @ found.sums.T) / (weights @ found.sizes.T)
                for weights in multinomial_weights(found.sums.shape[-1], seed=seed, draws=resamples)
            ]
        )
