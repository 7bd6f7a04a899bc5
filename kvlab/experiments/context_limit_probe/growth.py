"""Bytes a token: a straight line through what a child process really held."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kvlab.experiments.context_limit_probe.ledger import Probe

#: Fewer points than this are no line worth an interval.
MIN_POINTS = 4


@dataclass(frozen=True)
class Line:
    """An ordinary least-squares line, memory in bytes over context in tokens.

    Attributes:
        slope: Bytes a token, with ``low`` and ``high`` from Student's t (n − 2 degrees of freedom).
        intercept: Bytes at 0 tokens: the loaded model.
        r_squared: Share of the variance that the line explains.
        max_residual_bytes: Largest distance of a point from the line.
        grown_bytes: Growth from the first point to the last, along the line.
        points: How many, from ``first_tokens`` to ``last_tokens``.
    """

    slope: float
    low: float
    high: float
    intercept: float
    r_squared: float
    max_residual_bytes: float
    grown_bytes: float
    points: int
    first_tokens: int
    last_tokens: int

    @property
    def residual_fraction(self) -> float:
        """Return the largest residual as a share of the growth."""
        return self.max_residual_bytes / self.grown_bytes if self.grown_bytes > 0 else float("inf")

    def tokens_in(self, free_bytes: float) -> int:
        """Return how many tokens fit into so much memory beside what holds the model."""
        return max(0, int(free_bytes / self.slope)) if self.slope > 0 else 0


def fit_line(tokens: Sequence[float], held_bytes: Sequence[float], confidence: float) -> Line | None:
    """Fit a line (`scipy.stats.linregress`); ``None``: too few points, or all of one length."""
    if len(tokens) < MIN_POINTS or len(set(tokens)) < MIN_POINTS:
        return None
    from scipy import stats  # a second to import

    x, y = np.asarray(tokens, dtype=float), np.asarray(held_bytes, dtype=float)
    found = stats.linregress(x, y)
    half = float(stats.t.ppf((1 + confidence) / 2, len(x) - 2)) * float(found.stderr)
    slope, intercept = float(found.slope), float(found.intercept)
    return Line(
        slope=slope,
        low=slope - half,
        high=slope + half,
        intercept=intercept,
        r_squared=float(found.rvalue) ** 2,
        max_residual_bytes=float(np.abs(y - intercept - slope * x).max()),
        grown_bytes=slope * float(x.max() - x.min()),
        points=len(x),
        first_tokens=int(x.min()),
        last_tokens=int(x.max()),
    )


def longest_child(probes: Sequence[Probe], dtype: str) -> list[Probe]:
    """Return the held probes of the one child that got furthest: two processes are two intercepts."""
    children: dict[tuple[int, str], list[Probe]] = {}
    for probe in probes:
        if probe.target == dtype and probe.held and "rss_bytes" in probe.detail:
            children.setdefault((probe.session_id, probe.trial_id), []).append(probe)
    return max(children.values(), key=lambda held: (len(held), held[-1].tokens), default=[])


def fit_child(probes: Sequence[Probe], dtype: str, from_tokens: int, confidence: float) -> Line | None:
    """Return the line of a precision's child; ``None``: it did not grow far enough."""
    held = [probe for probe in longest_child(probes, dtype) if probe.tokens >= from_tokens]
    return fit_line(
        [probe.tokens for probe in held], [probe.detail["rss_bytes"] for probe in held], confidence
    )
