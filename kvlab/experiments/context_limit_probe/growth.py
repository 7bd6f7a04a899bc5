"""Bytes a token: a straight line through what a child process really held."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from kvlab.experiments.context_limit_probe.ledger import Probe
from kvlab.stats.slopes import slope_interval
from kvlab.vram.kv_bytes import KvLayout

#: Fewer points than this are no line worth an interval.
MIN_POINTS = 4


@dataclass(frozen=True)
class Line:
    """An ordinary least-squares line, memory in bytes over context in tokens.

    Attributes:
        slope: Bytes a token, with ``low`` and ``high`` from `kvlab.stats.slopes`: right where what an allocator took
            stays in all later points.
        intercept: Bytes at 0 tokens: the loaded model.
        r_squared: Share of the variance that the line explains.
        max_residual_bytes: Largest distance of a point from the line.
        grown_bytes: Growth from the first point to the last, along the line.
        points: How many, from ``first_tokens`` to ``last_tokens``.
        layout: Which layers keep what, where some have a window: the line then goes over what they hold
            (`KvLayout.steps`), not over tokens, and ``slope`` is what a token takes once windows are full.
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
    layout: KvLayout | None = None

    @property
    def residual_fraction(self) -> float:
        """Return the largest residual as a share of the growth."""
        return self.max_residual_bytes / self.grown_bytes if self.grown_bytes > 0 else float("inf")

    def bytes_at(self, tokens: int) -> float:
        """Return the memory that a context of so many tokens takes, the model included."""
        return self.intercept + self.slope * (tokens if self.layout is None else self.layout.steps(tokens))

    def tokens_in(self, free_bytes: float) -> int | None:
        """Return how many tokens fit into so much memory beside the model; ``None``: any number of them."""
        if self.slope <= 0:
            return 0
        steps = max(0.0, free_bytes / self.slope)
        found = steps if self.layout is None else self.layout.tokens_of(steps)
        return None if found is None else int(found)


def fit_line(tokens: Sequence[float], held_bytes: Sequence[float], confidence: float) -> Line | None:
    """Fit a line (`scipy.stats.linregress`); ``None``: too few points, or all of one length."""
    if len(tokens) < MIN_POINTS or len(set(tokens)) < MIN_POINTS:
        return None
    from scipy import stats  # a second to import

    x, y = np.asarray(tokens, dtype=float), np.asarray(held_bytes, dtype=float)
    found = stats.linregress(x, y)
    interval = slope_interval(tokens, held_bytes, confidence=confidence)
    slope, intercept = float(found.slope), float(found.intercept)
    return Line(
        slope=slope,
        low=slope if interval.low is None else interval.low,
        high=slope if interval.high is None else interval.high,
        intercept=intercept,
        r_squared=float(found.rvalue) ** 2,
        max_residual_bytes=float(np.abs(y - intercept - slope * x).max()),
        grown_bytes=slope * float(x.max() - x.min()),
        points=len(x),
        first_tokens=int(x.min()),
        last_tokens=int(x.max()),
    )


def held_bytes(probe: Probe) -> int:
    """Return what a child held: on a card what its tensors take, else its resident memory."""
    return int(probe.detail.get("held_bytes", probe.detail.get("rss_bytes", 0)))


def layout_of(probes: Sequence[Probe], dtype: str) -> KvLayout | None:
    """Return which layers keep what, as a child's model told it; ``None``: not known."""
    known = [
        probe.detail["kv_layout"] for probe in probes if probe.target == dtype and "kv_layout" in probe.detail
    ]
    return KvLayout(**known[-1]) if known else None


def longest_child(probes: Sequence[Probe], dtype: str) -> list[Probe]:
    """Return the held probes of the one child that got furthest: two processes are two intercepts."""
    children: dict[tuple[int, str], list[Probe]] = {}
    for probe in probes:
        if probe.target == dtype and probe.held and "rss_bytes" in probe.detail:
            children.setdefault((probe.session_id, probe.trial_id), []).append(probe)
    return max(children.values(), key=lambda held: (len(held), held[-1].tokens), default=[])


def fit_child(probes: Sequence[Probe], dtype: str, from_tokens: int, confidence: float) -> Line | None:
    """Return the line of a precision's child; ``None``: it did not grow far enough."""
    return _fit(
        probes,
        dtype,
        from_tokens,
        confidence,
        [held_bytes(probe) for probe in _fitted(probes, dtype, from_tokens)],
    )


def tensor_slope(probes: Sequence[Probe], dtype: str, from_tokens: int) -> float | None:
    """Return bytes a token by the cache's own account of its tensors; ``None``: it does not tell."""
    held = _fitted(probes, dtype, from_tokens)
    told = [int(probe.detail["cache_bytes"]) for probe in held if probe.detail.get("cache_bytes")]
    line = _fit(probes, dtype, from_tokens, 0.95, told) if len(told) == len(held) else None
    return None if line is None else line.slope


def _fitted(probes: Sequence[Probe], dtype: str, from_tokens: int) -> list[Probe]:
    return [probe for probe in longest_child(probes, dtype) if probe.tokens >= from_tokens]


def _fit(
    probes: Sequence[Probe], dtype: str, from_tokens: int, confidence: float, values: Sequence[float]
) -> Line | None:
    tokens, layout = [probe.tokens for probe in _fitted(probes, dtype, from_tokens)], layout_of(probes, dtype)
    if layout is None or not layout.window_layers:
        return fit_line(tokens, values, confidence)
    line = fit_line([layout.steps(n) for n in tokens], values, confidence)
    return (
        None
        if line is None
        else replace(line, first_tokens=min(tokens), last_tokens=max(tokens), layout=layout)
    )
