"""Assertions on behaviour: what must be true if the scores mean what they seem to."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from kvlab.compression.transition.drop import holm, p_exceeds
from kvlab.compression.transition.scores import FULL, Scores

#: Rows to read for each budget.
SAMPLE = 10


@dataclass(frozen=True)
class Assertion:
    """One of them; ``passed`` is ``None`` where there was nothing to see."""

    name: str
    asks: str
    seen: str
    passed: bool | None


def no_systematic_gain(scores: Scores, *, alpha: float, seed: int) -> Assertion:
    """Assert that a smaller budget does not score more than 1.0 (tests as in the rule, Holm over budgets)."""
    asks = "no smaller budget scores systematically more than 1.0"
    below = scores.budgets < FULL
    gains = -scores.drops("zero")[:, below].T
    if not gains.size or np.isnan(gains).all():
        return Assertion("no_systematic_gain", asks, "no pair", None)
    adjusted = holm(p_exceeds(gains, scores.clusters, 0.0, seed=seed))
    found = [
        f"{scores.name(budget)} ({np.nanmean(row):+.3f}, adjusted p = {p:.2g})"
        for budget, row, p in zip(scores.budgets[below], gains, adjusted, strict=True)
        if p <= alpha / 2
    ]
    seen = "counter-intuitive improvement (metric/task mismatch or prompt leakage): " + "; ".join(found)
    return Assertion("no_systematic_gain", asks, seen if found else "none does", not found)


def no_new_failures_in_short_contexts(scores: Scores) -> Assertion:
    """Assert that in the shortest bin no answer is missing, or answers nothing, that did at 1.0."""
    asks = "in the shortest bin no answer fails that did not at budget 1.0, unless the serving did"
    if scores.values.shape[1] < 2 or not len(scores.bins):
        return Assertion("no_new_failures_in_short_contexts", asks, "nothing below 1.0", None)
    short = scores.only(scores.bins == scores.bins.min())
    new = (short.broken[:, 1:] & ~short.broken[:, :1]).sum(axis=0)
    parts = [
        f"{count} at {scores.name(float(budget))}"
        for budget, count in zip(scores.budgets[1:], new, strict=True)
        if count
    ]
    seen = f"{', '.join(parts) or 'none'} (of {len(short.bins)} examples in bin {int(scores.bins.min())})"
    return Assertion("no_new_failures_in_short_contexts", asks, seen, not parts)


def baseline_answers(scores: Scores, margin: float) -> Assertion:
    """Assert that at 1.0 there is something to lose: a mean score above the margin."""
    asks = f"at budget 1.0 the mean score is above the margin ({margin:g}): below it no drop can exceed it"
    column = scores.filled("zero")[:, 0]
    if np.isnan(column).all():
        return Assertion("baseline_answers", asks, "no answer at 1.0", None)
    mean = float(np.nanmean(column))
    return Assertion("baseline_answers", asks, f"{mean:.3f}", mean > margin)


def assertions(scores: Scores, *, margin: float, alpha: float, seed: int) -> list[Assertion]:
    """Return all of them."""
    return [
        no_systematic_gain(scores, alpha=alpha, seed=seed),
        no_new_failures_in_short_contexts(scores),
        baseline_answers(scores, margin),
    ]


def sample(frame: pd.DataFrame, *, seed: int, per_budget: int = SAMPLE) -> pd.DataFrame:
    """Return a seeded sample of raw answers of each budget, for reading: does the score agree with the eye?

    The same examples at every budget, as far as they are there.
    """
    rows = frame[frame["phase"].isin(("planned", "added"))]
    names = np.array(sorted(rows["example_id"].astype(str).unique()))
    chosen = set(np.random.default_rng(seed).permutation(names)[:per_budget].tolist())
    picked = rows[rows["example_id"].astype(str).isin(chosen)]
    return picked.sort_values(
        ["budget", "example_id"], ascending=[False, True], kind="stable", ignore_index=True
    )
