"""How long N requests will take, with an interval, from the steady windows of smaller trials.

    T(N) = a + N · tau

tau is the mean time a request of all steady windows, a the mean of what the trials took beyond it
(start-up and drain). Three things make T uncertain: windows differ (and neighbouring ones are alike, so
they count for less: n_eff = n (1 - r) / (1 + r) with the lag-1 autocorrelation r, Bayley & Hammersley
1946), trials differ by more than their windows explain (a random effect, by the method of moments), and
the predicted trial has its own. The degrees of freedom are those of Satterthwaite (1946).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

MOST_VALUES = 200  # of a series in which a trend is looked for


class Trial(NamedTuple):
    """What the fit takes of a trial: its size, total time, and its windows' seconds a request, in order."""

    requests: int
    total_s: float
    s_per_request: Sequence[float]


@dataclass(frozen=True)
class Prediction:
    """A predicted time in seconds; ``low`` and ``high`` are ``None`` with a ``reason`` where there is no interval."""

    requests: int
    seconds: float
    low_s: float | None
    high_s: float | None
    confidence: float
    windows: int
    reason: str | None = None


def predict(trials: Sequence[Trial], requests: int, confidence: float) -> Prediction | None:
    """Return the time of ``requests`` requests; ``None``: no trial has a steady state."""
    from scipy import special  # the quantile alone: all of scipy.stats takes a second and a half

    used = [trial for trial in trials if len(trial.s_per_request)]
    if not used:
        return None
    values = np.concatenate([np.asarray(trial.s_per_request, dtype=float) for trial in used])
    tau, n = float(values.mean()), len(values)
    overhead = float(np.mean([trial.total_s - trial.requests * tau for trial in trials]))
    seconds = max(0.0, overhead) + requests * tau
    if n < 3:
        return Prediction(requests, seconds, None, None, confidence, n, f"{n} windows: an interval needs 3")
    within = float(values.var(ddof=1))
    effective = max(2.0, n * _shrink(used))
    means = np.array([np.mean(trial.s_per_request) for trial in used])
    between = 0.0
    if len(means) > 1:
        per_trial = float(np.mean([within / len(trial.s_per_request) for trial in used]))
        between = max(0.0, float(means.var(ddof=1)) - per_trial)
    parts = [(within / effective, effective - 1)]
    parts += [(between * (1 + 1 / len(means)), len(means) - 1)] if between else []
    variance = sum(part for part, _ in parts)
    freedom = variance**2 / sum(part**2 / df for part, df in parts) if variance else effective - 1
    extra = (
        float(np.std([trial.total_s - trial.requests * tau for trial in trials], ddof=1))
        if len(trials) > 1
        else 0.0
    )
    half = float(special.stdtrit(freedom, (1 + confidence) / 2)) * float(
        np.hypot(requests * variance**0.5, extra)
    )
    reason = None if len(used) > 1 else "one trial: how much trials differ is not in it"
    return Prediction(requests, seconds, max(0.0, seconds - half), seconds + half, confidence, n, reason)


def _shrink(trials: Sequence[Trial]) -> float:
    """Return which share of the windows counts: (1 - r) / (1 + r), never more than 1."""
    pairs = [
        (a, b)
        for trial in trials
        for a, b in zip(trial.s_per_request[:-1], trial.s_per_request[1:], strict=True)
    ]
    if len(pairs) < 5:
        return 1.0
    first, second = np.array(pairs).T
    if first.std() == 0 or second.std() == 0:
        return 1.0
    r = float(np.corrcoef(first, second)[0, 1])
    return (1 - r) / (1 + r) if 0 < r < 1 else 1.0


def trend(values: Sequence[float], least_change: float = 0.1, alpha: float = 0.01) -> float | None:
    """Return the relative change from first to last, if there is a trend in it; else ``None``.

    A trend needs a Theil-Sen line (the median of all pairs' slopes, Sen 1968) that changes by at least
    ``least_change`` of the median, and Kendall's tau at ``alpha`` (Mann 1945). Many values are taken
    together to `MOST_VALUES` means, since the pairs grow with their square.
    """
    if len(values) < 6 or np.ptp(values) == 0:
        return None
    known = np.asarray(values, dtype=float)
    if len(known) > MOST_VALUES:
        known = np.array([part.mean() for part in np.array_split(known, MOST_VALUES)])
    later, earlier = np.tril_indices(len(known), -1)
    slope = float(np.median((known[later] - known[earlier]) / (later - earlier)))
    change = slope * (len(known) - 1) / float(np.median(known))
    if abs(change) < least_change:
        return None
    from scipy import stats  # a second and a half, and most series never come this far

    return change if float(stats.kendalltau(np.arange(len(known)), known).pvalue) < alpha else None
