"""From the requests of a token sweep to its verdict."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from kvlab.endpoints.connect import Identity
from kvlab.evidence import CacheState
from kvlab.findings import Check, Figure, Summary, Table, Verdict
from kvlab.records import Trial
from kvlab.stats import Interval, decide
from kvlab.stats.medians import least_n, median_interval

if TYPE_CHECKING:
    from kvlab.experiments.token_sweep.params import TokenSweepParams

_VALUES = (
    "prompt_tokens", "cached_tokens", "predicted_cached_tokens", "cache_state", "ttft_ms", "latency_ms",
    "server_queue_ms", "server_prefill_ms", "cache_reason", "shared_tokens",
)  # fmt: skip

FIGURES = [
    Figure(
        name="ttft_vs_tokens",
        title="TTFT against prompt length",
        caption="Each dot is one request; lines join the medians. Crosses are pairs whose cache state is not proven.",
    ),
    Figure(
        name="latency_vs_tokens",
        title="Latency against prompt length",
        caption="Sent to the last byte, generated tokens included.",
    ),
    Figure(
        name="ttft_reduction_vs_tokens",
        title="TTFT saved by the cache",
        caption="Per pair: 1 - TTFT(hit) / TTFT(cold). The dashed line is the margin of the verdict.",
    ),
    Figure(
        name="ttft_split",
        title="Where the first token's time goes",
        caption="Medians: the server's own queue and prefill times, and the rest (network, HTTP, tokenizer).",
    ),
]


def pairs(frame: pd.DataFrame) -> pd.DataFrame:
    """Return one row a completed pair, in the order of sending.

    Columns: trial_id, target_tokens, repeat, then ``cold_…`` and ``hit_…`` of the request columns,
    and ``ttft_reduction`` and ``latency_reduction`` (1 - hit / cold), ``valid`` (the cold one is
    proven cold, the hit a full hit, on the same number of tokens).
    """
    used = frame[frame["used"] & (frame["status"] == "ok")]
    keys = ["trial_id", "target_tokens", "repeat"]
    arms = [
        used[used["arm"] == arm].set_index(keys)[list(_VALUES)].add_prefix(f"{arm}_")
        for arm in ("cold", "hit")
    ]
    table = arms[0].join(arms[1], how="inner").reset_index()
    for name in ("ttft", "latency"):
        table[f"{name}_reduction"] = 1 - table[f"hit_{name}_ms"] / table[f"cold_{name}_ms"]
    table["valid"] = (
        (table["cold_cache_state"] == CacheState.COLD)
        & (table["hit_cache_state"] == CacheState.HIT)
        & (table["cold_prompt_tokens"] == table["hit_prompt_tokens"]).fillna(False)
    ).astype(bool)
    return table


def summarize(
    frame: pd.DataFrame,
    params: "TokenSweepParams",
    plan: Sequence[Trial],
    profile: str,
    identity: Identity | None,
) -> Summary:
    """Judge a sweep: the scenario's two criteria, the interval, and before them the cache states."""
    table = pairs(frame)
    valid = table[table["valid"]]
    reduction = median_interval(valid["ttft_reduction"].astype(float).tolist(), confidence=params.confidence)
    results = _results(frame, table, valid, reduction, len(plan))
    checks = _checks(results, reduction, params)
    verdict, reasons = _verdict(checks, results, table, params)
    return Summary(
        experiment="token_sweep",
        profile=profile,
        verdict=verdict,
        headline=_headline(verdict, results, reduction),
        reasons=reasons,
        checks=checks,
        results=results,
        tables=[_by_target(table, params), *_split_table(valid), _by_pair(table)],
        figures=[item for item in FIGURES if item.name != "ttft_split" or has_split(table)],
        limitations=_limitations(params, results, identity),
    )


def has_split(table: pd.DataFrame) -> bool:
    """Whether the server told its queue and prefill times."""
    return bool(table["cold_server_prefill_ms"].notna().any())


def _median(values: "pd.Series[Any]") -> float | None:
    known = values.dropna()
    return round(float(known.median()), 3) if len(known) else None


