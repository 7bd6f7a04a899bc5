"""By what factor the times of one side exceed those of another: an effect, its interval, and what may be said of it.

Everything is on logarithms: a ratio of 2 and one of 1/2 are equally far from 1, and a request of 30,000 tokens counts
as much as one of 300. Three designs, by what the data allow:

    paired      the same trial on both sides: Student's t of the differences. Of two draws from one law the difference
                is symmetric whatever the law is, which is what t needs.
    stratified  no trial is on both sides: points (a prompt length) are strata, the two sides have each their spread
                (Welch 1947).
    starts      several engine starts a side: a start is one value, its mean, since all requests of a start share what
                that start was dealt (Kalibera & Jones 2013, "Rigorous benchmarking in reasonable time"); Welch again.

How often these intervals cover, and how often two equal sides are called different: ``benchmarks/comparison.py``.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from kvlab.stats.intervals import Interval
from kvlab.stats.serial import effective_n

#: What may be said of the second side: its times are shorter, longer, as long within the margin, or nothing yet.
Outcome = Literal["faster", "slower", "equivalent", "undecided"]

LEAST_PAIRS = 6
LEAST_STARTS = 2
PAIRED = "Student's t of the logarithms of paired times"
STRATIFIED = "Welch's t of the logarithms, by point"
STARTS = "Welch's t of the starts' mean logarithms"


@dataclass(frozen=True)
class Effect:
    """The ratio of two sides' times on a logarithmic scale, with its standard error.

    Attributes:
        log_ratio: Of the geometric means, second over first; ``None``: there is nothing to compare.
        error: Its standard error; ``None`` with a ``reason``.
        freedom: Degrees of freedom of ``error``.
        n: How many units it is over: pairs, or values (starts) of the smaller side.
        unit: What they are.
        method: How it was made.
        reason: Why there is no error, so no interval.
        assumes: What the interval takes for granted.
    """

    log_ratio: float | None
    error: float | None
    freedom: float
    n: int
    unit: str
    method: str
    reason: str | None = None
    assumes: str | None = None

    @property
    def ratio(self) -> float | None:
        """Second over first; below 1: the second is faster."""
        return None if self.log_ratio is None else math.exp(self.log_ratio)

    def interval(self, confidence: float) -> Interval:
        """Return the ratio with its two-sided interval."""
        if self.log_ratio is None or self.error is None:
            return Interval(
                self.ratio, None, None, self.n, confidence, self.reason, self.method, self.unit, self.assumes
            )
        half = quantile(self.freedom, confidence) * self.error
        low, high = math.exp(self.log_ratio - half), math.exp(self.log_ratio + half)
        return Interval(self.ratio, low, high, self.n, confidence, None, self.method, self.unit, self.assumes)

    def p_value(self, margin: float) -> float:
        """Return the smallest error rate at which something can be said: a difference, or that there is none that counts.

        The second is that of two one-sided tests (Schuirmann 1987), doubled, so that it belongs to the same
        two-sided interval as the first.
        """
        if self.log_ratio is None or self.error is None:
            return 1.0
        size, wide = abs(self.log_ratio), math.log1p(margin)
        differs = 2 * _tail(size / self.error, self.freedom)
        within = 2 * _tail((wide - size) / self.error, self.freedom) if size < wide else 1.0
        return min(1.0, differs, within)

    def outcome(self, margin: float, confidence: float) -> Outcome:
        """Return what the interval says: see `outcome`."""
        return outcome(self.interval(confidence), margin)

    def more_units(self, margin: float, confidence: float) -> int | None:
        """Return how many more units would decide it, if its ratio and its spread stay what they are; 0: it is decided.

        ``None``: the spread is unknown. The interval must leave 1 outside, or lie within the margin, whichever
        comes first.
        """
        if self.log_ratio is None:
            return None
        if self.error is None:
            return None if self.n >= LEAST_PAIRS else LEAST_PAIRS - self.n
        if self.outcome(margin, confidence) != "undecided":
            return 0
        half = quantile(self.freedom, confidence) * self.error
        enough = max(abs(self.log_ratio), math.log1p(margin) - abs(self.log_ratio))
        return max(1, math.ceil(self.n * (half / enough) ** 2) - self.n)


def outcome(interval: Interval, margin: float) -> Outcome:
    """Return what an interval of a ratio says.

    ``equivalent``: it lies within [1 / (1 + margin), 1 + margin], whether 1 is in it or not. Else ``faster`` or
    ``slower`` where 1 lies outside, and ``undecided``.
    """
    if interval.low is None or interval.high is None:
        return "undecided"
    if interval.low >= 1 / (1 + margin) and interval.high <= 1 + margin:
        return "equivalent"
    if interval.high < 1:
        return "faster"
    return "slower" if interval.low > 1 else "undecided"


def paired(log_ratios: Sequence[float], *, unit: str = "pairs") -> Effect:
    """Return the effect of paired times.

    Args:
        log_ratios: log(second / first) of each pair, in the order in which they were measured. Neighbours that are
            alike count for fewer (`kvlab.stats.serial`).
        unit: What a pair is.
    """
    values, n = np.asarray(log_ratios, dtype=float), len(log_ratios)
    if n == 0:
        return Effect(None, None, 0, 0, unit, PAIRED, "no trial has a value on both sides")
    mean = float(values.mean())
    if n < LEAST_PAIRS:
        return Effect(mean, None, 0, n, unit, PAIRED, f"{n} {unit}: an interval needs {LEAST_PAIRS}")
    spread = float(values.std(ddof=1))
    if spread < 1e-9:
        return Effect(
            mean, None, 0, n, unit, PAIRED, f"all {n} {unit} are equal: no spread to make an interval from"
        )
    counted = effective_n(values.tolist(), corrected=True)
    if counted < 3:
        reason = f"neighbouring {unit} are so alike that {n} count for {counted:.0f}"
        return Effect(mean, None, 0, n, unit, PAIRED, reason)
    return Effect(mean, spread / math.sqrt(counted), counted - 1, n, unit, PAIRED)


def stratified(
    first: Mapping[str, Sequence[float]],
    second: Mapping[str, Sequence[float]],
    *,
    unit: str = "trials a side",
) -> Effect:
    """Return the effect of two sides that share no trial.

    Args:
        first: Logarithms of times by point.
        second: The same of the other side; points of one side alone count for nothing.
        unit: What a value is of.
    """
    points = [point for point in first if len(first[point]) and len(second.get(point, ()))]
    if not points:
        return Effect(None, None, 0, 0, unit, STRATIFIED, "no point has a value on both sides")
    a, b = ([np.asarray(side[p], dtype=float) for p in points] for side in (first, second))
    sizes = [np.array([len(part) for part in side], dtype=float) for side in (a, b)]
    weights = sizes[0] * sizes[1] / (sizes[0] + sizes[1])
    weights = weights / weights.sum()
    mean = float(sum(w * (y.mean() - x.mean()) for w, x, y in zip(weights, a, b, strict=True)))
    n = int(min(size.sum() for size in sizes))
    freedoms = [float(size.sum() - len(points)) for size in sizes]
    if n < LEAST_PAIRS or min(freedoms) < 2:
        return Effect(
            mean, None, 0, n, unit, STRATIFIED,
            f"{n} {unit} at {len(points)} points: an interval needs {max(LEAST_PAIRS, len(points) + 2)}",
        )  # fmt: skip
    parts = []
    for side, size, freedom in zip((a, b), sizes, freedoms, strict=True):
        spread = sum(float(((x - x.mean()) ** 2).sum()) for x in side) / freedom
        parts.append(spread * float((weights**2 / size).sum()))
    if sum(parts) < 1e-18:
        return Effect(mean, None, 0, n, unit, STRATIFIED, "all values of a point are equal: no spread")
    return Effect(mean, math.sqrt(sum(parts)), _welch(parts, freedoms), n, unit, STRATIFIED)


def over_starts(first: Sequence[float], second: Sequence[float], *, unit: str = "starts a side") -> Effect:
    """Return the effect over engine starts: what another start of either side would be expected to show.

    Args:
        first: The mean logarithm of each start.
        second: The same of the other side.
        unit: What a value is of.
    """
    n = min(len(first), len(second))
    if n == 0:
        return Effect(None, None, 0, 0, unit, STARTS, "one side has no value")
    mean = float(np.mean(second) - np.mean(first))
    if n < LEAST_STARTS:
        return Effect(
            mean, None, 0, n, unit, STARTS, f"{n} {unit}: an interval over starts needs {LEAST_STARTS}"
        )
    parts = [float(np.var(side, ddof=1)) / len(side) for side in (first, second)]
    if sum(parts) < 1e-18:
        return Effect(mean, None, 0, n, unit, STARTS, "all starts are equal: no spread")
    freedoms = [len(side) - 1.0 for side in (first, second)]
    return Effect(mean, math.sqrt(sum(parts)), _welch(parts, freedoms), n, unit, STARTS)


def holm_levels(p_values: Sequence[float], alpha: float) -> list[float]:
    """Return the error rate at which each of several may be judged, so that all together err in at most ``alpha``.

    By Holm (1979): the smallest at alpha / m, the next at alpha / (m - 1), and so on while each is within its own; from
    the first that is not, all at that one's level.
    """
    levels, m = [alpha] * len(p_values), len(p_values)
    level, stopped = alpha, False
    for rank, index in enumerate(sorted(range(m), key=lambda i: p_values[i])):
        if not stopped:
            level = alpha / (m - rank)
            stopped = p_values[index] > level
        levels[index] = level
    return levels


def _welch(parts: Sequence[float], freedoms: Sequence[float]) -> float:
    """Return the degrees of freedom of a sum of variances (Satterthwaite 1946)."""
    return sum(parts) ** 2 / sum(part**2 / freedom for part, freedom in zip(parts, freedoms, strict=True))


def quantile(freedom: float, confidence: float) -> float:
    """Return how many standard errors half of a two-sided interval of Student's t is."""
    from scipy import special  # the quantile alone: all of scipy.stats takes a second and a half

    return float(special.stdtrit(freedom, (1 + confidence) / 2))


def _tail(t: float, freedom: float) -> float:
    from scipy import special  # as above

    return float(special.stdtr(freedom, -t))
