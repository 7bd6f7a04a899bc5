"""Means of times and other figures without an upper bound, and by how much one mean exceeds another.

Both ends are the outer ones of two intervals: Student's t, which is right for symmetric values, and the
bootstrap-t (Efron 1981; Hall 1988), which is right for skewed ones: measured from 7 values on, at least 90 % for
normal, exponential and log-normal values up to sigma 1, where t alone falls to 82 and a percentile bootstrap to
73 %. No interval for a mean can cover if there may be values that are rare and huge and have not been seen
(Bahadur & Savage 1956), so over fewer than `ENOUGH` units it says that it takes them for none.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from kvlab.stats.intervals import Interval
from kvlab.stats.resample import multinomial_weights
from kvlab.stats.serial import effective_n

Floats = npt.NDArray[np.float64]

LEAST_N = 7
ENOUGH = 120
RESAMPLES = 4_000
METHOD = "Student's t and bootstrap-t, the outer ends"
_UNSEEN = "neighbours do not depend on each other and no rare, much larger values are left unseen"

#: From weights [draws, units] to an estimate and its standard error, [draws] each.
_Studentized = Callable[[Floats], tuple[Floats, Floats]]


def mean_interval(
    clusters: Sequence[Sequence[float]], *, seed: int, confidence: float = 0.95, unit: str = "clusters"
) -> Interval:
    """Return the mean of all values with an interval over clusters, such as cycles of turns.

    Values of one cluster depend on each other, so only clusters are units: the error is that of a ratio of
    totals, and one cluster with much of the values counts against the others: degrees of freedom and the least
    number of units are taken from (Σ n)² / Σ n².

    Args:
        clusters: Values by cluster, finite; an empty cluster counts for nothing.
        seed: Of the resampling.
        confidence: Of the two-sided interval.
        unit: What a cluster is.
    """
    full = [np.asarray(cluster, dtype=float) for cluster in clusters if len(cluster)]
    n = len(full)
    if n == 0:
        return Interval(None, None, None, 0, confidence, "no values", METHOD, unit)
    sums, sizes = np.array([part.sum() for part in full]), np.array([float(len(part)) for part in full])

    def studentized(weights: Floats) -> tuple[Floats, Floats]:
        total, drawn = weights @ sizes, weights.sum(axis=1)
        mean = (weights @ sums) / total
        rest = np.stack([weights @ sums**2, weights @ (sums * sizes), weights @ sizes**2])
        spread = rest[0] - 2 * mean * rest[1] + mean**2 * rest[2]
        return mean, np.sqrt(np.maximum(spread, 0) * drawn / (drawn - 1)) / total

    balanced = float(sizes.sum() ** 2 / (sizes**2).sum())
    counted = min(balanced, effective_n((sums / sizes).tolist(), corrected=True))
    return _interval(studentized, n, counted, seed, confidence, unit, lambda x: x)


def increase_interval(
    base: Sequence[float],
    other: Sequence[float],
    *,
    seed: int,
    paired: bool,
    confidence: float = 0.95,
    unit: str = "pairs",
) -> Interval:
    """Return by how many percent the mean of ``other`` lies above that of ``base``, with an interval.

    ``(mean(other) - mean(base)) / mean(base) * 100``; positive: ``other`` is larger. The interval is made on
    the logarithm of the ratio of the means, whose error hardly depends on the ratio.

    Args:
        base: Positive values, in the order in which they were measured.
        other: As many, in the same order, where ``paired``.
        seed: Of the resampling.
        paired: Whether the two are resampled together, pair by pair, or each on its own.
        confidence: Of the two-sided interval.
        unit: What a value is of.
    """
    first, second = np.asarray(base, dtype=float), np.asarray(other, dtype=float)
    n = min(len(first), len(second))
    if n == 0:
        return Interval(None, None, None, 0, confidence, "no values", METHOD, unit)
    if first.mean() <= 0 or second.mean() <= 0:
        return Interval(None, None, None, n, confidence, "a mean is not positive", METHOD, unit)

    def moments(weights: Floats) -> tuple[Floats, Floats]:
        drawn = weights.sum(axis=1)
        a, b = weights @ first / drawn, weights @ second / drawn
        squares = weights @ second**2 / b**2 - 2 * (weights @ (first * second)) / (a * b)
        spread = np.maximum(squares + weights @ first**2 / a**2, 0)
        return np.log(b / a), np.sqrt(spread / (drawn * (drawn - 1)))

    def apart(weights: Floats) -> tuple[Floats, Floats]:
        means, variances = [], []
        for values, part in ((first, weights[:, : len(first)]), (second, weights[:, len(first) :])):
            drawn = part.sum(axis=1)
            mean = part @ values / drawn
            means.append(mean)
            left = np.maximum(part @ values**2 / drawn / mean**2 - 1, 0)
            variances.append(left / (drawn - 1))
        return np.log(means[1] / means[0]), np.sqrt(variances[0] + variances[1])

    def percent(log_ratio: float) -> float:
        return 100 * math.expm1(log_ratio)

    if paired:
        counted = effective_n((second / first).tolist(), corrected=True)
        return _interval(moments, n, counted, seed, confidence, unit, percent)
    counted = min(effective_n(values, corrected=True) for values in (base, other))
    return _interval(apart, n, counted, seed, confidence, unit, percent, (len(first), len(second)))


def _interval(
    studentized: _Studentized,
    n: int,
    counted: float,
    seed: int,
    confidence: float,
    unit: str,
    shown: Callable[[float], float],
    groups: tuple[int, ...] = (),
) -> Interval:
    """Return the interval of a studentized estimate; ``groups``: sizes of samples that are drawn each on its own."""
    sizes = groups or (n,)
    with np.errstate(divide="ignore", invalid="ignore"):  # of one value there is no error
        estimate, error = (float(part[0]) for part in studentized(np.ones((1, sum(sizes)))))

    def without(reason: str) -> Interval:
        return Interval(shown(estimate), None, None, n, confidence, reason, METHOD, unit)

    if n < LEAST_N:
        return without(f"{n} {unit}: an interval needs {LEAST_N}")
    if counted < LEAST_N:
        return without(
            f"{n} {unit} count for {counted:.0f}, as they are alike or unequal: an interval needs {LEAST_N}"
        )
    if not error > 1e-12 * max(1.0, abs(estimate)):
        return without(f"all {n} {unit} are equal: no spread to make an interval from")
    from scipy import special  # the quantile alone

    tail = (1 - confidence) / 2
    error *= math.sqrt(n / counted)
    half = float(special.stdtrit(counted - 1, 1 - tail)) * error
    each = [list(multinomial_weights(size, seed=seed + k, draws=RESAMPLES)) for k, size in enumerate(sizes)]
    drawn = [studentized(np.hstack(parts)) for parts in zip(*each, strict=True)]
    means, errors = (np.concatenate([part[k] for part in drawn]) for k in (0, 1))
    # A resample of equal values has no error: its distance is as large as can be, in its own direction.
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(errors > 1e-12, (means - estimate) / errors, np.sign(means - estimate) * np.inf)
    t = np.where(np.isfinite(t), t, np.sign(np.nan_to_num(t, nan=0.0)) * 1e3)
    upper, lower = (float(np.quantile(t, q)) for q in (1 - tail, tail))
    low, high = min(estimate - half, estimate - upper * error), max(estimate + half, estimate - lower * error)
    assumes = None if n >= ENOUGH else _UNSEEN
    return Interval(shown(estimate), shown(low), shown(high), n, confidence, None, METHOD, unit, assumes)
