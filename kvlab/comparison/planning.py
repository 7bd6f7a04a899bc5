"""How many engine starts and pairs a wanted precision costs, from the spread that stored runs have shown.

Two levels (Kalibera & Jones 2013): starts differ by σ_s, the trials of a start by σ_w, both on logarithms. With k starts
of n trials a side, the ratio's standard error is sqrt(2 (σ_s² + σ_w² / n) / k). No number of trials makes up for too
few starts; and where a start costs c_s and a trial c_w, n = sqrt(c_s / c_w · σ_w² / σ_s²) is the cheapest number.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from kvlab.comparison.sides import Side
from kvlab.stats.ratios import LEAST_STARTS, quantile

MOST_STARTS = 50
MOST_TRIALS = 100_000


@dataclass(frozen=True)
class Spread:
    """What varies, on logarithms.

    Attributes:
        between: σ_s² of the starts; ``None``: there is one start, or they are unknown.
        within: σ_w² of the trials of a start, each less what is usual at its point.
        starts, trials: How many they are from.
        start_s, trial_s: What a start and a trial took, in seconds; ``None``: unknown.
    """

    between: float | None
    within: float | None
    starts: int
    trials: int
    start_s: float | None
    trial_s: float | None

    @property
    def words(self) -> str:
        """In one sentence."""
        within = "unknown" if self.within is None else f"{math.sqrt(self.within):.1%}"
        between = "unknown, as there is one" if self.between is None else f"{math.sqrt(self.between):.1%}"
        return f"trials of a start spread by {within} (n = {self.trials}), starts by {between} (n = {self.starts})"


@dataclass(frozen=True)
class Design:
    """One way to the wanted precision.

    Attributes:
        starts: Of each side.
        trials: Of each start.
        half_width: Of the ratio's interval, as a share, that is expected.
        cost_s: Of both sides, in seconds; ``None``: what a start or a trial takes is unknown.
    """

    starts: int
    trials: int
    half_width: float
    cost_s: float | None


def spread(side: Side, table: pd.DataFrame, start_s: float | None = None) -> Spread:
    """Return the variance components of one metric on one side.

    The variance between starts is that of their means less what the trials' own spread gives them; 0 where it is less.

    Args:
        side: Whose runs they are.
        table: The metric's rows of `kvlab.comparison.values.table`.
        start_s: What a start takes; ``None``: the gap between the trials of two starts, where one was seen.
    """
    off = table["log"] - table.groupby("point")["log"].transform("mean")
    groups = [part.to_numpy() for _, part in off.groupby(table["start"], sort=False)]
    # What is usual at a point is taken from these trials, too: a trial alone at its point tells no spread.
    freedom = len(table) - table["point"].nunique() - len(groups) + 1
    squares = sum(float(((part - part.mean()) ** 2).sum()) for part in groups)
    within = squares / freedom if freedom > 0 else None
    between = None
    if len(groups) >= LEAST_STARTS and within is not None:
        means = np.array([part.mean() for part in groups])
        between = max(0.0, float(means.var(ddof=1)) - within * float(np.mean([1 / len(p) for p in groups])))
    return Spread(between, within, len(groups), len(table), start_s or _start_s(side), _trial_s(side))


def _trial_s(side: Side) -> float | None:
    frame = side.requests.dropna(subset=["trial_id"])
    spans = frame.groupby(["run", "session_id", "trial_id"]).agg(a=("sent_ns", "min"), b=("done_ns", "max"))
    seconds = (spans["b"].astype(float) - spans["a"].astype(float)) / 1e9
    return float(seconds.median()) if len(seconds) else None


def _start_s(side: Side) -> float | None:
    """Return the median gap between the last request of one start and the first of the next, in one session."""
    gaps = []
    for _, part in side.requests.groupby(["run", "session_id"], sort=False):
        spans = (
            part.groupby("start", sort=False).agg(a=("sent_ns", "min"), b=("done_ns", "max")).astype(float)
        )
        if len(spans) > 1:
            gaps += [float(gap) / 1e9 for gap in spans["a"].to_numpy()[1:] - spans["b"].to_numpy()[:-1]]
    known = [gap for gap in gaps if gap > 0]
    return float(np.median(known)) if known else None


def designs(found: Spread, precision: float, confidence: float = 0.95) -> list[Design]:
    """Return the ways to an interval of at most ``precision`` on either side of the ratio, one a number of starts.

    Args:
        found: What varies.
        precision: Half of the interval's width, as a share: 0.02 is ± 2 %.
        confidence: Of the interval.
    """
    if found.within is None or found.between is None:
        return []
    goal, made = math.log1p(precision), []
    for starts in range(LEAST_STARTS, MOST_STARTS + 1):
        factor = quantile(2 * starts - 2, confidence)
        room = (goal / factor) ** 2 * starts / 2 - found.between  # what the trials' spread may add
        if room <= 0:
            continue
        trials = max(1, math.ceil(found.within / room))
        if trials > MOST_TRIALS:
            continue
        error = math.sqrt(2 * (found.between + found.within / trials) / starts)
        made.append(Design(starts, trials, math.expm1(factor * error), _cost(found, starts, trials)))
    return _worthwhile(made)


def _cost(found: Spread, starts: int, trials: int) -> float | None:
    if found.start_s is None or found.trial_s is None:
        return None
    return 2 * starts * (found.start_s + trials * found.trial_s)


def _worthwhile(made: Sequence[Design]) -> list[Design]:
    """Return the designs with fewer trials in all than any with fewer starts."""
    kept: list[Design] = []
    for design in made:
        if not kept or design.trials < kept[-1].trials:
            kept.append(design)
    return kept


def cheapest(made: Sequence[Design]) -> Design | None:
    """Return the design that costs least; where costs are unknown, that with the fewest trials in all."""
    if not made:
        return None
    return min(made, key=lambda d: d.cost_s if d.cost_s is not None else d.starts * d.trials)


def pairs_alone(found: Spread, precision: float, confidence: float = 0.95) -> int | None:
    """Return how many pairs of one start each would do, if starts did not differ; ``None``: the spread is unknown."""
    if found.within is None:
        return None
    goal, n = math.log1p(precision), 6
    while n < MOST_TRIALS:
        if quantile(n - 1, confidence) * math.sqrt(2 * found.within / n) <= goal:
            return n
        n = max(n + 1, math.ceil(n * 1.02))
    return None


def rows(made: Sequence[Design]) -> list[Mapping[str, object]]:
    """Return designs as rows of a table."""
    best = cheapest(made)
    return [
        {
            "starts a side": d.starts, "trials a start": d.trials, "expected ±": f"{d.half_width:.1%}",
            "minutes": None if d.cost_s is None else round(d.cost_s / 60, 1), "cheapest": "<" if d == best else "",
        }
        for d in made
    ]  # fmt: skip
