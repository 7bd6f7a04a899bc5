"""The tables of the report."""

import statistics
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pandas as pd

from kvlab.experiments.prefix_hit_miss import estimate, trials
from kvlab.findings import Table
from kvlab.stats.intervals import Interval
from kvlab.stats.medians import median_interval

if TYPE_CHECKING:
    from kvlab.experiments.prefix_hit_miss.params import PrefixHitMissParams

#: The columns that name a condition.
_PLACE = ("size_a", "size_b", "procedure", "condition")


def tables(table: pd.DataFrame, params: "PrefixHitMissParams") -> list[Table]:
    """Return all of them; a report leaves out those without a row, a notebook shows that there is none."""
    return [
        degradation(table, params),
        conditions(table, params),
        engine_view(table, params),
        greedy(table, params),
        by_trial(table),
    ]


def degradation(table: pd.DataFrame, params: "PrefixHitMissParams") -> Table:
    """Return ``ttft_degradation_pct`` as it was written, beside what the verified arm makes of it."""
    rows = []
    for place, group in _groups(table, params):
        if place["condition"] == trials.HIT:
            continue
        config, procedure, other = (place["size_a"], place["size_b"]), place["procedure"], place["condition"]
        found = estimate.degradation(table, config, procedure, params, other)
        misses = group[group["counted"]]
        if found.estimate is not None:
            row = {"size_a": config[0], "size_b": config[1], "procedure": procedure, "miss": other}
            row |= _bounds(found, "ttft_degradation_pct", "low_pct", "high_pct")
            rows.append(row | {"misses_read_from_cache": f"{int(misses['flagged'].sum())} of {len(misses)}"})
    return Table(
        name="degradation",
        title="How much longer a miss takes: ttft_degradation_pct",
        rows=rows,
        columns=(
            *_PLACE[:3],
            "miss",
            "ttft_degradation_pct",
            "low_pct",
            "high_pct",
            "misses_read_from_cache",
        ),
        digits=dict.fromkeys(("ttft_degradation_pct", "low_pct", "high_pct"), 3),
        note=(
            "(mean TTFT of misses - mean TTFT of hits) / mean TTFT of hits × 100. Positive: a miss takes longer; "
            "0: no difference; negative: a miss takes less time than a hit. miss is [B, Q], which is shorter than "
            "the hit's [A, B, Q]; miss_same_length is [A', B, Q], so that the cache alone makes the difference."
        ),
    )


def conditions(table: pd.DataFrame, params: "PrefixHitMissParams") -> Table:
    """Return the statistics of each condition."""
    rows = []
    for place, group in _groups(table, params):
        chosen, times = group[group["counted"]], estimate.values(group)
        middle = median_interval(times, confidence=params.confidence, unit="trials")
        rows.append({
            **place,
            "trials": f"{len(chosen)}/{params.num_trials}",
            "prompt_tokens": _middle(chosen["ttft.prompt_tokens"]),
            "cached_tokens": _middle(chosen["ttft.cached_tokens"]),
            **_bounds(middle, "ttft_median_ms", "low_ms", "high_ms"),
            "ttft_mean_ms": _mean(times),
            "ttft_stdev_ms": statistics.stdev(times) if len(times) > 1 else None,
            "total_mean_ms": _mean(estimate.values(group, "total_ms")),
            "tokens_per_s": _mean(estimate.values(group, "tokens_per_s")),
        })  # fmt: skip
    return Table(
        name="conditions",
        title="By condition",
        rows=rows,
        digits=dict.fromkeys(rows[0], 3),
        note=(
            "Discarded trials are left out, and verified ones whose states are not proven. prompt_tokens and "
            "cached_tokens are medians. low and high bound the median TTFT; at 95 % an interval needs 6 trials."
        ),
    )


