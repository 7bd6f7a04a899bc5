"""The point rule: the first step of the means that is at least as large as a threshold.

It has no error rate: it compares two means, and the more budgets there are, the more often noise alone
makes such a step. It is reported under its own name, beside the calibrated rule (`detect.call`).
"""

from dataclasses import dataclass

import numpy as np

from kvlab.compression.transition.scores import Floats, Ints

METHOD = "first_step_at_least_threshold"


@dataclass(frozen=True)
class PointTransition:
    """What the point rule found; all but ``method`` are ``None`` where no step is large enough.

    Attributes:
        transition_budget: The first budget, descending, whose mean is lower than the one before by at
            least the threshold.
        pre_budget: The one before.
        acc_pre: Mean score there.
        acc_post: Mean score at the transition budget.
        drop: The difference.
        transition_bin_idx: The bin with the largest drop between the two; the lowest of equals.
        method: The rule's name.
    """

    transition_budget: float | None = None
    pre_budget: float | None = None
    acc_pre: float | None = None
    acc_post: float | None = None
    drop: float | None = None
    transition_bin_idx: int | None = None
    method: str = METHOD


def first_step(means: Floats, threshold: float) -> Ints:
    """Return the index of the first column whose mean fell by ``threshold`` or more, 0 where none did.

    Args:
        means: In the order of falling budgets; [..., budgets].
        threshold: In units of the score.
    """
    steps = means[..., :-1] - means[..., 1:] >= threshold - 1e-12  # 0.9 - 0.8 is a hair below 0.1
    return np.where(steps.any(axis=-1), steps.argmax(axis=-1) + 1, 0)


def point_rule(budgets: Floats, scores: Floats, bins: Ints, *, threshold: float) -> PointTransition:
    """Apply the point rule.

    Args:
        budgets: Descending; one whose answers are all missing is passed over.
        scores: Failures filled in, NaN left out of the means; [examples, budgets].
        bins: [examples].
        threshold: The least drop between neighbouring budgets.
    """
    there = ~np.isnan(scores).all(axis=0)
    budgets, scores = budgets[there], scores[:, there]
    if scores.shape[1] < 2:
        return PointTransition()
    means = np.nanmean(scores, axis=0)
    k = int(first_step(means, threshold))
    if k == 0:
        return PointTransition()
    worst: dict[int, float] = {}
    for b in np.unique(bins):
        pair = scores[bins == b][:, k - 1 : k + 1]
        if not np.isnan(pair).all(axis=0).any():
            pre, post = np.nanmean(pair, axis=0)
            worst[int(b)] = float(pre - post)
    return PointTransition(
        transition_budget=float(budgets[k]),
        pre_budget=float(budgets[k - 1]),
        acc_pre=float(means[k - 1]),
        acc_post=float(means[k]),
        drop=float(means[k - 1] - means[k]),
        transition_bin_idx=max(worst, key=lambda b: (worst[b], -b)) if worst else None,
    )