def _results(
    frame: pd.DataFrame, table: pd.DataFrame, valid: pd.DataFrame, reduction: Interval, planned: int
) -> dict[str, Any]:
    off = (frame["prompt_tokens"] - frame["target_tokens"]).abs().dropna()
    return {
        "pairs_planned": planned,
        "pairs_complete": len(table),
        "pairs_valid": len(valid),
        "failed_requests": int((frame["status"] == "failed").sum()),
        "median_ttft_cold_ms": _median(valid["cold_ttft_ms"]),
        "median_ttft_hit_ms": _median(valid["hit_ttft_ms"]),
        "median_latency_cold_ms": _median(valid["cold_latency_ms"]),
        "median_latency_hit_ms": _median(valid["hit_latency_ms"]),
        "median_ttft_reduction": _round(reduction.estimate),
        "median_ttft_reduction_low": _round(reduction.low),
        "median_ttft_reduction_high": _round(reduction.high),
        "interval_confidence": reduction.confidence,
        "interval_reason": reduction.reason,
        "interval_method": reduction.made_by,
        "unverified_median_ttft_reduction": _round(_median(table["ttft_reduction"])),
        "max_prompt_tokens_off_target": int(off.max()) if len(off) else None,
        "cache_states": {
            arm: {
                str(state): int(n)
                for state, n in table[f"{arm}_cache_state"].value_counts().sort_index().items()
            }
            for arm in ("cold", "hit")
        },
    }


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _checks(results: dict[str, Any], reduction: Interval, params: "TokenSweepParams") -> list[Check]:
    cold, hit = results["median_ttft_cold_ms"], results["median_ttft_hit_ms"]
    margin, known = params.ttft_min_reduction_fraction, reduction.estimate is not None
    # A FAIL has an error rate, as a PASS has: it takes an interval that lies below, not a median that does.
    saves, enough = decide(reduction, 0.0), decide(reduction, margin)
    share = results["pairs_valid"] / results["pairs_planned"]
    return [
        Check(
            name="cache_states_proven",
            asks=f"at least {params.min_valid_fraction:.0%} of the planned pairs are proven cold, then a full hit",
            seen=f"{results['pairs_valid']} of {results['pairs_planned']}",
            holds=share >= params.min_valid_fraction,
        ),
        Check(
            name="median_hit_below_cold",
            asks="median TTFT(hit) < median TTFT(cold)",
            seen=f"{hit:.1f} ms against {cold:.1f} ms" if known else "no valid pair",
            holds=None if saves == "undecided" else saves == "above",
        ),
        Check(
            name="median_reduction",
            asks=f"median TTFT reduction ≥ {margin:.0%}",
            seen=f"{reduction.estimate:.1%}" if reduction.estimate is not None else "no valid pair",
            holds=None if enough == "undecided" else enough == "above",
        ),
        Check(
            name="interval_clears_margin",
            asks=f"the interval of that reduction lies above {margin:.0%}",
            seen=_interval(reduction),
            holds=None if reduction.low is None else enough == "above",
        ),
    ]


def _interval(interval: Interval) -> str:
    if interval.low is None or interval.high is None:
        return f"no interval: {interval.reason}"
    return f"{interval.low:.1%} to {interval.high:.1%} ({interval.made_by})"


def _verdict(
    checks: list[Check], results: dict[str, Any], table: pd.DataFrame, params: "TokenSweepParams"
) -> tuple[Verdict, list[str]]:
    states, *criteria = checks
    reasons = _invalid_pairs(table)
    missing = results["pairs_planned"] - results["pairs_complete"]
    if missing:
        reasons.append(f"{missing} of {results['pairs_planned']} planned pairs have no complete measurement")
    if not states.holds:
        shown = results["unverified_median_ttft_reduction"]
        seen = f"; the times alone say {shown:.1%}, which proves nothing" if shown is not None else ""
        return Verdict.INVALID, [f"{states.asks}: {states.seen}{seen}", *reasons]
    *points, interval = criteria
    if failed := [check for check in points if check.holds is False]:
        return Verdict.FAIL, [f"not met: {check.asks}: {check.seen}" for check in failed] + reasons
    if not interval.holds:
        return Verdict.INVALID, [f"underpowered: {interval.asks}: {interval.seen}; raise repeats", *reasons]
    return Verdict.PASS, [f"{check.asks}: {check.seen}" for check in checks] + reasons


def _invalid_pairs(table: pd.DataFrame) -> list[str]:
    bad = table[~table["valid"]]
    lines = [
        f"{row.trial_id} is left out: cold is {row.cold_cache_state} ({row.cold_cache_reason}), "
        f"hit is {row.hit_cache_state} ({row.hit_cache_reason})"
        for row in bad.itertuples()
    ]
    return lines[:5] + ([f"and {len(lines) - 5} more pairs"] if len(lines) > 5 else [])


def _headline(verdict: Verdict, results: dict[str, Any], reduction: Interval) -> str:
    if verdict is Verdict.INVALID or reduction.estimate is None:
        return (
            f"no answer from {results['pairs_valid']} pairs with proven cache states, of "
            f"{results['pairs_planned']} planned"
        )
    low, high = reduction.low, reduction.high
    interval = "" if low is None or high is None else f" [{low:.1%}, {high:.1%}]"
    return (
        f"a proven full hit saves {reduction.estimate:.1%}{interval} of the TTFT "
        f"(median of {reduction.n} pairs; {results['median_ttft_cold_ms']:.0f} ms cold, "
        f"{results['median_ttft_hit_ms']:.0f} ms hit)"
    )


