"""How the rate of one group of trials differs from another's, told from their windows.

Windows of one trial are no independent witnesses: neighbours share a slow spell, and all of them share what
makes one trial differ from another. Taken as independent they call 6 to 24 % of equal rates different. With
`ENOUGH_TRIALS` trials on both sides the trial is the unit (Welch 1947); else it is the window, counted as
`kvlab.stats.serial` counts it, and the interval says that it knows nothing of how trials differ.
"""

import math
from collections.abc import Sequence

import numpy as np

from kvlab.stats.intervals import Interval
from kvlab.stats.serial import lag1

ENOUGH_TRIALS = 3
#: Windows that a side must count for.
LEAST_WINDOWS = 4
METHOD = "Welch's t on logarithms"


def rate_change(
    before: Sequence[Sequence[float]], after: Sequence[Sequence[float]], *, confidence: float = 0.95
) -> Interval:
    """Return the relative change of the rate from ``before`` to ``after``: -0.2 is a fall by 20 %.

    Args:
        before: Of each trial its windows' seconds per request, in order, positive.
        after: The same.
        confidence: Of the two-sided interval.
    """
    sides = [
        [np.log(np.asarray(trial, dtype=float)) for trial in side if len(trial)] for side in (before, after)
    ]
    if not all(sides):
        return Interval(None, None, None, 0, confidence, "no windows", METHOD, "windows")
    by_trial = min(len(side) for side in sides) >= ENOUGH_TRIALS
    unit = "trials" if by_trial else "windows"
    if by_trial:
        parts = [_of_trials(side) for side in sides]
    else:
        r = _likeness([trial for side in sides for trial in side])
        parts = [_of_windows(side, r) for side in sides]
    n = min(len(side) if by_trial else sum(map(len, side)) for side in sides)
    change = math.expm1(parts[0][0] - parts[1][0])
    least = ENOUGH_TRIALS if by_trial else LEAST_WINDOWS
    if (counted := min(part[2] for part in parts)) < least:
        reason = f"{n} windows count for {counted:.1f}, as neighbours are alike: an interval needs {least}"
        return Interval(change, None, None, n, confidence, reason, METHOD, unit)
    errors = [part[1] / part[2] for part in parts]  # squared
    if sum(errors) < 1e-18:
        return Interval(change, None, None, n, confidence, f"all {unit} are equal", METHOD, unit)
    from scipy import special  # the quantile alone

    freedom = sum(errors) ** 2 / sum(
        error**2 / (part[2] - 1) for error, part in zip(errors, parts, strict=True)
    )
    half = float(special.stdtrit(freedom, (1 + confidence) / 2)) * math.sqrt(sum(errors))
    low, high = (math.expm1(parts[0][0] - parts[1][0] + side * half) for side in (-1, 1))
    assumes = None if by_trial else "trials of one size do not differ by more than their windows show"
    return Interval(change, low, high, n, confidence, None, METHOD, unit, assumes)


def _of_trials(side: Sequence["np.typing.NDArray[np.float64]"]) -> tuple[float, float, float]:
    """Return the mean over trials, the variance of a trial, and their number."""
    means = np.array([trial.mean() for trial in side])
    return float(means.mean()), float(means.var(ddof=1)), float(len(means))


def _of_windows(side: Sequence["np.typing.NDArray[np.float64]"], r: float) -> tuple[float, float, float]:
    """Return the mean over windows, the variance of one, and for how many they count."""
    every = np.concatenate(list(side))
    counted = len(every) * (1 - r) / (1 + r)
    rest = np.concatenate([trial - trial.mean() for trial in side])
    if len(side) > 1:
        rest = every - every.mean()
    variance = float((rest**2).sum()) / max(1.0, len(every) - 1)
    # Alike values lie closer to their own mean than to the true one (Law & Kelton 2000, 9.5).
    return float(every.mean()), variance / max(0.1, 1 - 1 / max(counted, 1.0)) * (1 - 1 / len(every)), counted


def _likeness(trials: Sequence["np.typing.NDArray[np.float64]"]) -> float:
    """Return the correlation of neighbours within trials, which few windows show too small: n r + 1 over n - 3."""
    sizes = [len(trial) for trial in trials]
    n = sum(sizes) / len(sizes)
    seen = sum(size * lag1(trial.tolist()) for size, trial in zip(sizes, trials, strict=True)) / sum(sizes)
    return min(0.95, max(0.0, (n * seen + 1) / (n - 3))) if n > 4 else max(0.0, seen)  # Kendall 1954
