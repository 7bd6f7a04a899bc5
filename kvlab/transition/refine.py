"""Which budget to add next: bisection where the curve falls most."""

import itertools
from collections.abc import Mapping


def next_budget(
    curve: Mapping[float, float],
    limit: int,
    min_gap: float,
    *,
    planned: int | None = None,
    min_drop: float = 0.0,
    floor: float = 0.0,
) -> float | None:
    """Return the middle of the two neighbouring budgets between which the mean score falls most.

    The same scores always give the same budget. Of equal falls the one at the larger budgets is taken.

    Args:
        curve: Mean score by budget, so far; missing ones (NaN) are passed over.
        limit: How many budgets may be added in all.
        min_gap: No two budgets come closer to each other than this.
        planned: How many of ``curve`` were planned; ``None``: all, so that ``limit`` is what is left.
        min_drop: Nothing is added where the largest fall is not larger than this.
        floor: No budget below this one (what the policy can honour).

    Returns:
        The budget, rounded to 4 digits, or ``None``: the limit is reached, nothing falls, or the gap is small.
    """
    added = 0 if planned is None else len(curve) - planned
    known = sorted((budget for budget, score in curve.items() if score == score), reverse=True)
    falls = [
        (curve[high] - curve[low], high, low)
        for high, low in itertools.pairwise(known)
        if high - low >= 2 * min_gap - 1e-9 and round((high + low) / 2, 4) >= floor
    ]
    falls = [fall for fall in falls if fall[0] > max(min_drop, 0.0)]
    if added >= limit or limit <= 0 or not falls:
        return None
    _, high, low = max(falls)
    return round((high + low) / 2, 4)
