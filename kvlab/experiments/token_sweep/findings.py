"""From the requests of a token sweep to its verdict."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from kvlab.endpoints.connect import Identity
from kvlab.endpoints.proof import how_to_prove
from kvlab.evidence import CacheState
from kvlab.experiments.token_sweep import pictures
from kvlab.experiments.token_sweep.brief import brief, more_pairs, unproven
from kvlab.experiments.token_sweep.control import Control
from kvlab.experiments.token_sweep.params import TokenSweepParams
from kvlab.findings import Check, Findings, Table, Verdict, judge
from kvlab.runs.data import RunData
from kvlab.stats import Interval, decide
from kvlab.stats.medians import least_n, median_interval

_VALUES = (
    "prompt_tokens", "cached_tokens", "predicted_cached_tokens", "cache_state", "ttft_ms", "latency_ms",
    "server_queue_ms", "server_prefill_ms", "cache_reason", "shared_tokens",
)  # fmt: skip
#: A proven hit that saves too little is an answer, and a reason to look at what else takes the time.
_NO_SAVING = (
    "do not count on the cache at these lengths: try longer prompts (`token_targets`), and look at what else takes the "
    "time (queue, network), or lower `ttft_min_reduction_fraction`"
)


def pairs(frame: pd.DataFrame) -> pd.DataFrame:
    """Return one row a completed pair, in the order of sending.

    Columns: trial_id, target_tokens, repeat, then ``cold_…`` and ``hit_…`` of the request columns,
    and ``ttft_reduction`` and ``latency_reduction`` (1 - hit / cold), ``valid`` (the cold one is
    proven cold, the hit a full hit, on the same number of tokens, and both have a TTFT).
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
        & table["cold_ttft_ms"].notna()
        & table["hit_ttft_ms"].notna()
    ).astype(bool)
    return table


def findings(data: RunData, params: TokenSweepParams) -> Findings:
    """Judge a sweep: the cache states first, then the scenario's two criteria, then the interval."""
    table = pairs(data.requests)
    valid = table[table["valid"]]
    reduction = _reduction(valid, params)
    controls = int(sum(bool(planned.get("control")) for planned in data.trials["planned"]))
    control = Control.of(data.requests, valid, reduction, controls, params)
    results = _results(data.requests, table, valid, reduction, len(data.trials) - controls)
    results |= control.results()
    checks = [*_checks(results, reduction, params, data.identity), control.check(params)]
    return Findings(
        headline=_headline(results, reduction, checks),
        checks=checks,
        results=results,
        tables=[_by_target(table, params), *_split_table(valid), _by_pair(table)],
        pictures=pictures.pictures(table, params),
        remarks=_left_out(table, results),
        limitations=_limitations(params, results),
        brief=brief(judge(checks)[0], results, reduction, params),
    )


def _reduction(valid: pd.DataFrame, params: TokenSweepParams) -> Interval:
    return median_interval(valid["ttft_reduction"].astype(float).tolist(), confidence=params.confidence)


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


def _checks(
    results: dict[str, Any], reduction: Interval, params: TokenSweepParams, identity: Identity | None
) -> list[Check]:
    cold, hit = results["median_ttft_cold_ms"], results["median_ttft_hit_ms"]
    margin, known = params.ttft_min_reduction_fraction, reduction.estimate is not None
    # A FAIL has an error rate, as a PASS has: it takes an interval that lies below, not a median that does.
    saves, enough = decide(reduction, 0.0), decide(reduction, margin)
    share = results["pairs_valid"] / results["pairs_planned"] if results["pairs_planned"] else 0.0
    asks = f"at least {params.min_valid_fraction:.0%} of the planned pairs are proven cold, then a full hit"
    seen = f"{results['pairs_valid']} of {results['pairs_planned']}"
    times = results["unverified_median_ttft_reduction"]
    alone = "" if times is None else f"; the times alone say {times:.1%}, which proves nothing"
    return [
        Check(
            name="cache_states_proven",
            asks=asks,
            seen=seen,
            passed=share >= params.min_valid_fraction,
            role="proof",
            reason=f"{asks}: {seen}{alone}",
            advice=unproven(results, params) or how_to_prove(identity),
        ),
        Check(
            name="median_hit_below_cold",
            asks="median TTFT(hit) < median TTFT(cold)",
            seen=f"{hit:.1f} ms against {cold:.1f} ms" if known else "no valid pair",
            passed=None if saves == "undecided" else saves == "above",
            advice=_NO_SAVING,
            optional=True,  # undecided is what the check of the interval says, with what to do
        ),
        Check(
            name="median_reduction",
            asks=f"median TTFT reduction ≥ {margin:.0%}",
            seen=f"{reduction.estimate:.1%}" if reduction.estimate is not None else "no valid pair",
            passed=None if enough == "undecided" else enough == "above",
            advice=_NO_SAVING,
            optional=True,
        ),
        Check(
            name="interval_clears_margin",
            asks=f"the interval of that reduction lies above {margin:.0%}",
            seen=_interval(reduction),
            passed=None if reduction.low is None else enough == "above",
            role="power",
            advice=more_pairs(reduction, params),
        ),
    ]


