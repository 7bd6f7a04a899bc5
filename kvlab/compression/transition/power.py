"""The smallest drop that the calibrated rule would see."""

from dataclasses import dataclass

import numpy as np

from kvlab.compression.transition.drop import MIN_CLUSTERS, clustered_mean, p_exceeds
from kvlab.compression.transition.scores import Floats, Ints
from kvlab.stats.scores import DRAWS, least_contexts

POWER = 0.8
_SIMULATIONS, _HALVINGS = 400, 9


@dataclass(frozen=True)
class Detectable:
    """The minimum detectable drop; ``None`` with a ``reason``."""

    drop: float | None
    reason: str | None = None


def power(drop: float, error: float, sizes: Floats, *, margin: float, level: float, seed: int = 0) -> float:
    """Return the chance that the rule's own test rejects, by simulation: `drop.p_exceeds`, no formula beside it.

    In each simulated run a context falls from 1 to 0, rises from 0 to 1, or stays, with the chances that make the
    mean ``drop`` and the standard error ``error``: right and wrong answers, which spread most. The same draws
    serve every drop, so that the chance does not waver from one to the next.

    Args:
        drop: The true one, in (0, 1].
        error: Standard error of the mean difference, as observed; not taken below that of a share ``drop`` of
            contexts that falls: the observed one is that of a curve that may not have fallen yet.
        sizes: Examples of each context; [contexts].
        margin: What the drop must exceed.
        level: One-sided, of this test.
        seed: Of the simulation.
    """
    sizes = sizes[sizes > 0]
    groups = len(sizes)
    counted = float(sizes.sum() ** 2 / (sizes**2).sum())
    moved = max(drop, min(1.0, error**2 * counted + drop**2))  # the share of contexts that change at all
    falls, rises = (moved + drop) / 2, (moved - drop) / 2
    luck = np.random.default_rng(seed).random((_SIMULATIONS, groups))
    values = np.where(luck < falls, 1.0, np.where(luck > 1 - rises, -1.0, 0.0))
    if (sizes == sizes[0]).all():  # then only the counts matter, and most runs have one of a few
        values, sizes = np.sort(values, axis=1), np.ones(groups)
    different, of = np.unique(values, axis=0, return_inverse=True)
    clusters = np.asarray(np.repeat(np.arange(groups), sizes.astype(int)), dtype=np.int64)
    p = p_exceeds(different[:, clusters], clusters, margin, seed=seed)[of.ravel()]
    # The rule draws other weights: what rejects by less than they differ is not counted on.
    sure = level - 2 * np.sqrt(level * (1 - level) / DRAWS)
    return float((p <= sure).mean())


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
    fewest = int(np.argmin(np.where(found.clusters > 0, found.clusters, np.iinfo(np.int64).max)))
    there = ~np.isnan(drops[:, fewest])
    sizes = np.unique(clusters[there], return_counts=True)[1].astype(float)
    groups, least = len(sizes), least_contexts(margin, level, least=-1.0, most=1.0)
    if groups < max(MIN_CLUSTERS, least):
        return Detectable(
            None, f"{groups} contexts cannot reject at {level:.3g} (one-sided): it takes {least}"
        )
    error = float(np.nanmax(found.error))

    def seen(drop: float) -> bool:
        return power(drop, error, sizes, margin=margin, level=level) >= POWER

    if not seen(1 - 1e-6):
        return Detectable(None, f"with {groups} contexts not even a drop from 1 to 0 would be seen")
    low, high = margin, 1 - 1e-6
    for _ in range(_HALVINGS):  # power rises with the drop, as the same draws serve all
        middle = (low + high) / 2
        low, high = (low, middle) if seen(middle) else (middle, high)
    return Detectable(high)
