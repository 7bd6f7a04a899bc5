"""Wrong answers or no answers: what a drop is made of, and what failures do to the call."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from kvlab.compression.transition.detect import TransitionCall, call
from kvlab.compression.transition.scores import TREATMENTS, Scores, Treatment

#: Labels that the integrity summary always shows, even where there is none of them.
ALWAYS = ("EMPTY_OUTPUT", "REFUSAL", "ENGINE_ERROR", "TIMEOUT", "FORMAT_ERROR")


@dataclass(frozen=True)
class Parts:
    """A mean drop as the sum of four parts, each in units of the score.

    Attributes:
        budget: Where.
        n: Examples asked at 1.0 and at the budget.
        drop: The whole, failures counting as 0.
        no_answer: From examples without an answer at one of the two.
        broken: From examples answered at both, with nothing in one of the answers (empty, refused, repetition).
        labelled: From examples with an answer at both that carries another label: cut off, or of another form.
            It is an answer, and less right.
        wrong: From examples answered at both, without a label: plainly less right.
        driven_by: ``failures`` (the first two), ``wrong answers`` (the others), ``failures and wrong answers``,
            or ``None`` where nothing fell.
    """

    budget: float
    n: int
    drop: float | None
    no_answer: float | None
    broken: float | None
    labelled: float | None
    wrong: float | None
    driven_by: str | None


def decompose(scores: Scores, budget: float) -> Parts:
    """Return what the drop from 1.0 to ``budget`` is made of."""
    k = int(np.flatnonzero(scores.budgets == budget)[0])
    drops = scores.drops("zero")[:, k]
    there = ~np.isnan(drops)
    n = int(there.sum())
    if n == 0:
        return Parts(budget, 0, None, None, None, None, None, None)
    lost = scores.failed[:, 0] | scores.failed[:, k]
    broken = (scores.broken[:, 0] | scores.broken[:, k]) & ~lost
    labelled = (scores.labelled[:, 0] | scores.labelled[:, k]) & ~lost & ~broken
    no_answer, nothing, with_label, wrong = (
        float(drops[there & part].sum()) / n for part in (lost, broken, labelled, ~lost & ~broken & ~labelled)
    )
    return Parts(
        budget,
        n,
        no_answer + nothing + with_label + wrong,
        no_answer,
        nothing,
        with_label,
        wrong,
        _driver(no_answer + nothing, with_label + wrong),
    )


def _driver(failures: float, wrong: float) -> str | None:
    """Name what makes at least three quarters of a drop."""
    whole = failures + wrong
    if whole <= 1e-12:
        return None
    if failures >= 0.75 * whole:
        return "failures"
    return "wrong answers" if wrong >= 0.75 * whole else "failures and wrong answers"


def by_treatment(
    scores: Scores, *, margin: float, alpha: float, seed: int
) -> dict[Treatment, TransitionCall]:
    """Return the call with failures as 0, as missing, and as both bounds."""
    return {
        treatment: call(scores, margin=margin, alpha=alpha, seed=seed, treatment=treatment)
        for treatment in TREATMENTS
    }


def decide_call(calls: Mapping[Treatment, TransitionCall]) -> bool:
    """Whether what failures count as changes the call: its outcome, or a budget that it names."""
    return (
        len({(made.outcome, made.fails_at, made.holds_at, made.also_falls_at) for made in calls.values()}) > 1
    )


def integrity(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the share of answers with each label, by budget; a failure without a label is UNKNOWN_FAILURE.

    Rows are labels (`ALWAYS` first, then what else there is), columns the budgets, descending; the first
    row, ``n``, holds the answers asked for, the second, ``none``, the share without any label.
    """
    labels = frame["outcome"].where(frame["outcome"].notna(), None)
    labels = labels.mask(frame["failed"].astype(bool) & labels.isna(), "UNKNOWN_FAILURE").fillna("none")
    shares = pd.crosstab(labels.astype(str), frame["budget"].astype(float), normalize="columns")
    others = sorted(set(shares.index) - {"none", *ALWAYS})
    table = shares.reindex(index=["none", *ALWAYS, *others], fill_value=0.0)
    counts = frame.groupby(frame["budget"].astype(float)).size().to_frame("n").T
    table = pd.concat([counts, table])
    return table[sorted(table.columns, reverse=True)]
