"""A straight line, such as memory over tokens, under noise that may add up.

Least squares takes the distances from the line as independent of each other. What a process holds is not so: what
an allocator took it keeps, so each step's noise stays in all later points, and the interval of least squares
covers 14 to 39 % instead of 95. There the steps are independent, and Student's t over the slopes of the steps is
right; under independent noise it is too wide, but right, too. So the interval is the outer ends of both.
"""

from collections.abc import Sequence

import numpy as np

from kvlab.stats.intervals import Interval

LEAST_POINTS = 4
METHOD = "least squares, the outer ends of its t and that of the steps"


def slope_interval(
    x: Sequence[float], y: Sequence[float], *, confidence: float = 0.95, unit: str = "points"
) -> Interval:
    """Return the least-squares slope of ``y`` over ``x`` with its interval.

    Args:
        x: At least `LEAST_POINTS` different places, in the order of measuring, rising.
        y: As many values.
        confidence: Of the two-sided interval.
        unit: What a point is.
    """
    n = len(x)
    places, values = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if n < LEAST_POINTS or len(np.unique(places)) < LEAST_POINTS:
        return Interval(
            None, None, None, n, confidence, f"{n} {unit}: a line needs {LEAST_POINTS}", METHOD, unit
        )
    from scipy import special  # the quantile alone

    off = places - places.mean()
    slope = float(off @ values / (off @ off))
    rest = values - values.mean() - slope * off
    tail = (1 + confidence) / 2
    half = float(special.stdtrit(n - 2, tail)) * float(np.sqrt(rest @ rest / (n - 2) / (off @ off)))
    order = np.argsort(places, kind="stable")
    steps, rises = np.diff(places[order]), np.diff(values[order])
    steps, rises = steps[steps > 0], rises[steps > 0]
    # noise that adds up grows with the way: a step's variance is taken as proportional to its length
    mean = float(rises.sum() / steps.sum())
    spread = float((((rises - mean * steps) ** 2) / steps).sum() / (len(steps) - 1) / steps.sum())
    wide = float(special.stdtrit(len(steps) - 1, tail)) * float(np.sqrt(spread))
    low, high = min(slope - half, mean - wide), max(slope + half, mean + wide)
    if not high - low > 1e-12 * abs(slope):
        low, high = slope, slope  # a layout's own account lies on the line exactly: there is no noise
    return Interval(slope, low, high, n, confidence, None, METHOD, unit)
