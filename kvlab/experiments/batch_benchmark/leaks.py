"""Whether the server's memory rises and goes on rising, which a batch of hours would not survive.

A healthy server's memory rises, too: allocators, compiled kernels and caches grow while it meets its
first requests, and once more with each new high. So a rise counts only where it goes on: within a trial, in
its later half; over the trials, among those of the largest size, after all smaller ones have
warmed the server up, and without the largest of the steps. What counts is not how far it has risen but how far it
would: 4 % in the later half of 10,000 requests are 136 % at 170,000.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from kvlab.stats import extrapolate

if TYPE_CHECKING:
    from kvlab.experiments.batch_benchmark.params import BatchBenchmarkParams

Cell = Mapping[str, Any]
#: A smaller rise within half a trial is the grain in which memory is given and taken.
LEAST_RISE = 0.002


#: A rise is carried on to so many times the requests that it was seen over, and no further: a server's first
#: hundred requests say nothing of its hundred thousandth.
FARTHEST = 400


class Rising(NamedTuple):
    """Series that rise, in words.

    Attributes:
        measured: By more than ``max_memory_rise`` within what was measured.
        at_target: Surely, and by more than that at the target if it goes on; whether it does is not measured.
    """

    measured: list[str]
    at_target: list[str]


def rising(found: Sequence[Cell], params: "BatchBenchmarkParams") -> Rising:
    """Return what rises within the later half of a trial, and over the trials of the largest size.

    Args:
        found: Complete trials, in the order in which they were measured; of all strategies, for the latter.
        params: The run's.
    """
    over_all = _over_all(found, params)
    within = _within(found, params)
    return Rising([*within.measured, *over_all.measured], [*within.at_target, *over_all.at_target])


def _within(found: Sequence[Cell], params: "BatchBenchmarkParams") -> Rising:
    """Return the series that surely rise in the later half of a trial."""
    lines = Rising([], [])
    for cell in found:
        times = max(1.0, params.target_requests / (cell["size"] / 2))
        for series, usage in cell["memory"].items():
            used = usage["used_bytes"]
            later = extrapolate.trend(used[len(used) // 2 :], LEAST_RISE)
            if later is None:
                continue
            line = f"{series} by {later:.1%} within the later half of {cell['trial_id']}"
            if times <= FARTHEST and later * times > params.max_memory_rise:
                lines.at_target.append(
                    f"{line}: at {params.target_requests:,} requests, if it goes on, by {later * times:.0%}"
                )
            elif later > params.max_memory_rise:
                lines.measured.append(line)
    return lines


def _over_all(complete: Sequence[Cell], params: "BatchBenchmarkParams") -> Rising:
    """Return the series that rise over the trials of the largest size; a certain trend takes six of them."""
    largest = max((cell["size"] for cell in complete), default=0)
    levels: dict[str, list[float]] = {}
    for cell in complete:
        for series, usage in cell["memory"].items():
            ends = levels.setdefault(series, [])
            if cell["size"] < largest:
                ends.clear()  # it only warms the server up
            ends.append(usage["end_bytes"])
    found = Rising([], [])
    for series, ends in levels.items():
        steps = [after - before for before, after in itertools.pairwise(ends)]
        if steps and ends[0] and (sum(steps) - max(steps)) / ends[0] > params.max_memory_rise:
            found.measured.append(
                f"{series} by {ends[-1] / ends[0] - 1:.0%} over the trials of {largest:,} requests"
            )
            continue
        times = params.target_requests / (largest * max(1, len(steps)))
        certain = extrapolate.trend(ends, LEAST_RISE)
        if certain is not None and times <= FARTHEST and certain * times > params.max_memory_rise:
            found.at_target.append(
                f"{series} by {certain:.1%} over {len(ends)} trials of {largest:,} requests: at "
                f"{params.target_requests:,}, if it goes on, by {certain * times:.0%}"
            )
    return found