def _interval(interval: Interval) -> str:
    if interval.low is None or interval.high is None:
        return f"no interval: {interval.reason}"
    return f"{interval.low:.1%} to {interval.high:.1%} ({interval.made_by})"


def _left_out(table: pd.DataFrame, results: dict[str, Any]) -> list[str]:
    bad = table[~table["valid"]]
    lines = [
        f"{row.trial_id} is left out: cold is {row.cold_cache_state} ({row.cold_cache_reason}), "
        f"hit is {row.hit_cache_state} ({row.hit_cache_reason})"
        for row in bad.itertuples()
    ]
    lines = lines[:5] + ([f"and {len(lines) - 5} more pairs"] if len(lines) > 5 else [])
    if missing := results["pairs_planned"] - results["pairs_complete"]:
        lines.append(f"{missing} of {results['pairs_planned']} planned pairs have no complete measurement")
    return lines


def _headline(results: dict[str, Any], reduction: Interval, checks: Sequence[Check]) -> str:
    if judge(checks)[0] is Verdict.INVALID or reduction.estimate is None:
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


def _by_target(table: pd.DataFrame, params: TokenSweepParams) -> Table:
    rows = []
    for target in params.token_targets:
        every = table[table["target_tokens"] == target]
        group = every[every["valid"]]
        reduction = _reduction(group, params)
        row = {
            "target_tokens": target,
            "axis_tokens": _whole(_median(every["cold_prompt_tokens"])),
            "valid_pairs": f"{len(group)}/{params.repeats}",
        }
        for name in ("ttft", "latency"):
            cold, hit = _median(group[f"cold_{name}_ms"]), _median(group[f"hit_{name}_ms"])
            row |= {
                f"{name}_cold_ms": cold,
                f"{name}_hit_ms": hit,
                f"{name}_delta_ms": _difference(cold, hit),
            }
            if name == "ttft":
                row |= {
                    "ttft_reduction_pct": _percent(reduction.estimate),
                    "reduction_low_pct": _percent(reduction.low),
                    "reduction_high_pct": _percent(reduction.high),
                }
        rows.append(row)
    return Table(
        name="token_sweep",
        title="By prompt length (medians over valid pairs)",
        rows=rows,
        headers={"axis_tokens": "As the server counts (tokens)"},
        note=f"An interval needs {least_n(params.confidence)} pairs at that length.",
    )


def _split_table(valid: pd.DataFrame) -> list[Table]:
    """TTFT = queue + prefill + rest, where the server tells the first two."""
    if not pictures.has_split(valid):
        return []
    rows = []
    for target, group in valid.groupby("target_tokens"):
        for arm in ("cold", "hit"):
            ttft, queue = group[f"{arm}_ttft_ms"], group[f"{arm}_server_queue_ms"]
            prefill = group[f"{arm}_server_prefill_ms"]
            row = {
                "ttft_ms": ttft,
                "queue_ms": queue,
                "prefill_ms": prefill,
                "rest_ms": ttft - queue - prefill,
            }
            rows.append({"target_tokens": target, "arm": arm, **{k: _median(v) for k, v in row.items()}})
    return [
        Table(
            name="ttft_split",
            title="TTFT in parts (medians over valid pairs)",
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
        evidence=True,
        rows=table[columns],
        digits=dict.fromkeys(columns, 4),
        note="Cached tokens are the server's figure; predicted is what a full hit reads by the law of its cache.",
    )


def _limitations(params: TokenSweepParams, results: dict[str, Any]) -> list[str]:
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
            f"Prompts were up to {off} tokens off their target; the figures are over what the server counted."
        )
    return lines
