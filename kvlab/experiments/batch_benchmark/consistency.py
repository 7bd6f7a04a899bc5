"""Whether a larger size is served more slowly than a smaller one, told from windows that differ anyway.

Two sizes are compared by `kvlab.stats.rates`, which does not take the windows of one trial as independent,
corrected for the number of comparisons (Bonferroni).
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from kvlab.experiments.batch_benchmark import estimate, forecast
from kvlab.stats.rates import rate_change

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
        known = math.isfinite(self.high)
        ends = f"[{self.low:+.1%} to {self.high:+.1%}]" if known else "(no interval: windows are too alike)"
        span = f"{self.change:+.1%} {ends}"
        return f"{span} ({self.strategy}, {self.smaller:,} to {self.larger:,} requests)"


def changes(complete: Sequence[Cell], params: "BatchBenchmarkParams") -> list[Change]:
    """Return every change from a smaller size to a larger one, with intervals that hold for all at once.

    Sizes with fewer than `LEAST_WINDOWS` windows are left out. A comparison without an interval has one without
    ends, from -1 to infinity.
    """
    pairs: list[tuple[str, int, list[list[float]], int, list[list[float]]]] = []
    for strategy in params.strategies:
        if strategy in forecast.WITHOUT:
            continue  # no steady state of its own
        sizes: dict[int, list[list[float]]] = {}
        for cell in estimate.trials_of(complete, strategy):
            if cell["steady_requests_per_s"]:
                sizes.setdefault(cell["size"], []).append(list(cell["steady"].windows["s_per_request"]))
        known = sorted(
            (size, found) for size, found in sizes.items() if sum(map(len, found)) >= LEAST_WINDOWS
        )
        pairs += [(strategy, *smaller, *larger) for smaller, larger in itertools.combinations(known, 2)]
    alpha = (1 - params.confidence) / max(1, len(pairs))
    found = [(pair, rate_change(pair[2], pair[4], confidence=1 - alpha)) for pair in pairs]
    # Without an interval anything may be true: left out, a size would pass for one that was compared.
    return [
        Change(
            strategy, small, large, span.estimate,
            -1.0 if span.low is None else span.low, math.inf if span.high is None else span.high,
        )
        for (strategy, small, _, large, _), span in found
        if span.estimate is not None
    ]  # fmt: skip
