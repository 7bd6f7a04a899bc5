"""What a token sweep says first, and what to do next."""

from typing import Any

from kvlab.brief import Brief, KeyFigure, with_interval
from kvlab.experiments.token_sweep.params import TokenSweepParams
from kvlab.findings import Verdict
from kvlab.stats import Interval
from kvlab.stats.intervals import units_needed
from kvlab.stats.medians import least_n


def brief(verdict: Verdict, results: dict[str, Any], reduction: Interval, params: TokenSweepParams) -> Brief:
    """Return the sentence, the figure, and what a PASS is good for."""
    valid, planned = results["pairs_valid"], results["pairs_planned"]
    cold, hit, saved = results["median_ttft_cold_ms"], results["median_ttft_hit_ms"], reduction.estimate
    if saved is None or not valid:
        return Brief(
            sentence=f"No answer: of {planned} planned pairs of requests, {_none(valid)} is proven to be a cold prompt "
            "and then the same prompt from the cache.",
            figure=KeyFigure(value=f"{valid} of {planned}", label="pairs with proven cache states"),
        )
    figure = KeyFigure(
        value=f"{saved:.1%}",
        label="of the time to first token (TTFT) saved by a full cache hit: the median of the pairs' savings",
        interval=with_interval(reduction, "{:.1%}"),
    )
    times = f"{_ms(hit)} instead of {_ms(cold)}"
    margin = f"{params.ttft_min_reduction_fraction:.0%}"
    if verdict is Verdict.PASS:
        sentence = f"When a prompt is already in the cache, the first token comes {saved:.0%} sooner (medians: {times})."
    elif verdict is Verdict.FAIL:
        sentence = f"The cache saves too little: {saved:.0%} of the time to the first token, where {margin} was asked for ({times})."
    elif valid < params.min_valid_fraction * planned:
        sentence = f"No answer: only {valid} of {planned} pairs of requests have proven cache states."
    else:
        sentence = f"No answer yet: a cached prompt took {times}, but {valid} pairs are too few or too noisy to show {margin} saved."
    return Brief(
        sentence=sentence,
        figure=figure,
        picture="ttft_vs_tokens",
        then=[
            "count on this saving only for prompts that are repeated whole: `kvlab run cache_laws` says which part of yours is",
            "see whether it lasts under load, with many requests at once: `kvlab run batch_benchmark`",
        ],
    )


def more_pairs(reduction: Interval, params: TokenSweepParams) -> str:
    """Return how many pairs more would decide about the margin."""
    each, margin = len(params.token_targets), params.ttft_min_reduction_fraction
    if reduction.low is None:
        needed = max(least_n(params.confidence), reduction.n + 1)
    else:
        found = units_needed(reduction, margin)
        if found is None:
            return (
                f"no number of pairs decides: the saving lies at the margin of {margin:.0%}; set another one"
            )
        needed = max(found, reduction.n + 1)
    repeats = max(params.repeats + 1, -(-needed // each))
    return f"measure about {needed - reduction.n} pairs more: set `repeats` to {repeats} (now {params.repeats}), and run again"


def unproven(results: dict[str, Any], params: TokenSweepParams) -> str:
    """Return what to do where pairs are missing, rather than unproven; empty: they are there."""
    complete, planned = results["pairs_complete"], results["pairs_planned"]
    if complete >= params.min_valid_fraction * planned:
        return ""
    return (
        f"{planned - complete} of {planned} pairs have no complete measurement: requests.csv says what failed; then go on with "
        "`kvlab run token_sweep --resume`"
    )


def _none(count: int) -> str:
    return "not one" if count == 0 else f"only {count}"


def _ms(value: float) -> str:
    return f"{value:,.0f} ms" if value >= 10 else f"{value:.1f} ms"
