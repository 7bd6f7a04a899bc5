"""What an interval says of itself, and what may be decided by it."""

import math
from dataclasses import dataclass
from typing import Literal

#: Where a figure lies against a margin: shown to be above, shown to be below, or neither.
Decision = Literal["above", "below", "undecided"]


@dataclass(frozen=True)
class Interval:
    """An estimate with its two-sided interval.

    Attributes:
        estimate: ``None`` where there is no value.
        low, high: The ends; ``None`` with a ``reason`` where there is no interval.
        n: How many units it is over.
        confidence: How often such an interval covers the truth, under ``assumes``.
        reason: Why there is none.
        method: How it was made, such as "order statistics".
        unit: What it varies over: pairs, contexts, trials, cycles. Nothing is said of any other level: that
            of one server's start is one start.
        assumes: What must hold for ``confidence`` and cannot be seen in so few units; ``None``: nothing
            beyond what ``benchmarks/coverage.py`` tries.
    """

    estimate: float | None
    low: float | None
    high: float | None
    n: int
    confidence: float
    reason: str | None = None
    method: str = ""
    unit: str = "values"
    assumes: str | None = None

    @property
    def label(self) -> str:
        """The name of its level: ``95 %``, or ``95 % if`` with what is taken for granted."""
        level = f"{100 * self.confidence:g} %"
        return level if self.assumes is None else f"{level} if {self.assumes}"

    @property
    def made_by(self) -> str:
        """In one clause how it was made: level, method, n and unit, or why there is none."""
        if self.low is None or self.high is None:
            return f"no interval: {self.reason}"
        return f"{self.label}; {self.method}, n = {self.n} {self.unit}"

    def _repr_html_(self) -> str:
        from kvlab.escape import html  # only where it is shown

        ends = "" if self.low is None or self.high is None else f" ({self.low:,.4g} to {self.high:,.4g})"
        value = "no value" if self.estimate is None else f"{self.estimate:,.4g}"
        return f"<p><b>{value}</b>{ends} · {html(self.made_by)}</p>"


def decide(interval: Interval, margin: float) -> Decision:
    """Return whether a figure is shown to be above ``margin``, below it, or neither.

    Both answers have an error rate: of an interval of confidence c, an end lies beyond the truth in
    at most (1 - c) / 2. A true value at the margin or above it is called ``below`` in at most that share
    of runs, however few units there are; without an interval nothing is decided.

    Args:
        interval: Of the figure.
        margin: In the figure's unit.
    """
    if interval.low is not None and interval.low > margin:
        return "above"
    if interval.high is not None and interval.high < margin:
        return "below"
    return "undecided"


def units_needed(interval: Interval, margin: float) -> int | None:
    """Return of how many units the interval would probably lie on one side of ``margin``.

    Its width falls with the square root of the units. A plan for the next run, and no part of a verdict: the
    estimate may move. ``None``: there is no interval, or the estimate lies on the margin, which no number decides.

    Args:
        interval: Of the figure.
        margin: In the figure's unit.
    """
    if interval.estimate is None or interval.low is None or interval.high is None:
        return None
    above = interval.estimate > margin
    distance = abs(interval.estimate - margin)
    reach = interval.estimate - interval.low if above else interval.high - interval.estimate
    if distance <= 0:
        return None
    return max(interval.n, math.ceil(interval.n * (reach / distance) ** 2))
