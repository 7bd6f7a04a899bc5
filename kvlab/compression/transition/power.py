"""The smallest drop that the calibrated rule would see."""

from dataclasses import dataclass

import numpy as np
from scipy import optimize, stats

from kvlab.compression.transition.drop import MIN_CLUSTERS, clustered_mean
from kvlab.compression.transition.scores import Floats, Ints

POWER = 0.8


@dataclass(frozen=True)
class Detectable:
    """The minimum detectable drop; ``None`` with a ``reason``."""

    drop: float | None
    reason: str | None = None


def power(drop: float, error: float, clusters: int, *, margin: float, level: float) -> float:
    """Return the chance that a one-sided clustered t-test at the margin rejects (noncentral t; Cohen 1988).

    Args:
        drop: The true one.
        error: Standard error of the mean difference, as observed.
        clusters: Contexts.
        margin: What the drop must exceed.
        level: One-sided, of this test.

    The error is not taken below that of a drop in which a share ``drop`` of the contexts falls from 1 to
    0: the observed one is that of a curve that may not have fallen yet.
    """
    least = np.sqrt(drop * (1 - drop) / clusters)
    spread = max(error, float(least))
    if spread == 0:
        return float(drop > margin)
    critical = stats.t.ppf(1 - level, clusters - 1)
    return float(stats.nct.sf(critical, clusters - 1, (drop - margin) / spread))


def minimum_detectable(drops: Floats, clusters: Ints, *, margin: float, level: float) -> Detectable:
    """Return the smallest true drop that is called with a probability of 80 %.

    Args:
        drops: Differences at the planned budgets, NaN where missing; [examples, budgets]. The error is
            the largest of theirs.
        clusters: [examples].
        margin: Of the rule.
        level: One-sided: half of alpha, for a bin divided by the number of bins.
    """
    if not drops.size or np.isnan(drops).all():
        return Detectable(None, "no pair")
    found = clustered_mean(drops.T, clusters)
    groups = int(found.clusters[found.clusters > 0].min())
    if groups < MIN_CLUSTERS or 2.0**-groups > level:
        return Detectable(None, f"{groups} contexts cannot reject at {level:.3g} (one-sided)")
    error = float(np.nanmax(found.error))

    def missing(drop: float) -> float:
        return power(drop, error, groups, margin=margin, level=level) - POWER

    # at 1 every context falls and a share has no spread left: look just below
    if missing(1 - 1e-6) < 0:
        return Detectable(None, f"with {groups} contexts not even a drop from 1 to 0 would be seen")
    grid = np.linspace(margin, 1 - 1e-6, 200)
    seen = np.array([missing(float(drop)) >= 0 for drop in grid])
    first = len(seen) - int(np.argmin(seen[::-1])) if not seen.all() else 0  # seen from there on
    if first == 0:
        return Detectable(float(grid[0]))
    return Detectable(float(optimize.brentq(missing, grid[first - 1], grid[first])))
