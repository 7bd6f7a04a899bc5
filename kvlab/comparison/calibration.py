"""How often this comparison would call two equal sides different.

By permutation of what is stored (Fisher 1935; Pitman 1937): were the sides equal, their labels would mean nothing. So
the effect is taken out, labels are exchanged at random where the design has them exchangeable (within a pair, within a
point, between starts), and the same procedure is asked again. The share of "faster" and "slower" is its false-alarm
rate on these data: their skew, their outliers, their number.

By A/A runs: runs of one configuration, compared with each other. These hold what no permutation of one run can
hold: that two starts of the same engine differ.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from kvlab.comparison import values
from kvlab.stats import ratios
from kvlab.stats.ratios import Effect

DRAWS = 1000
#: Of so few labellings a share says nothing.
LEAST_LABELLINGS = 20


@dataclass(frozen=True)
class FalseAlarms:
    """How often two equal sides were called different.

    Attributes:
        rate: ``None`` with a ``reason``.
        n: Of how many comparisons.
        low, high: Its exact binomial interval at 95 %; ``None`` without a rate.
        source: What they are: ``permutation`` or ``A/A runs``.
    """

    rate: float | None
    n: int
    low: float | None
    high: float | None
    source: str
    reason: str | None = None

    @property
    def words(self) -> str:
        """In one clause."""
        if self.rate is None or self.low is None or self.high is None:
            return f"unknown by {self.source}: {self.reason}"
        return f"{self.rate:.1%} of {self.n:,} equal comparisons by {self.source} [{self.low:.1%}, {self.high:.1%}]"


def counted(alarms: int, n: int, source: str) -> FalseAlarms:
    """Return a share of alarms with its interval."""
    if not n:
        return FalseAlarms(None, 0, None, None, source, "there is nothing to compare")
    low, high = exact(alarms, n)
    return FalseAlarms(alarms / n, n, low, high, source)


def exact(hits: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the exact binomial interval of a share (Clopper & Pearson 1934)."""
    from scipy import special  # the beta distribution's quantile alone

    tail = (1 - confidence) / 2
    low = 0.0 if hits == 0 else float(special.betaincinv(hits, n - hits + 1, tail))
    high = 1.0 if hits == n else float(special.betaincinv(hits + 1, n - hits, 1 - tail))
    return low, high


def permuted(
    first: pd.DataFrame,
    second: pd.DataFrame,
    margin: float,
    confidence: float,
    *,
    seed: int,
    draws: int = DRAWS,
) -> FalseAlarms:
    """Return the false-alarm rate of one metric's comparison, by permutation of its values.

    Args:
        first: The metric's rows of `values.table` of one side.
        second: Those of the other.
        margin: Of the verdict.
        confidence: Of the verdict.
        seed: Of the permutations.
        draws: How many; fewer where there are no more labellings.
    """
    source = "permutation"
    effect = values.effect(first, second)
    if effect.error is None:
        return FalseAlarms(None, 0, None, None, source, effect.reason)
    counts = [part["start"].nunique() for part in (first, second)]
    if min(counts) >= ratios.LEAST_STARTS:
        means = values.start_means(first, second)
        made = _labellings(means, seed, draws)
        if made is None:
            return FalseAlarms(
                None,
                0,
                None,
                None,
                source,
                f"{counts[0]} and {counts[1]} starts can be labelled in too few ways",
            )
        effects = (ratios.over_starts(a, b) for a, b in made)
        return _share(effects, margin, confidence, source)
    matched = values.pairs(first, second)
    if len(matched) >= min(len(first), len(second)) / 2:
        off = (matched["log_second"] - matched["log_first"]).to_numpy()
        off = off - off.mean()
        signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=(draws, len(off)))
        return _share((ratios.paired((off * row).tolist()) for row in signs), margin, confidence, source)
    return _share(_by_point(first, second, seed, draws), margin, confidence, source)


def _share(effects: Any, margin: float, confidence: float, source: str) -> FalseAlarms:  # noqa: ANN401 - an iterable
    outcomes = [effect.outcome(margin, confidence) for effect in effects]
    return counted(sum(item in ("faster", "slower") for item in outcomes), len(outcomes), source)


def _labellings(
    means: tuple[list[float], list[float]], seed: int, draws: int
) -> "list[tuple[list[float], list[float]]] | None":
    """Return the starts dealt anew to two sides, each way once, or at random where there are many."""
    pool = [value - float(np.mean(side)) for side in means for value in side]
    size, n = len(means[0]), len(means[0]) + len(means[1])
    ways = math.comb(n, size)
    if ways < LEAST_LABELLINGS:
        return None
    if ways <= draws:
        chosen = [set(c) for c in itertools.combinations(range(n), size)]
    else:
        rng = np.random.default_rng(seed)
        chosen = [set(rng.permutation(n)[:size].tolist()) for _ in range(draws)]
    return [([pool[i] for i in sorted(one)], [pool[i] for i in range(n) if i not in one]) for one in chosen]


def _by_point(first: pd.DataFrame, second: pd.DataFrame, seed: int, draws: int) -> "list[Effect]":
    rng = np.random.default_rng(seed)
    groups = []
    for point in sorted(set(first["point"]) & set(second["point"])):
        a, b = (part.loc[part["point"] == point, "log"].to_numpy() for part in (first, second))
        groups.append((str(point), np.concatenate([a - a.mean(), b - b.mean()]), len(a)))
    found = []
    for _ in range(draws):
        sides: tuple[dict[str, Sequence[float]], dict[str, Sequence[float]]] = ({}, {})
        for point, pool, size in groups:
            dealt = rng.permutation(pool)
            sides[0][point], sides[1][point] = dealt[:size].tolist(), dealt[size:].tolist()
        found.append(ratios.stratified(*sides))
    return found


def between(
    runs: Sequence[pd.DataFrame],
    margin: float,
    confidence: float,
    judge: Callable[[Effect], str] | None = None,
) -> tuple[FalseAlarms, list[dict[str, Any]]]:
    """Return the false-alarm rate of A/A runs, and every comparison of it.

    Every two runs of one configuration are compared, and listed; the rate and its interval are of those that share
    no run (the first with the second, the third with the fourth), since others are not independent.

    Args:
        runs: One metric's rows of `values.table` of each run, in the order of time.
        margin: Of the verdict.
        confidence: Of the verdict.
        judge: From an effect to an outcome; ``None``: `ratios.Effect.outcome`.
    """
    rows = []
    for i, j in itertools.combinations(range(len(runs)), 2):
        effect = values.effect(runs[i], runs[j])
        found = judge(effect) if judge else effect.outcome(margin, confidence)
        rows.append({
            "first": i, "second": j, "disjoint": i % 2 == 0 and j == i + 1, "ratio": effect.ratio, "outcome": found,
            "pairs": effect.n, "ratio_low": effect.interval(confidence).low, "ratio_high": effect.interval(confidence).high,
        })  # fmt: skip
    own = [row for row in rows if row["disjoint"]]
    alarms = sum(row["outcome"] in ("faster", "slower") for row in own)
    return counted(alarms, len(own), "A/A runs"), rows
