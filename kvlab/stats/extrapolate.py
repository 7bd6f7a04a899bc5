"""How long N requests will take, with an interval, from the steady windows of smaller trials.

    T(N) = a + N · tau

tau is the time of all steady windows by the requests in them, a the mean of what the trials took beyond
their own steady rate (start-up and drain). Three things make T uncertain: windows differ (and neighbouring
ones are alike, so they count for less: n_eff = n (1 - r) / (1 + r) with the lag-1 autocorrelation r, Bayley &
Hammersley 1946), trials differ, and the predicted one is one more of them. How much trials differ is known
from two or three of them, which may be alike by luck: so the interval is never narrower than Student's (1908)
for one more trial, from the trials' means alone. One trial says nothing of how trials differ: there is a
prediction, and no interval.

A rate that changes while a trial goes on cannot be extrapolated, however little it changes: +4 % in 10,000 requests is
+68 % at 170,000. `trend` tells such a change from a slow wandering, in which neighbours are alike, too.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from kvlab.stats.intervals import Interval

MOST_VALUES = 200  # of a series in which a trend is looked for
LEAST_VALUES = 6
METHOD = "steady rate and overhead; Student's t for one more trial"


class TrialRate(NamedTuple):
    """What the fit takes of a trial: its size, total time, and its windows' seconds per request, in order.

    Each of its windows holds ``window_requests`` requests.
    """

    requests: int
    total_s: float
    s_per_request: Sequence[float]
    window_requests: int = 1


@dataclass(frozen=True)
class Prediction:
    """A predicted time in seconds; ``low`` and ``high`` are ``None`` with a ``reason`` where there is no interval.

    Attributes:
        trials: How many it is from: the level that the interval varies over.
        windows: Of them together.
    """

    requests: int
    seconds: float
    low_s: float | None
    high_s: float | None
    confidence: float
    windows: int
    reason: str | None = None
    trials: int = 0

    @property
    def interval(self) -> Interval:
        """The same as an `Interval`, in seconds."""
        return Interval(
            self.seconds, self.low_s, self.high_s, self.trials, self.confidence, self.reason, METHOD, "trials",
            "the rate stays what it was",
        )  # fmt: skip


def predict(trials: Sequence[TrialRate], requests: int, confidence: float) -> Prediction | None:
    """Return the time of ``requests`` requests; ``None``: no trial has a steady state."""
    used = [trial for trial in trials if len(trial.s_per_request)]
    if not used:
        return None
    counts = np.array([len(trial.s_per_request) * trial.window_requests for trial in used], dtype=float)
    means = np.array([np.mean(trial.s_per_request) for trial in used])
    tau = float(np.average(means, weights=counts))
    overheads = [
        trial.total_s
        - trial.requests * (float(np.mean(trial.s_per_request)) if len(trial.s_per_request) else tau)
        for trial in trials
    ]
    seconds = max(0.0, float(np.mean(overheads)) + requests * tau)
    n = sum(len(trial.s_per_request) for trial in used)
    if len(used) < 2:
        reason = "one trial with a steady state: how much trials differ is not known, an interval needs 2"
        return Prediction(requests, seconds, None, None, confidence, n, reason, len(used))
    within = _within_s(used, counts, requests, confidence)
    between = _between_s(means, counts, confidence)
    half = float(
        np.hypot(requests * max(within, between), _spread_s(overheads, max(1, n - len(used)), confidence))
    )
    return Prediction(
        requests, seconds, max(0.0, seconds - half), seconds + half, confidence, n, None, len(used)
    )


def _within_s(
    used: Sequence[TrialRate], counts: "np.typing.NDArray[np.float64]", requests: int, confidence: float
) -> float:
    """Return half the interval of a further trial's seconds per request, as the windows' scatter has it."""
    squares = sum(
        trial.window_requests * float(np.sum((np.asarray(trial.s_per_request) - np.mean(trial.s_per_request)) ** 2))
        for trial in used
    )  # fmt: skip
    n, share = sum(len(trial.s_per_request) for trial in used), _shrink(used)
    of_one_request = squares / max(1, n - len(used)) / share
    variance = of_one_request * (1 / float(counts.sum()) + 1 / requests)
    return _quantile(max(1.0, n * share - len(used)), confidence) * math.sqrt(variance)


def _between_s(
    means: "np.typing.NDArray[np.float64]", counts: "np.typing.NDArray[np.float64]", confidence: float
) -> float:
    """Return half the interval of a further trial's seconds per request, from the trials' means alone."""
    weights = counts / counts.sum()
    spread = float(means.std(ddof=1)) * math.sqrt(1 + float(np.sum(weights**2)))
    return _quantile(len(means) - 1, confidence) * spread


def _spread_s(overheads: Sequence[float], freedom: int, confidence: float) -> float:
    spread = float(np.std(overheads, ddof=1)) * math.sqrt(1 + 1 / len(overheads))
    return _quantile(freedom, confidence) * spread


def _quantile(freedom: float, confidence: float) -> float:
    from scipy import special  # the quantile alone: all of scipy.stats takes a second and a half

    return float(special.stdtrit(freedom, (1 + confidence) / 2))


def _shrink(trials: Sequence[TrialRate]) -> float:
    """Return which share of the windows counts: (1 - r) / (1 + r), never more than 1.

    r is of the deviations from each trial's own mean: that trials differ makes no neighbours alike.
    """
    pairs = [
        (a, b)
        for trial in trials
        for own in [np.asarray(trial.s_per_request, dtype=float) - np.mean(trial.s_per_request)]
        for a, b in itertools.pairwise(own)
    ]
    if len(pairs) < 5:
        return 1.0
    first, second = np.array(pairs).T
    if first.std() == 0 or second.std() == 0:
        return 1.0
    r = float(np.corrcoef(first, second)[0, 1])
    return (1 - r) / (1 + r) if 0 < r < 1 else 1.0


class Trend(NamedTuple):
    """A straight change over a series, as a share of its level, from the first value to the last.

    Attributes:
        change: 0.04 is a rise by 4 %.
        p_value: Two-sided, of "there is none".
    """

    change: float
    p_value: float

    def at(self, times: float) -> float:
        """Return the change over so many times the length of the series, if it goes on."""
        return self.change * times


class Line(NamedTuple):
    """A least-squares line through a series.

    Attributes:
        change: From the first value to the last, as a share of the median.
        error: Its standard error, neighbours being alike; the same share.
        freedom: Degrees of freedom of the error.
    """

    change: float
    error: float
    freedom: float

    @property
    def p_value(self) -> float:
        """Two-sided, of "there is no change"."""
        if self.error == 0:
            return 0.0 if self.change else 1.0
        from scipy import special  # the distribution alone

        return 2 * float(special.stdtr(self.freedom, -abs(self.change) / self.error))

    def at_most(self, confidence: float) -> float:
        """Return the upper end of the two-sided interval of the change."""
        return self.change + _quantile(self.freedom, confidence) * self.error


def fit_line(values: "Sequence[float] | np.typing.NDArray[np.float64]") -> Line:
    """Return the least-squares line of at least five evenly spaced values, the error for neighbours that are alike.

    The variance of the slope is raised by (1 + r) / (1 - r) and its degrees of freedom lowered by the same, with the
    correlation r of neighbouring residuals, corrected for how much too small a few of them show it (Kendall 1954).
    """
    known = np.asarray(values, dtype=float)
    n, level = len(known), float(np.median(known))
    off = np.arange(n) - (n - 1) / 2
    fitted = float(off @ known / (off @ off))
    rest = known - known.mean() - fitted * off
    squares = float(rest @ rest)
    change = fitted * (n - 1) / level
    if squares < 1e-18 * float(known @ known):
        return Line(change if np.ptp(known) else 0.0, 0.0, n - 2)
    raw = float(rest[1:] @ rest[:-1]) / squares
    r = min(0.95, max(0.0, (n * raw + 2) / (n - 4)))
    less = (1 - r) / (1 + r)
    error = math.sqrt(squares / (n - 2) / float(off @ off) / less) * (n - 1) / level
    return Line(change, error, max(1.0, n * less - 2))


def fit_trend(values: Sequence[float]) -> Trend | None:
    """Return the trend of a series; ``None``: fewer than `LEAST_VALUES`, or all equal.

    The line is that of Theil & Sen (the median of all pairs' slopes, Sen 1968), the test that of `fit_line`. Kendall's
    own test takes neighbours as independent, and finds a trend in 37 to 47 % of series that only wander. Many values
    are taken together to `MOST_VALUES` means.

    Args:
        values: In the order of time, evenly spaced, positive.
    """
    if len(values) < LEAST_VALUES or np.ptp(values) == 0:
        return None
    known = np.asarray(values, dtype=float)
    if len(known) > MOST_VALUES:
        known = np.array([part.mean() for part in np.array_split(known, MOST_VALUES)])
    n = len(known)
    later, earlier = np.tril_indices(n, -1)
    slope = float(np.median((known[later] - known[earlier]) / (later - earlier)))
    return Trend(slope * (n - 1) / float(np.median(known)), fit_line(known).p_value)


def trend(values: Sequence[float], least_change: float = 0.0, alpha: float = 0.01) -> float | None:
    """Return the relative change from first to last, if there is a trend in it; else ``None``.

    Args:
        values: In the order of time.
        least_change: A smaller change is none. Over a longer time a small change is a large one: ask for what matters
            *there* and divide it by how many times longer that is.
        alpha: Of the test of `fit_trend`.
    """
    found = fit_trend(values)
    if found is None or found.p_value >= alpha or abs(found.change) < least_change:
        return None
    return found.change
