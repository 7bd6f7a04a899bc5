"""The calibrated rule: is there a transition, and between which planned budgets?

Each planned budget is tested against 1.0 on the same examples, from the smallest budget upwards, and
the first test that does not reject ends the sequence. Such a fixed sequence needs no correction: the
first true hypothesis in it is met at most once (Maurer, Hothorn & Lehmacher 1995; for a dose that
acts from some level on: Hsu & Berger 1999, JASA 94:468). It begins with the smallest budget because
there the drop is largest; begun at the top it would end at the first budget that is still good. In the other
direction, from 1.0 downwards, "the drop is below the margin" is tested the same way. Each direction has
half of alpha, which is the two-sided interval of 1 - alpha lying clear of the margin.

Answers that are missing are not missing at random: a long context may time out because it is hard. So a loss
must be shown with every missing answer taken as makes the drop smallest, and its absence with every one taken as
makes it largest. A drop that is there only while missing answers count as wrong is no transition but ``failures``.

Budgets that were added where the scores fell are chosen by the same answers that a test would use. They
are not tested: the call rests on the plan alone, and they only narrow the location (`location`).
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from kvlab.compression.transition.drop import Drop, drop_at, holm, leading, p_exceeds, p_holds
from kvlab.compression.transition.scores import FULL, Scores, Treatment

TransitionOutcome = Literal[
    "transition", "no transition", "failures", "not monotone", "underpowered", "not tested"
]


@dataclass(frozen=True)
class TransitionCall:
    """What the planned sequence says.

    Attributes:
        outcome: ``transition``: the drop at ``fails_at`` and at every planned budget below it exceeds the
            margin, budgets that nothing was answered at left out. ``no transition``: at every planned budget it is
            below. ``failures``: it exceeds the margin only where missing answers count as wrong. ``not monotone``: it
            does at ``also_falls_at``, and the smallest budget scores better than one of them. ``underpowered``: none
            of these is shown. ``not tested``: there is no budget below 1.0, or no pair.
        fails_at: The largest planned budget that the sequence has reached.
        holds_at: The smallest planned budget down to which the drop is shown to be below the margin;
            1.0 where it is shown of none.
        drops: One per planned budget below 1.0, descending.
        also_falls_at: Planned budgets outside the sequence whose drop exceeds the margin by itself (Holm over all
            budgets): the curve comes back below them, or was not shown to stay down.
    """

    outcome: TransitionOutcome
    fails_at: float | None
    holds_at: float | None
    drops: tuple[Drop, ...]
    also_falls_at: tuple[float, ...] = ()


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
    scores: Scores, *, margin: float, alpha: float, seed: int, treatment: Treatment | None = None
) -> tuple[Drop, ...]:
    """Return the drop at each budget below 1.0, descending, with intervals of 1 - alpha.

    Args:
        scores: Of some budgets.
        margin: Of both tests.
        alpha: Of both directions together.
        seed: Of the weights.
        treatment: What failures count as; ``None``: as 0 in the estimate and its interval, and in each test
            as what speaks most against it.
    """
    values = scores.drops(treatment or "zero")
    found = [
        drop_at(float(budget), values[:, k], scores.clusters, margin=margin, confidence=1 - alpha, seed=seed)
        for k, budget in enumerate(scores.budgets)
        if budget < FULL
    ]
    if treatment is None and scores.failed.any():
        below = scores.budgets < FULL
        least, most = (scores.drops(bound)[:, below].T for bound in ("best", "worst"))
        exceeds = p_exceeds(least, scores.clusters, margin, seed=seed)
        holds = p_holds(most, scores.clusters, margin, seed=seed)
        found = [
            replace(drop, p_exceeds=float(a), p_holds=float(b))
            for drop, a, b in zip(found, exceeds, holds, strict=True)
        ]
    return tuple(found)


def call(
    scores: Scores, *, margin: float, alpha: float, seed: int, treatment: Treatment | None = None
) -> TransitionCall:
    """Return what the planned budgets of ``scores`` say.

    Args:
        scores: With added budgets or without; the added ones are left out.
        margin: A smaller drop is none.
        alpha: Of both directions together.
        seed: Of the weights.
        treatment: What failures count as; ``None``: in each test as what speaks most against it.
    """
    plan = scores.plan
    drops = drops_of(plan, margin=margin, alpha=alpha, seed=seed, treatment=treatment)
    if not any(drop.n for drop in drops):
        return TransitionCall("not tested", None, None, drops)
    # Where nothing was answered nothing can be shown, and what lies above need not wait for it.
    skips = treatment in (None, "missing")
    rising = [drop for drop in drops[::-1] if not skips or _answered(plan, drop.budget)]
    reached = int(leading(np.array([drop.p_exceeds <= alpha / 2 for drop in rising], dtype=bool)))
    held = int(leading(np.array([drop.p_holds <= alpha / 2 for drop in drops])))
    fails_at = rising[reached - 1].budget if reached else None
    holds_at = drops[held - 1].budget if held else FULL
    adjusted = holm(np.array([drop.p_exceeds for drop in drops]))
    also = tuple(
        drop.budget
        for drop, p in zip(drops, adjusted, strict=True)
        if p <= alpha / 2 and (fails_at is None or drop.budget > fails_at)
    )
    outcome: TransitionOutcome = "underpowered"
    if reached:
        outcome = "transition"
    elif held == len(drops):
        outcome = "no transition"
    elif also and _comes_back(plan, also, alpha, seed):
        outcome = "not monotone"
    elif treatment is None and plan.failed.any():
        as_wrong = call(plan, margin=margin, alpha=alpha, seed=seed, treatment="zero")
        outcome = "underpowered" if as_wrong.fails_at is None else "failures"
    return TransitionCall(outcome, fails_at, holds_at, drops, also)


def _answered(plan: Scores, budget: float) -> bool:
    """Whether some example was answered at 1.0 and at the budget."""
    k = int(np.flatnonzero(plan.budgets == budget)[0])
    return bool((~np.isnan(plan.values[:, 0]) & ~np.isnan(plan.values[:, k])).any())


def _comes_back(plan: Scores, fallen: tuple[float, ...], alpha: float, seed: int) -> bool:
    """Whether the smallest budget is shown to score better than one that has fallen."""
    best, worst = plan.filled("best"), plan.filled("worst")
    columns = [int(np.flatnonzero(plan.budgets == budget)[0]) for budget in fallen]
    gains = np.stack([worst[:, -1] - best[:, k] for k in columns])
    return bool((holm(p_exceeds(gains, plan.clusters, 0.0, seed=seed)) <= alpha / 2).any())


def call_bins(
    scores: Scores, *, n_bins: int, margin: float, alpha: float, seed: int, treatment: Treatment | None = None
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
