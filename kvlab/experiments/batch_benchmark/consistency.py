"""Whether a larger size is served more slowly than a smaller one, told from windows that differ anyway.

Two sizes are compared by the ratios of all their windows' rates: the median of the ratios with its
interval (Hodges & Lehmann 1963; the interval inverts the rank test of Mann & Whitney 1947, with its normal
approximation), corrected for the number of comparisons (Bonferroni). Ranks bear a slow spell of the machine
that covers a part of a trial, which a comparison of means does not.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from kvlab.experiments.batch_benchmark import analysis, forecast

if TYPE_CHECKING:
    from kvlab.experiments.batch_benchmark.params import BatchBenchmarkParams

Cell = Mapping[str, Any]
#: A steady state of fewer windows says little of a size's rate.
LEAST_WINDOWS = 4


class Change(NamedTuple):
    """How the rate of a strategy changes from a smaller to a larger size, as shares: -0.2 is a fall by 20 %."""

    strategy: str
    smaller: int
    larger: int
    change: float
    low: float
    high: float

    def __str__(self) -> str:
        """Return it in words."""
        span = f"{self.change:+.1%} [{self.low:+.1%} to {self.high:+.1%}]"
        return f"{span} ({self.strategy}, {self.smaller:,} to {self.larger:,} requests)"


def changes(complete: Sequence[Cell], params: "BatchBenchmarkParams") -> list[Change]:
    """Return every change from a smaller size to a larger one, with intervals that hold for all at once.

    Sizes with fewer than `LEAST_WINDOWS` windows are left out, and comparisons of so few windows
    that there is no interval.
    """
    pairs = []
    for strategy in params.strategies:
        if strategy in forecast.WITHOUT:
            continue  # no steady state of its own
        sizes: dict[int, list[float]] = {}
        for cell in analysis.trials_of(complete, strategy):
            if cell["steady_requests_per_s"]:
                sizes.setdefault(cell["size"], []).extend(cell["steady"].windows["s_per_request"])
        known = sorted((size, found) for size, found in sizes.items() if len(found) >= LEAST_WINDOWS)
        pairs += [(strategy, *smaller, *larger) for smaller, larger in itertools.combinations(known, 2)]
    alpha = (1 - params.confidence) / max(1, len(pairs))
    return [
        Change(strategy, small, large, *span)
        for strategy, small, before, large, after in pairs
        if (span := _ratio(before, after, alpha)) is not None
    ]


def _ratio(
    before: Sequence[float], after: Sequence[float], alpha: float
) -> tuple[float, float, float] | None:
    """Return the relative change of the rate with its interval; ``None``: too few windows for one."""
    from scipy import special  # the quantile alone

    ratios = np.sort(np.divide.outer(np.asarray(before, float), np.asarray(after, float)).ravel()) - 1
    m, n = len(before), len(after)
    z = float(special.ndtri(1 - alpha / 2))
    rank = math.floor(m * n / 2 - z * math.sqrt(m * n * (m + n + 1) / 12))
    if rank < 1:
        return None
    return float(np.median(ratios)), float(ratios[rank - 1]), float(ratios[-rank])