def _by_target(table: pd.DataFrame, params: "TokenSweepParams") -> Table:
    rows = []
    for target in params.token_targets:
        every = table[table["target_tokens"] == target]
        group = every[every["valid"]]
        reduction = median_interval(
            group["ttft_reduction"].astype(float).tolist(), confidence=params.confidence
        )
        cold, hit = _median(group["cold_ttft_ms"]), _median(group["hit_ttft_ms"])
        slow, fast = _median(group["cold_latency_ms"]), _median(group["hit_latency_ms"])
        rows.append(
            [
                target,
                _whole(_median(every["cold_prompt_tokens"])),
                f"{len(group)}/{params.repeats}",
                cold,
                hit,
                _difference(cold, hit),
                _percent(reduction.estimate),
                _percent(reduction.low),
                _percent(reduction.high),
                slow,
                fast,
                _difference(slow, fast),
            ]
        )
    return Table(
        name="token_sweep",
        title="By prompt length (medians over valid pairs)",
        columns=[
            "target_tokens", "axis_tokens", "valid_pairs", "ttft_cold_ms", "ttft_hit_ms", "ttft_delta_ms",
            "ttft_reduction_pct", "reduction_low_pct", "reduction_high_pct",
            "latency_cold_ms", "latency_hit_ms", "latency_delta_ms",
        ],
        rows=rows,
        note=f"axis_tokens is what the server counted. An interval needs {least_n(params.confidence)} pairs at that length.",
    )  # fmt: skip


def _split_table(valid: pd.DataFrame) -> list[Table]:
    """TTFT = queue + prefill + rest, where the server tells the first two."""
    if not has_split(valid):
        return []
    rows = []
    for target, group in valid.groupby("target_tokens"):
        for arm in ("cold", "hit"):
            queue, prefill = group[f"{arm}_server_queue_ms"], group[f"{arm}_server_prefill_ms"]
            rest = group[f"{arm}_ttft_ms"] - queue - prefill
            rows.append([target, arm, *map(_median, (group[f"{arm}_ttft_ms"], queue, prefill, rest))])
    return [
        Table(
            name="ttft_split",
            title="TTFT in parts (medians over valid pairs)",
            columns=["target_tokens", "arm", "ttft_ms", "queue_ms", "prefill_ms", "rest_ms"],
            rows=rows,
            note="Queue and prefill are differences of the server's own histograms over one request each.",
        )
    ]


def _difference(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else round(a - b, 3)


def _whole(value: float | None) -> float | int | None:
    return int(value) if value is not None and value.is_integer() else value


def _percent(value: float | None) -> float | None:
    return None if value is None else round(100 * value, 2)


def _by_pair(table: pd.DataFrame) -> Table:
    columns = [
        "trial_id", "cold_cache_state", "cold_cached_tokens", "hit_cache_state", "hit_cached_tokens",
        "hit_predicted_cached_tokens", "cold_ttft_ms", "hit_ttft_ms", "ttft_reduction", "cold_latency_ms",
        "hit_latency_ms", "valid",
    ]  # fmt: skip
    return Table(
        name="pairs",
        title="Every pair, with its evidence",
        columns=columns,
        rows=[[_cell(value) for value in row] for row in table[columns].itertuples(index=False)],
        note="cached_tokens is the server's figure; predicted is floor((prompt_tokens - 1) / block) * block.",
    )


def _cell(value: Any) -> Any:  # noqa: ANN401 - a cell
    if pd.isna(value):
        return None
    return round(float(value), 4) if isinstance(value, float) else value


def _limitations(params: "TokenSweepParams", results: dict[str, Any], identity: Identity | None) -> list[str]:
    lines = [
        "One request at a time: what a cache saves under load, where requests queue and evict, is another question.",
        "A full hit straight after its cold request is the best case: nothing had time to be evicted.",
    ]
    if params.repeats < least_n(params.confidence):
        lines.append(f"{params.repeats} pair(s) at each length: the interval is over all lengths together.")
    off = results["max_prompt_tokens_off_target"]
    if off is None:
        lines.append("The server reports no prompt tokens: lengths are the targets, not counts.")
    elif off > 0:
        lines.append(
            f"Prompts were up to {off} tokens off their target; axis_tokens is what the server counted."
        )
    for name, fact in (identity.facts if identity else {}).items():
        if fact.holds is not True:
            lines.append(f"Not proven on this server: {name} ({fact.why}).")
    return lines
