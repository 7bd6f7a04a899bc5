"""The calibrated rule: is there a transition, and between which planned budgets?

Each planned budget is tested against 1.0 on the same examples, from the smallest budget upwards, and
the first test that does not reject ends the sequence. Such a fixed sequence needs no correction: the
first true hypothesis in it is met at most once (Maurer, Hothorn & Lehmacher 1995; for a dose that
acts from some level on: Hsu & Berger 1999, JASA 94:468). It begins with the smallest budget because
there the drop is largest; begun at the top it would end at the first budget that is still good. In the other
direction, from 1.0 downwards, "the drop is below the margin" is tested the same way. Each direction has
half of alpha, which is the two-sided interval of 1 - alpha lying clear of the margin.

Budgets that were added where the scores fell are chosen by the same answers that a test would use. They
are not tested: the call rests on the plan alone, and they only narrow the location (`location`).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from kvlab.compression.transition.drop import Drop, drop_at, holm, leading
from kvlab.compression.transition.scores import FULL, Scores, Treatment

Outcome = Literal["transition", "no transition", "underpowered", "not tested"]


@dataclass(frozen=True)
class Call:
    """What the planned sequence says.

    Attributes:
        outcome: ``transition``: the drop at ``fails_at`` and at every planned budget below it exceeds the
            margin. ``no transition``: at every planned budget it is below. ``underpowered``: neither
            is shown. ``not tested``: there is no budget below 1.0, or no pair.
        fails_at: The largest planned budget that the sequence has reached.
        holds_at: The smallest planned budget down to which the drop is shown to be below the margin;
            1.0 where it is shown of none.
        drops: One a planned budget below 1.0, descending.
    """

    outcome: Outcome
    fails_at: float | None
    holds_at: float | None
    drops: tuple[Drop, ...]


@dataclass(frozen=True)
class BinCall:
    """What one length bin says at the smallest planned budget, and how far up its own sequence goes.

    Attributes:
        bin_idx: Which.
        drop: At the smallest planned budget.
        p_adjusted: Holm's, over the bins.
        falls: Whether the bin's drop exceeds the margin, at half of alpha over all bins together.
        fails_at: The largest budget of its own fixed sequence, at half of alpha over the number of bins.
    """

    bin_idx: int
    drop: Drop
    p_adjusted: float
    falls: bool
    fails_at: float | None


def drops_of(
    scores: Scores, *, margin: float, alpha: float, seed: int, treatment: Treatment = "zero"
) -> tuple[Drop, ...]:
    """Return the drop at each budget below 1.0, descending, with intervals of 1 - alpha."""
    values = scores.drops(treatment)
    return tuple(
        drop_at(float(budget), values[:, k], scores.clusters, margin=margin, confidence=1 - alpha, seed=seed)
        for k, budget in enumerate(scores.budgets)
        if budget < FULL
    )


def call(scores: Scores, *, margin: float, alpha: float, seed: int, treatment: Treatment = "zero") -> Call:
    """Return what the planned budgets of ``scores`` say.

    Args:
        scores: With added budgets or without; the added ones are left out.
        margin: A smaller drop is none.
        alpha: Of both directions together.
        seed: Of the sign flips.
        treatment: What failures count as.
    """
    drops = drops_of(scores.plan, margin=margin, alpha=alpha, seed=seed, treatment=treatment)
    if not any(drop.n for drop in drops):
        return Call("not tested", None, None, drops)
    rising = drops[::-1]
    reached = int(leading(np.array([drop.p_exceeds <= alpha / 2 for drop in rising])))
    held = int(leading(np.array([drop.p_holds <= alpha / 2 for drop in drops])))
    fails_at = rising[reached - 1].budget if reached else None
    holds_at = drops[held - 1].budget if held else FULL
    if reached:
        return Call("transition", fails_at, holds_at, drops)
    return Call("no transition" if held == len(drops) else "underpowered", None, holds_at, drops)


def call_bins(
    scores: Scores, *, n_bins: int, margin: float, alpha: float, seed: int, treatment: Treatment = "zero"
) -> list[BinCall]:
    """Return each bin's call, the empty ones too; none where no budget below 1.0 was planned."""
    plan = scores.plan
    each = [
        drops_of(plan.only(plan.bins == b), margin=margin, alpha=alpha, seed=seed, treatment=treatment)
        for b in range(n_bins)
    ]
    if not each or not each[0]:
        return []
    adjusted = holm(np.array([drops[-1].p_exceeds for drops in each]))
    calls = []
    for b, drops in enumerate(each):
        rising = drops[::-1]
        reached = int(leading(np.array([drop.p_exceeds <= alpha / 2 / n_bins for drop in rising])))
        p = float(adjusted[b])
        fails_at = rising[reached - 1].budget if reached else None
        calls.append(BinCall(b, drops[-1], p, p <= alpha / 2, fails_at))
    return calls
