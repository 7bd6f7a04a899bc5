"""The extrapolation of each strategy: checked on the largest size, and refused where it would not be sound."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kvlab.experiments.batch_benchmark import estimate, leaks
from kvlab.stats import extrapolate

if TYPE_CHECKING:
    from kvlab.experiments.batch_benchmark.params import BatchBenchmarkParams

Cell = Mapping[str, Any]
#: A change of the time per request that would move the whole by less than this is none.
LEAST_EFFECT = 0.02
#: Strategies that have no steady state of their own: all is sent at once, or by the server itself.
WITHOUT = {
    "concurrent_start": "all requests are sent at once: there is no steady state to go on from",
    "batch_api": "the server sends the requests itself: there are no windows to go on from",
}


def forecast(table: Sequence[Cell], params: "BatchBenchmarkParams", strategy: str) -> dict[str, Any]:
    """Return the extrapolation of a strategy to ``target_requests``.

    Keys: ``refused`` (reasons; empty: it stands), ``held_out`` (the largest size as the smaller ones predict
    it: ``requests``, ``predicted_s``, ``low_s``, ``high_s``, ``measured_s``, ``miss``, ``inside``; ``None`` where there is
    no smaller one), and, where it stands, ``seconds``, ``low_s``, ``high_s``, ``requests_per_s``, ``prompt_tokens``,
    ``computed_tokens``, ``completion_tokens``, ``cost``, ``savings``, ``note``.
    """
    if strategy in WITHOUT:
        return {"strategy": strategy, "refused": [WITHOUT[strategy]], "held_out": None}
    found = estimate.trials_of(table, strategy)
    held_out = _held_out(found, params)
    complete = [cell for cell in table if cell["state"] == "complete"]
    refused = _refusals(found, complete, held_out, params)
    made = extrapolate.predict([_trial(cell) for cell in found], params.target_requests, params.confidence)
    if made is None or refused:
        refused = refused or ["no trial has a steady state: raise sizes"]
        return {"strategy": strategy, "refused": refused, "held_out": held_out}
    return {
        "strategy": strategy,
        "refused": [],
        "held_out": held_out,
        "seconds": made.seconds,
        "low_s": made.low_s,
        "high_s": made.high_s,
        "requests_per_s": params.target_requests / made.seconds,
        "note": made.reason,
        **_tokens(found[-1], params),
    }


def _trial(cell: Cell) -> extrapolate.TrialRate:
    windows = cell["steady"].windows
    each = int(windows["requests"].iloc[0]) if len(windows) else 1  # all of a trial's hold as many
    return extrapolate.TrialRate(
        cell["answered"], cell["total_s"] or 0.0, windows["s_per_request"].tolist(), each
    )


def _held_out(found: Sequence[Cell], params: "BatchBenchmarkParams") -> dict[str, Any] | None:
    largest = max((cell["size"] for cell in found), default=0)
    smaller = [_trial(cell) for cell in found if cell["size"] < largest]
    measured = [cell["total_s"] for cell in found if cell["size"] == largest and cell["total_s"]]
    made = extrapolate.predict(smaller, largest, params.confidence)
    if made is None or not measured:
        return None
    taken = sum(measured) / len(measured)
    inside = None
    if made.low_s is not None and made.high_s is not None:
        inside = bool(made.low_s <= taken <= made.high_s)
    return {
        "requests": largest,
        "predicted_s": made.seconds,
        "low_s": made.low_s,
        "high_s": made.high_s,
        "measured_s": taken,
        "miss": made.seconds / taken - 1,
        "inside": inside,
        "windows": made.windows,
    }


def _refusals(
    found: Sequence[Cell],
    complete: Sequence[Cell],
    held_out: Mapping[str, Any] | None,
    params: "BatchBenchmarkParams",
) -> list[str]:
    """Return everything that makes going on to the target unsound; memory is that of all strategies' server."""
    if not found:
        return ["no trial is complete"]
    largest, reasons = found[-1], list[str]()
    preempted = sum(cell["preemptions"] or 0 for cell in found)
    evicted = sum(cell["evicted"] or 0 for cell in found)
    lost = sum(cell["failed"] for cell in found)
    if preempted:
        reasons.append(
            f"the server preempted {preempted:.0f} requests: its memory is too small for this load"
        )
    if evicted:
        reasons.append(f"{evicted} requests did not find the shared prefix any more: it was evicted")
    if lost:
        reasons.append(f"{lost} requests failed for good")
    times = params.target_requests / largest["size"]
    # Half of a change by the end of the target is its effect on the whole.
    change = extrapolate.trend(
        largest["steady"].windows["s_per_request"].tolist(), 2 * LEAST_EFFECT / max(times, 1.0)
    )
    if change is not None:
        reasons.append(
            f"the time per request {'rises' if change > 0 else 'falls'} by {abs(change):.1%} within {largest['size']:,} "
            f"requests: over {params.target_requests:,}, if it goes on, by {abs(change) * times:.0%}"
        )
    reasons += [f"memory rises: {line}" for line in leaks.measured(complete, params)]
    memory = leaks.at_target(complete, params)
    if memory.enough and memory.reason:
        reasons.append(f"memory at {params.target_requests:,} requests is not known: {memory.reason}")
    if held_out is None:
        reasons.append("no smaller size has a steady state, so the fit cannot be checked on the largest")
    elif held_out["inside"] is False:
        reasons.append(
            f"the largest size took {held_out['measured_s']:,.1f} s, outside of what the smaller ones predict "
            f"({held_out['low_s']:,.1f} to {held_out['high_s']:,.1f} s)"
        )
    elif abs(held_out["miss"]) > params.max_held_out_miss:
        reasons.append(
            f"the smaller sizes miss the largest by {held_out['miss']:+.1%}, more than {params.max_held_out_miss:.0%}"
        )
    return reasons


def _tokens(cell: Cell, params: "BatchBenchmarkParams") -> dict[str, Any]:
    """Return the tokens and the cost of the target, from the largest trial's mean request."""
    share = params.target_requests / cell["answered"] if cell["answered"] else float("nan")
    prompt = None if cell["prompt_tokens"] is None else cell["prompt_tokens"] * share
    made = None if cell["completion_tokens"] is None else cell["completion_tokens"] * share
    saved = cell["savings"]
    computed = None if prompt is None or saved is None else prompt * (1 - saved)
    return {
        "prompt_tokens": prompt,
        "computed_tokens": computed,
        "completion_tokens": made,
        "savings": saved,
        "cost": _cost(prompt, computed, made, params),
    }


def _cost(
    prompt: float | None, computed: float | None, made: float | None, params: "BatchBenchmarkParams"
) -> float | None:
    """Return the price; ``None`` where a price or a figure is missing. Cached tokens may have their own."""
    fresh, out = params.price_per_million_prompt_tokens, params.price_per_million_completion_tokens
    if fresh is None or out is None or prompt is None or made is None:
        return None
    cached = params.price_per_million_cached_tokens
    if cached is None:
        return (prompt * fresh + made * out) / 1e6
    if computed is None:
        return None
    return (computed * fresh + (prompt - computed) * cached + made * out) / 1e6
