"""Which answers turned from right to wrong, and which the other way."""

import itertools
from dataclasses import dataclass

import numpy as np

from kvlab.compression.transition.scores import Bools, Scores, Treatment

#: From this score on an answer counts as right; a metric of 0 and 1 needs no such line.
RIGHT_AT = 0.5


@dataclass(frozen=True)
class Flips:
    """Answers of the same examples at two budgets.

    Attributes:
        high: The larger budget.
        low: The smaller one.
        n: Examples with both.
        right_to_wrong: Right at ``high``, wrong at ``low``.
        wrong_to_right: The other way.
        p_value: Two-sided exact McNemar test (McNemar 1947): the smaller of the two under a fair coin;
            ``None`` where nothing flipped. It takes examples as independent.
    """

    high: float
    low: float
    n: int
    right_to_wrong: int
    wrong_to_right: int
    p_value: float | None


def right(scores: Scores, treatment: Treatment = "zero") -> tuple[Bools, Bools]:
    """Return which answers are right, and which are known at all; [examples, budgets]."""
    filled = scores.filled(treatment)
    return np.nan_to_num(filled) >= RIGHT_AT, ~np.isnan(filled)


def flips(scores: Scores, high: float, low: float, treatment: Treatment = "zero") -> Flips:
    """Return the flips between two budgets of ``scores``."""
    from scipy import stats

    a, b = (int(np.flatnonzero(scores.budgets == budget)[0]) for budget in (high, low))
    is_right, known = right(scores, treatment)
    both = known[:, a] & known[:, b]
    lost = int((both & is_right[:, a] & ~is_right[:, b]).sum())
    won = int((both & ~is_right[:, a] & is_right[:, b]).sum())
    p = float(stats.binomtest(min(lost, won), lost + won, 0.5).pvalue) if lost + won else None
    return Flips(high, low, int(both.sum()), lost, won, p)


def every(scores: Scores) -> list[Flips]:
    """Return the flips from 1.0 to each budget, then those between neighbours that this leaves out."""
    budgets = scores.budgets.tolist()
    pairs = [(budgets[0], low) for low in budgets[1:]]
    pairs += [(high, low) for high, low in itertools.pairwise(budgets[1:])]
    return [flips(scores, high, low) for high, low in pairs]