def engine_view(table: pd.DataFrame, params: "PrefixHitMissParams") -> Table:
    """Return our TTFT beside the engine's own."""
    rows = []
    for place, group in _groups(table, params):
        chosen = group[group["counted"] & group["ttft.server_ttft_ms"].notna()]
        ours, engine = chosen["ttft_ms"], chosen["ttft.server_ttft_ms"].astype("Float64")
        times = {
            "ttft_ms": ours,
            "engine_ttft_ms": engine,
            "difference_ms": ours - engine,
            "queue_ms": chosen["ttft.server_queue_ms"],
            "prefill_ms": chosen["ttft.server_prefill_ms"],
        }
        if len(chosen):
            rows.append(place | {name: _middle(values) for name, values in times.items()})
    return Table(
        name="engine_view",
        title="TTFT as vLLM's own request metrics give it, beside ours (medians, ms)",
        rows=rows,
        columns=(*_PLACE, "ttft_ms", "engine_ttft_ms", "difference_ms", "queue_ms", "prefill_ms"),
        note=(
            "Ours runs from the call of generate() to its return. The engine's runs from the moment at which it has "
            "noted the request's arrival to the moment at which it handles the first token. The difference is what "
            "lies outside: checking the arguments, turning the token into text, ending the request, and returning. "
            "It is about the same for hits and misses, so it weighs on a short TTFT the most. queue and prefill are "
            "the engine's, and lie inside its own TTFT; its arrival is taken from the wall clock, the rest is not."
        ),
    )


def greedy(table: pd.DataFrame, params: "PrefixHitMissParams") -> Table:
    """Return how often the tokens after a hit are those of the same prompt, cold."""
    rows = []
    for config in params.configs:
        hits = estimate.of(table, config, trials.VERIFIED, trials.HIT)
        compared = hits["agrees"].dropna()
        if len(compared):
            rows.append({
                "size_a": config[0],
                "size_b": config[1],
                "compared": len(compared),
                "equal": int(compared.sum()),
                "equal_share": float(compared.mean()),
                "leading_tokens_share": estimate.leading_share(hits),
            })  # fmt: skip
    return Table(
        name="greedy_agreement",
        title="The same tokens after a hit as cold, under greedy decoding",
        rows=rows,
        columns=("size_a", "size_b", "compared", "equal", "equal_share", "leading_tokens_share"),
        note=(
            "Each verified hit's tokens were generated from once more after a reset, with 0 cached tokens. A cache "
            "that is right gives the same answer; where kernels add numbers in another order for another split of "
            "the prompt, near-ties may fall otherwise. leading_tokens_share is how far the two go together."
        ),
    )


def by_trial(table: pd.DataFrame) -> Table:
    """Return every trial with its evidence."""
    chosen = table[table["complete"]].assign(
        prepared_by_reset=table[f"{trials.PRIME}_{trials.TTFT}.cache_reset"],
    )
    columns = {
        "trial_id": "trial_id", "discarded": "discarded", "ttft.prompt_tokens": "prompt_tokens",
        "ttft.cached_tokens": "cached_tokens", "ttft.predicted_cached_tokens": "predicted_cached_tokens",
        "ttft.cache_state": "cache_state", "throughput.cached_tokens": "throughput_cached_tokens",
        "prepared_by_reset": "reset_said", "ttft_ms": "ttft_ms", "ttft.server_ttft_ms": "engine_ttft_ms",
        "total_ms": "total_ms", "tokens_per_s": "tokens_per_s", "flagged": "flagged", "proven": "proven",
        "agrees": "agrees", "ttft.session_id": "session",
    }  # fmt: skip
    return Table(
        name="trials",
        title="Every trial, with its evidence",
        evidence=True,
        rows=chosen[list(columns)].rename(columns=columns),
        digits=dict.fromkeys(columns.values(), 3),
        note=(
            "cached_tokens is the engine's figure for the prompt whose TTFT was taken; predicted is what a hit reads. "
            "flagged: meant as a miss, and read from the cache. proven: both measurements of the trial, and what "
            "prepared them, read exactly what they were meant to. session counts starts and resumes of the run."
        ),
    )


def _groups(
    table: pd.DataFrame, params: "PrefixHitMissParams"
) -> Iterator[tuple[dict[str, Any], pd.DataFrame]]:
    """Yield the columns that name each condition, and its trials."""
    for size_a, size_b in params.configs:
        for procedure in sorted(params.procedures):
            for condition in trials.CONDITIONS[procedure]:
                place = dict(zip(_PLACE, (size_a, size_b, procedure, condition), strict=True))
                yield place, estimate.of(table, (size_a, size_b), procedure, condition)


def _bounds(interval: Interval, estimated: str, low: str, high: str) -> dict[str, float | None]:
    return {estimated: interval.estimate, low: interval.low, high: interval.high}


def _mean(values: list[float]) -> float | None:
    return statistics.fmean(values) if values else None


def _middle(values: "pd.Series[Any]") -> float | int | None:
    """Return the median; whole numbers, such as counts of tokens, without decimal places."""
    known = values.dropna().astype(float)
    if not len(known):
        return None
    middle = round(float(known.median()), 3)
    return int(middle) if middle.is_integer() else middle
