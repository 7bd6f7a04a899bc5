"""What a hit saves beyond being the second request of its pair.

A cold request must come before its hit, so whatever makes a second request faster (a warm connection, a
processor that has clocked up, a scheduler that has woken) looks like a saving of the cache. Where every second
request takes 12 % less and the cache saves nothing, a sweep without a control says "saves 12 %" as surely as it
pleases. So control pairs are sent as well: two *cold* prompts of the same length with different markers, one
straight after the other, as far apart as the two of a measured pair. What their second one is faster by is the
position's effect; what a hit saves is what is left.

    corrected ratio = median(hit / cold) / median(second cold / first cold)

A plan for it: at least `kvlab.stats.medians.least_n` control pairs (6 at 95 %), better as many as measured pairs, in the
same random order among them and over the same lengths; each with two fresh markers (and cache salts), both
requests proven cold. As many as measured pairs, and one beside each, are compared pair by pair: a slow spell
then falls on both.
"""

import math
from collections.abc import Sequence

import numpy as np

from kvlab.stats.intervals import Interval
from kvlab.stats.medians import median_interval

METHOD = "ratio of medians, order statistics"


def position_effect(first: Sequence[float], second: Sequence[float], *, confidence: float = 0.95) -> Interval:
    """Return by which share a second cold request is faster than the first: 1 - median(second / first).

    Args:
        first: Times of the first request of each control pair, positive.
        second: Of the second ones.
        confidence: Of the two-sided interval.
    """
    return _saving(median_interval(_log_ratios(first, second), confidence=confidence, unit="control pairs"))


def corrected_reduction(
    cold: Sequence[float],
    hit: Sequence[float],
    control_first: Sequence[float],
    control_second: Sequence[float],
    *,
    matched: bool = False,
    confidence: float = 0.95,
) -> Interval:
    """Return which share of the time a hit saves beyond being second: 1 - the corrected ratio.

    Unmatched, the two medians' order-statistic intervals on the logarithm of the ratios are put together by
    the square root of the sums of their squared halves, each on its own side (Zou & Donner 2008); matched, the
    interval is that of the median of the differences of the logarithms. Use `kvlab.stats.decide` on it.

    Args:
        cold: Times of the cold request of each measured pair, positive.
        hit: Of their hits.
        control_first: Times of the first request of each control pair.
        control_second: Of the second ones.
        matched: Whether control pair i was measured beside pair i, at the same length.
        confidence: Of the two-sided interval.

    Returns:
        The saving; without an interval, and with the reason, where one of the two has none.
    """
    ratios, controls = _log_ratios(cold, hit), _log_ratios(control_first, control_second)
    if matched:
        beside = [a - b for a, b in zip(ratios, controls, strict=True)]
        return _saving(median_interval(beside, confidence=confidence, unit="pairs with a control pair each"))
    found = median_interval(ratios, confidence=confidence)
    control = median_interval(controls, confidence=confidence, unit="control pairs")
    unit = f"pairs against {control.n} control pairs"
    if found.estimate is None or control.estimate is None:
        return Interval(None, None, None, found.n, confidence, found.reason or control.reason, METHOD, unit)
    estimate = -math.expm1(found.estimate - control.estimate)
    if found.low is None or found.high is None or control.low is None or control.high is None:
        reason = found.reason or f"position control: {control.reason}"
        return Interval(estimate, None, None, found.n, confidence, reason, METHOD, unit)
    middle = found.estimate - control.estimate
    low = middle - math.hypot(found.estimate - found.low, control.high - control.estimate)
    high = middle + math.hypot(found.high - found.estimate, control.estimate - control.low)
    return Interval(
        estimate, -math.expm1(high), -math.expm1(low), found.n, confidence, None, METHOD, unit,
        found.assumes or control.assumes,
    )  # fmt: skip


def _log_ratios(first: Sequence[float], second: Sequence[float]) -> list[float]:
    ratios = np.log(np.asarray(second, dtype=float) / np.asarray(first, dtype=float))
    return [float(ratio) for ratio in ratios]


def _saving(log_ratio: Interval) -> Interval:
    """Return 1 - exp of an interval: its ends change places."""
    from dataclasses import replace

    def saved(value: float | None) -> float | None:
        return None if value is None else -math.expm1(value)

    estimate, low, high = saved(log_ratio.estimate), saved(log_ratio.high), saved(log_ratio.low)
    return replace(log_ratio, estimate=estimate, low=low, high=high)
