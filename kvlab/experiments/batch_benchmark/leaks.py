"""Whether the server's memory rises and goes on rising, which a batch of hours would not survive.

A healthy server's memory rises, too: allocators, compiled kernels and caches grow while it meets its
first requests, and once more with each new high. So a rise counts only where it goes on: within a trial, in
its later half as well; over the trials, among those of the largest size, after all smaller ones have
warmed the server up, and without the largest of the steps.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kvlab.stats import extrapolate

if TYPE_CHECKING:
    from kvlab.experiments.batch_benchmark.params import BatchBenchmarkParams

Cell = Mapping[str, Any]


def within(found: Sequence[Cell], params: "BatchBenchmarkParams") -> list[str]:
    """Return the series that rise by more than ``max_memory_rise`` within a trial, and still in its later half."""
    lines = []
    for cell in found:
        for series, usage in cell["memory"].items():
            used = usage["used_bytes"]
            change = extrapolate.trend(used, params.max_memory_rise)
            later = extrapolate.trend(used[len(used) // 2 :], params.max_memory_rise / 2)
            if change is not None and change > 0 and later is not None and later > 0:
                lines.append(f"{series} by {change:.0%} within {cell['trial_id']}")
    return lines


def over_all(complete: Sequence[Cell], params: "BatchBenchmarkParams") -> list[str]:
    """Return the series that rise by more than ``max_memory_rise`` over the trials of the largest size.

    Args:
        complete: Trials of all strategies, in the order in which they were measured.
        params: The run's.
    """
    largest = max((cell["size"] for cell in complete), default=0)
    levels: dict[str, list[float]] = {}
    for cell in complete:
        for series, usage in cell["memory"].items():
            ends = levels.setdefault(series, [])
            if cell["size"] < largest:
                ends.clear()  # it only warms the server up
            ends.append(usage["end_bytes"])
    lines = []
    for series, ends in levels.items():
        steps = [after - before for before, after in itertools.pairwise(ends)]
        if steps and ends[0] and (sum(steps) - max(steps)) / ends[0] > params.max_memory_rise:
            lines.append(f"{series} by {ends[-1] / ends[0] - 1:.0%} over the trials of {largest:,} requests")
    return lines
