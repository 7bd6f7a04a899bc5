"""The tables of the report."""

import statistics
from typing import TYPE_CHECKING, Any

import pandas as pd

from kvlab.experiments.prefix_hit_miss import estimate
from kvlab.experiments.prefix_hit_miss import trials as plan
from kvlab.findings import Table
from kvlab.stats.intervals import Interval
from kvlab.stats.medians import median_interval

if TYPE_CHECKING:
    from kvlab.experiments.prefix_hit_miss.params import PrefixHitMissParams


def tables(table: pd.DataFrame, params: "PrefixHitMissParams") -> list[Table]:
    """Return all of them, those without a row left out."""
    found = [
        degradation(table, params),
        conditions(table, params),
        engine_view(table, params),
        greedy(table, params),
        by_trial(table),
    ]
    return [item for item in found if len(item.frame())]


def degradation(table: pd.DataFrame, params: "PrefixHitMissParams") -> Table:
    """Return ``ttft_degradation_pct`` as it was written, beside what the verified arm makes of it."""
    rows: list[list[Any]] = []
    for config in params.configs:
        for procedure in sorted(params.procedures):
            for other in plan.CONDITIONS[procedure][1:]:
                found = estimate.degradation(table, config, procedure, params, other)
                misses = estimate.of(table, config, procedure, other)
                misses = misses[misses["counted"]]
                if found.estimate is not None:
                    flagged = f"{int(misses['flagged'].sum())} of {len(misses)}"
                    rows.append([*config, procedure, other, *_rounded(found), flagged])
    return Table(
        name="degradation",
        title="How much longer a miss takes: ttft_degradation_pct",
        rows=_frame([
            "size_a", "size_b", "procedure", "miss", "ttft_degradation_pct", "low_pct", "high_pct",
            "misses_read_from_cache",
        ], rows),
        note=(
            "(mean TTFT of misses - mean TTFT of hits) / mean TTFT of hits × 100. Positive: a miss takes longer; "
            "0: no difference; negative: a miss takes less time than a hit. miss is [B, Q], which is shorter than "
            "the hit's [A, B, Q]; miss_same_length is [A', B, Q], so that the cache alone makes the difference."
        ),
    )  # fmt: skip


def conditions(table: pd.DataFrame, params: "PrefixHitMissParams") -> Table:
    """Return the statistics of each condition."""
    rows = []
    for config, procedure, condition, group in _groups(table, params):
        chosen = group[group["counted"]]
        times = estimate.values(group)
        middle = median_interval(times, confidence=params.confidence, unit="trials")
        rows.append(
            [
                *config,
                procedure,
                condition,
                f"{len(chosen)}/{params.num_trials}",
                _middle(chosen["ttft.prompt_tokens"]),
                _middle(chosen["ttft.cached_tokens"]),
                *_rounded(middle),
                _round(statistics.fmean(times)) if times else None,
                _round(statistics.stdev(times)) if len(times) > 1 else None,
                _mean(estimate.values(group, "total_ms")),
                _mean(estimate.values(group, "tokens_per_s")),
            ]
        )
    return Table(
        name="conditions",
        title="By condition",
        rows=_frame([
            "size_a", "size_b", "procedure", "condition", "trials", "prompt_tokens", "cached_tokens", "ttft_median_ms",
            "low_ms", "high_ms", "ttft_mean_ms", "ttft_stdev_ms", "total_mean_ms", "tokens_per_s",
        ], rows),
        note=(
            "Discarded trials are left out, and verified ones whose states are not proven. prompt_tokens and "
            "cached_tokens are medians. low and high bound the median TTFT; at 95 % an interval needs 6 trials."
        ),
    )  # fmt: skip


