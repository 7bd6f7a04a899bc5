"""Whether what was level while it was watched stays so for longer: memory over requests, say.

A course is taken in its later half, for every healthy server's memory rises at first: allocators, compiled kernels and
caches fill. Two things are said of it. How far it rises at most, if it goes on as a straight line: the larger of the
upper bounds of the line through the half and of the one through its last quarter. And whether it surely rises, and
does not slow down enough to stop: each further quarter adds a share of the one before, as the last did (Aitken 1926).

`FARTHEST` is measured (``benchmarks/coverage_memory.py``). A leak that comes in steps shows in a stretch that holds a
step. What rises three times within the target is missed in no run at 2.5 times the stretch, in 13 % at 3.5, in 25 %
at 4 and in half at 6; leaks in steps of any period are missed in 0.3 % at 2.5, in 31 % at 34. `ROOM` is for what rises
ever faster, which a line runs behind: without it, a square is called level in 5 % of noisy runs at twice the stretch,
in 90 % of quiet ones at four times. What first rises after everything that was watched, nothing can show.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from kvlab.stats.extrapolate import LEAST_VALUES, fit_line

#: A course is carried on to at most so many times the stretch that it was watched over.
FARTHEST = 2.5
#: The share of the margin that the bound of a level course may take.
ROOM = 0.5
#: Two halves of a stretch, each with a line.
LEAST_LOOKS = 2 * LEAST_VALUES
#: Of the test that a course rises at all, and that it still does in its last part.
ALPHA = 0.01


class Ahead(NamedTuple):
    """What lies ahead of a course, as shares of its level.

    Attributes:
        at_most: How far it rises, if it goes on as a line; an upper bound.
        rises: How far it rises although it slows down as it did; ``None``: no certain rise.
    """

    at_most: float
    rises: float | None


def ahead(values: Sequence[float], times: float, confidence: float = 0.95) -> Ahead | None:
    """Return what lies ahead of a course; ``None``: fewer than `LEAST_LOOKS` values.

    Args:
        values: The later half, evenly spaced, positive.
        times: How many times as long the course is carried on as ``values`` are.
        confidence: Two-sided, of the bounds.
    """
    known = np.asarray(values, dtype=float)
    if len(known) < LEAST_LOOKS:
        return None
    middle = len(known) // 2
    whole, first, last = fit_line(known), fit_line(known[:middle]), fit_line(known[middle:])
    at_most = max(0.0, whole.at_most(confidence) * times, last.at_most(confidence) * 2 * times)
    sure = min(whole.change, last.change) > 0 and max(whole.p_value, last.p_value) < ALPHA
    if not sure:
        return Ahead(at_most, None)
    kept = min(1.0, last.change / first.change) if first.change > 0 else 1.0
    parts = 2 * times
    slowed = parts if kept > 1 - 1e-9 else kept * (1 - kept**parts) / (1 - kept)
    return Ahead(at_most, last.change * slowed)


def is_level(found: Ahead, times: float, margin: float) -> bool:
    """Return whether a course is shown to rise by no more than ``margin``, so many times its stretch further."""
    return times <= FARTHEST and found.at_most <= ROOM * margin
