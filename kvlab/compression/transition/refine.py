"""Which budget to add next: bisection where the curve falls most."""

import itertools
from collections.abc import Callable, Mapping


def next_budget(
    curve: Mapping[float, float],
    limit: int,
    min_gap: float,
    *,
    planned: int | None = None,
    min_drop: float = 0.0,
    floor: float = 0.0,
    middle: Callable[[float, float], float | None] | None = None,
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
        middle: Says what lies in the middle of two budgets, the larger one first; ``None``: nothing may be
            added there. Left out: `halve`, with ``min_gap`` and ``floor``.

    Returns:
        The budget, or ``None``: the limit is reached, nothing falls, or the gap is small.
    """
    added = 0 if planned is None else len(curve) - planned
    known = sorted((budget for budget, score in curve.items() if score == score), reverse=True)
    falls = []
    for high, low in itertools.pairwise(known):
        new = middle(high, low) if middle else halve(high, low, min_gap, floor)
        if new is not None and curve[high] - curve[low] > max(min_drop, 0.0):
            falls.append((curve[high] - curve[low], high, new))
    if added >= limit or limit <= 0 or not falls:
        return None
    return max(falls)[2]


def halve(high: float, low: float, min_gap: float, floor: float) -> float | None:
    """Return the middle, rounded to 4 digits; ``None`` where it is too near to its neighbours, or too small."""
    middle = round((high + low) / 2, 4)
    return middle if high - low >= 2 * min_gap - 1e-9 and middle >= floor else None