def engine_view(table: pd.DataFrame, params: "PrefixHitMissParams") -> Table:
    """Return our TTFT beside the engine's own."""
    rows = []
    for config, procedure, condition, group in _groups(table, params):
        chosen = group[group["counted"] & group["ttft.server_ttft_ms"].notna()]
        ours, engine = chosen["ttft_ms"], chosen["ttft.server_ttft_ms"].astype("Float64")
        parts = [chosen[f"ttft.{name}"] for name in ("server_queue_ms", "server_prefill_ms")]
        if len(chosen):
            rows.append([*config, procedure, condition, *map(_middle, (ours, engine, ours - engine, *parts))])
    return Table(
        name="engine_view",
        title="TTFT as vLLM's own request metrics give it, beside ours (medians, ms)",
        rows=_frame([
            "size_a", "size_b", "procedure", "condition", "ttft_ms", "engine_ttft_ms", "difference_ms", "queue_ms",
            "prefill_ms",
        ], rows),
        note=(
            "Ours runs from the call of generate() to its return. The engine's runs from the moment at which it has "
            "noted the request's arrival to the moment at which it handles the first token. The difference is what "
            "lies outside: checking the arguments, turning the token into text, ending the request, and returning. "
            "It is about the same for hits and misses, so it weighs on a short TTFT the most. queue and prefill are "
            "the engine's, and lie inside its own TTFT; its arrival is taken from the wall clock, the rest is not."
        ),
    )  # fmt: skip


def greedy(table: pd.DataFrame, params: "PrefixHitMissParams") -> Table:
    """Return how often the tokens after a hit are those of the same prompt, cold."""
    rows: list[list[Any]] = []
    for config in params.configs:
        hits = estimate.of(table, config, plan.VERIFIED, plan.HIT)
        compared = hits["agrees"].dropna()
        if len(compared):
            share = estimate.leading_share(hits)
            rows.append([*config, len(compared), int(compared.sum()), float(compared.mean()), share])
    return Table(
        name="greedy_agreement",
        title="The same tokens after a hit as cold, under greedy decoding",
        rows=_frame(["size_a", "size_b", "compared", "equal", "equal_share", "leading_tokens_share"], rows),
        note=(
            "Each verified hit's tokens were generated from once more after a reset, with 0 cached tokens. A cache "
            "that is right gives the same answer; where kernels add numbers in another order for another split of "
            "the prompt, near-ties may fall otherwise. leading_tokens_share is how far the two go together."
        ),
    )


def by_trial(table: pd.DataFrame) -> Table:
    """Return every trial with its evidence."""
    chosen = table[table["complete"]].assign(
        prepared_by_reset=table[f"{plan.PRIME}_{plan.TTFT}.cache_reset"],
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
        rows=chosen[list(columns)].rename(columns=columns),
        digits=dict.fromkeys(columns.values(), 3),
        note=(
            "cached_tokens is the engine's figure for the prompt whose TTFT was taken; predicted is what a hit reads. "
            "flagged: meant as a miss, and read from the cache. proven: both measurements of the trial, and what "
            "prepared them, read exactly what they were meant to. session counts starts and resumes of the run."
        ),
    )


def _frame(columns: list[str], rows: list[list[Any]]) -> pd.DataFrame:
    """Return rows as a frame; a whole number beside a missing one stays whole."""
    return pd.DataFrame(rows, columns=columns, dtype=object)


def _groups(
    table: pd.DataFrame, params: "PrefixHitMissParams"
) -> list[tuple[tuple[int, int], str, str, pd.DataFrame]]:
    return [
        (config, procedure, condition, estimate.of(table, config, procedure, condition))
        for config in params.configs
        for procedure in sorted(params.procedures)
        for condition in plan.CONDITIONS[procedure]
    ]


def _rounded(interval: Interval) -> list[float | None]:
    return [
        None if value is None else _round(value) for value in (interval.estimate, interval.low, interval.high)
    ]


def _round(value: float) -> float:
    return round(float(value), 3)


def _mean(values: list[float]) -> float | None:
    return _round(statistics.fmean(values)) if values else None


def _middle(values: "pd.Series[Any]") -> float | int | None:
    known = values.dropna().astype(float)
    if not len(known):
        return None
    middle = _round(known.median())
    return int(middle) if middle.is_integer() else middle
