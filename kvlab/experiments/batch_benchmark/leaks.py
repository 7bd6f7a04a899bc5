"""Whether the server's memory rises: while it was measured, and up to the target.

A healthy server's memory rises, too: allocators, compiled kernels and caches grow while it meets its
first requests, and once more with each new high. So a rise counts only where it goes on: within a trial of the largest
size, in its later half; over the trials of that size, without the largest of the steps. That is what was
measured. What it is at the target is another question, and has an answer only where the run was long enough:
its later half is carried on to at most `growth.FARTHEST` times as many requests. No rise that was not measured is ever
a broken criterion: a cache that fills up and then stops looks like a leak until it is full.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from kvlab.stats import extrapolate, growth

if TYPE_CHECKING:
    from kvlab.experiments.batch_benchmark.params import BatchBenchmarkParams

Cell = Mapping[str, Any]
#: A smaller rise within half a trial is the grain in which memory is given and taken.
LEAST_RISE = 0.002
#: The later half of a run is taken together to so many means.
MOST_LOOKS = 40


class AtTarget(NamedTuple):
    """What is known of the memory at the target.

    Attributes:
        is_level: It is shown not to rise by more than ``max_memory_rise``, and to stay below its limit; ``None``: that
            is not known.
        reason: Why it is not known.
        rise_at_most: The upper bound of the rise up to the target, as a share; ``None`` where it is not known.
        stretch_requests: How many requests it is carried on from.
        enough: Whether the run was long enough to tell.
    """

    is_level: bool | None
    reason: str | None
    rise_at_most: float | None
    stretch_requests: int
    enough: bool

    def as_json(self) -> dict[str, Any]:
        """Return it for ``summary.json``."""
        return self._asdict() | {"carried_on_at_most_times": growth.FARTHEST}


def measured(found: Sequence[Cell], params: "BatchBenchmarkParams") -> list[str]:
    """Return the series that rose by more than ``max_memory_rise`` in what was measured, in words.

    Args:
        found: Complete trials, in the order in which they were measured, of all strategies.
        params: The run's.
    """
    return [*_within(found, params), *_over_all(found, params)]


def can_tell(found: Sequence[Cell]) -> bool:
    """Return whether a rise could be seen of each series: by looks within a largest trial, or by three such trials."""
    largest = max((cell["size"] for cell in found), default=0)
    trials = [cell["memory"] for cell in found if cell["size"] == largest]
    names = {series for cell in found for series in cell["memory"]}
    looks = {name: [len(memory[name]["used_bytes"]) for memory in trials if name in memory] for name in names}
    least = 2 * extrapolate.LEAST_VALUES
    return bool(names) and all(max(seen, default=0) >= least or len(seen) >= 3 for seen in looks.values())


def _within(found: Sequence[Cell], params: "BatchBenchmarkParams") -> list[str]:
    """Return the series that rise in the later half of a trial of the largest size: smaller ones warm the server up."""
    largest, lines = max((cell["size"] for cell in found), default=0), list[str]()
    for cell in found:
        for series, usage in cell["memory"].items() if cell["size"] == largest else ():
            used = usage["used_bytes"]
            later = extrapolate.trend(used[len(used) // 2 :], LEAST_RISE)
            if later is not None and later > params.max_memory_rise:
                lines.append(f"{series} by {later:.1%} within the later half of {cell['trial_id']}")
    return lines


def _over_all(complete: Sequence[Cell], params: "BatchBenchmarkParams") -> list[str]:
    """Return the series that rise over the trials of the largest size, without the largest of their steps."""
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
            rise = ends[-1] / ends[0] - 1
            lines.append(f"{series} by {rise:.0%} over the trials of {largest:,} requests")
    return lines


def at_target(found: Sequence[Cell], params: "BatchBenchmarkParams") -> AtTarget:
    """Return what is known of the memory at ``target_requests``: of all series, the least that is known of one.

    Args:
        found: Complete trials, in the order in which they were measured, of all strategies.
        params: The run's.
    """
    names = sorted({series for cell in found for series in cell["memory"]})
    if not names:
        return AtTarget(None, "memory cannot be seen from here", None, 0, enough=False)
    known = [_one(series, found, params) for series in names]
    unknown = [each for each in known if not each.is_level]
    if unknown:
        return next((each for each in unknown if each.enough), unknown[0])
    return max(known, key=lambda each: each.rise_at_most or 0.0)


def _one(series: str, found: Sequence[Cell], params: "BatchBenchmarkParams") -> AtTarget:
    values, stretch = later_half(series, found)
    times = params.target_requests / max(1, stretch)
    ahead = growth.ahead(values, times)
    if times > growth.FARTHEST:
        wanted = 2 * math.ceil(params.target_requests / growth.FARTHEST)
        reason = (
            f"what memory does over the later half of a run is carried on to {growth.FARTHEST:g} times as many requests at "
            f"most, here from {stretch:,} to {stretch * growth.FARTHEST:,.0f}; a run of {wanted:,} requests could tell (sizes, repeats)"
        )
        if ahead is not None and ahead.rises is not None:
            reason += f"; {series} {_rise(values)}"
        return AtTarget(None, reason, None, stretch, enough=False)
    if ahead is None:
        reason = f"{series}: {len(values)} looks at it in the run's later half are too few; lower memory_interval_s"
        return AtTarget(None, reason, None, stretch, enough=False)
    why = _why_not(series, values, ahead, found, params)
    return AtTarget(None if why else True, why, None if why else ahead.at_most, stretch, enough=True)


def _why_not(
    series: str,
    values: Sequence[float],
    ahead: growth.Ahead,
    found: Sequence[Cell],
    params: "BatchBenchmarkParams",
) -> str | None:
    """Return why a course that is long enough is not shown to stay level; ``None``: it is."""
    margin = params.max_memory_rise
    limits = [
        usage["total_bytes"]
        for cell in found
        if (usage := cell["memory"].get(series)) and usage["total_bytes"]
    ]
    limit = params.memory_limit_bytes or min(limits, default=None)
    if max(values) > values[-1] * (1 + margin):
        return f"{series} fell by more than {margin:.0%} meanwhile: the server was restarted, or gave memory back"
    if ahead.rises is not None and ahead.rises > growth.ROOM * margin:
        return (
            f"{series} {_rise(values)}: by {ahead.rises:.0%} up to {params.target_requests:,} requests, if it slows "
            f"down as it did, and by {ahead.at_most:.0%} at most"
        )
    if ahead.at_most > growth.ROOM * margin:
        return (
            f"as far as the run's later half can tell, {series} may rise by {ahead.at_most:.1%}, and up to "
            f"{growth.ROOM * margin:.1%} of that would count as none"
        )
    if limit is not None and values[-1] * (1 + ahead.at_most) > limit:
        return f"{series} may pass its limit of {limit / 2**20:,.0f} MiB"
    return None


def _rise(values: Sequence[float]) -> str:
    return f"rises by {extrapolate.fit_line(values).change:.1%} in the run's later half, and still does at its end"


def later_half(series: str, found: Sequence[Cell]) -> tuple[list[float], int]:
    """Return the means of a series over the later half of a run's requests, evenly spaced in them, and how many those are.

    Within a trial, requests are taken as evenly spaced in time. A stretch without a look is read off between its neighbours.
    """
    served, at, used = 0, list[float](), list[float]()
    for cell in found:
        usage = cell["memory"].get(series)
        if usage is None:
            continue
        looks = usage["used_bytes"]
        at += [served + cell["size"] * (k + 0.5) / len(looks) for k in range(len(looks))]
        used += looks
        served += cell["size"]
    stretch = served - served // 2
    inside = [(x, value) for x, value in zip(at, used, strict=True) if x >= served - stretch]
    bins = min(MOST_LOOKS, len(inside) // 2)
    if bins < growth.LEAST_LOOKS:
        return [value for _, value in inside][: growth.LEAST_LOOKS - 1], stretch
    edges = np.linspace(served - stretch, served, bins + 1)
    place = np.clip(np.searchsorted(edges, [x for x, _ in inside], side="right") - 1, 0, bins - 1)
    count = np.bincount(place, minlength=bins)
    total = np.bincount(place, weights=[value for _, value in inside], minlength=bins)
    seen = np.flatnonzero(count)
    means = np.interp(np.arange(bins), seen, total[seen] / count[seen])
    return [float(value) for value in means], stretch
