"""Which of the two arms to believe, and what it says."""

from typing import TYPE_CHECKING, Any

import pandas as pd

from kvlab.experiments.prefix_hit_miss import estimate, exports, trials
from kvlab.experiments.prefix_hit_miss.brief import brief, more_trials
from kvlab.experiments.prefix_hit_miss.pictures import pictures
from kvlab.experiments.prefix_hit_miss.tables import tables
from kvlab.findings import Check, Findings, Verdict, judge
from kvlab.stats import Interval, decide

if TYPE_CHECKING:
    from kvlab.experiments.prefix_hit_miss.params import PrefixHitMissParams
    from kvlab.runs.data import RunData

_HOW_PROVEN = (
    "look into the table of trials for those that are not proven, see that the block size is the engine's own and that its "
    "cache holds both prefixes, and measure again"
)


def findings(data: "RunData", params: "PrefixHitMissParams") -> Findings:
    """Judge a run: the states first, then the paired difference, then which arm to believe."""
    table = estimate.table_of(data.requests, params)
    differences = {
        config: estimate.difference_ms(table, config, trials.SAME_LENGTH, params) for config in params.configs
    }
    results = _results(data.requests, table, params, differences)
    checks = _checks(results, differences, params)
    verdict, _ = judge(checks)
    return Findings(
        headline=_headline(verdict, results),
        checks=checks,
        results=results,
        tables=tables(table, params),
        pictures=pictures(table, params),
        first_reasons=_belief(results, verdict),
        remarks=_lost(results),
        limitations=_limitations(params, results),
        files=exports.files(table, params, data.stored, data.identity),
        brief=brief(verdict, results, differences, params),
    )


def name(config: tuple[int, int]) -> str:
    """Return what an (A, B) is called."""
    return f"a{config[0]}_b{config[1]}"


def _results(
    frame: pd.DataFrame,
    table: pd.DataFrame,
    params: "PrefixHitMissParams",
    differences: dict[tuple[int, int], Interval],
) -> dict[str, Any]:
    measured = table[~table["discarded"] & (table["condition"] != trials.WARMUP)]
    verified = measured[measured["procedure"] == trials.VERIFIED]
    misses = measured[(measured["procedure"] == trials.AS_WRITTEN) & (measured["condition"] == trials.MISS)]
    misses = misses[misses["complete"]]
    asked = frame[frame["used"]]["cache_reset"].dropna()
    return {
        "trials_planned": len(measured),
        "trials_complete": int(measured["complete"].sum()),
        "failed_requests": int((frame["status"] == "failed").sum()),
        "verified_planned": len(verified),
        "verified_proven": int(verified["proven"].sum()),
        "verified_misses_read_from_cache": int(verified["flagged"].sum()),
        "as_written_misses": len(misses),
        "as_written_misses_read_from_cache": int(misses["flagged"].sum()),
        "as_written_misses_cached_share": _share(misses),
        "resets_asked": len(asked),
        "resets_confirmed": int(asked.sum()),
        "greedy_compared": int(verified["agrees"].notna().sum()),
        "greedy_equal": int(verified["agrees"].fillna(False).sum()),
        "interval_confidence": params.confidence,
        "configs": {name(config): _config(table, config, params, differences) for config in params.configs},
    }


def _share(misses: pd.DataFrame) -> float | None:
    known = misses["cached_fraction"].dropna()
    return round(float(known.median()), 4) if len(known) else None


def _config(
    table: pd.DataFrame,
    config: tuple[int, int],
    params: "PrefixHitMissParams",
    differences: dict[tuple[int, int], Interval],
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for procedure in sorted(params.procedures):
        for other in trials.CONDITIONS[procedure][1:]:
            key = f"{procedure}_{'same_length_' if other == trials.SAME_LENGTH else ''}ttft_degradation_pct"
            found[key] = _interval(estimate.degradation(table, config, procedure, params, other))
    found["verified_same_length_difference_ms"] = _interval(differences[config])
    return found


def _interval(interval: Interval) -> dict[str, Any]:
    shown = {key: getattr(interval, key) for key in ("estimate", "low", "high")}
    rounded = {key: None if value is None else round(value, 3) for key, value in shown.items()}
    return {**rounded, "n": interval.n, "reason": interval.reason, "method": interval.made_by}


def _checks(
    results: dict[str, Any], differences: dict[tuple[int, int], Interval], params: "PrefixHitMissParams"
) -> list[Check]:
    planned, proven = results["verified_planned"], results["verified_proven"]
    # A FAIL has an error rate, as a PASS has: it takes an interval that lies below 0, not a median that does.
    found = [decide(item, 0.0) for item in differences.values()]
    slower = False if "below" in found else True if set(found) == {"above"} else None
    flagged, misses = results["as_written_misses_read_from_cache"], results["as_written_misses"]
    return [
        Check(
            name="cache_states_proven",
            asks=(
                f"in at least {params.min_valid_fraction:.0%} of the planned verified trials, hits read the whole "
                "blocks of their primed prefix and misses read nothing"
            ),
            seen=f"{proven} of {planned}",
            passed=proven >= params.min_valid_fraction * planned if planned else None,
            role="proof",
            reason=_unproven(proven, planned, params),
            advice=_missing(results, params) or _HOW_PROVEN
            if trials.VERIFIED in params.procedures
            else "add `verified` to `procedures`",
        ),
        Check(
            name="same_length_miss_slower",
            asks="median paired TTFT(miss of the same length) - TTFT(hit) > 0, at every (A, B)",
            seen=_each(differences, lambda item: f"{item.estimate:+.1f} ms" if item.n else "no pair"),
            passed=slower,
            advice="measure longer prefixes (`sizes`) on an idle machine: at a short one, the engine's own overhead decides",
            optional=True,  # undecided is what the check of the interval says, with what to do
        ),
        Check(
            name="interval_excludes_0",
            asks="the interval of that difference lies above 0, at every (A, B)",
            seen=_each(differences, _bounds),
            passed=slower,
            role="power",
            advice=more_trials(differences, params),
        ),
        Check(
            name="as_written_misses_are_misses",
            asks="no measured miss of the as-written arm read from the cache",
            seen=f"{flagged} of {misses} did",
            passed=flagged == 0 if misses else None,
            role="note",
        ),
    ]


def _each(differences: dict[tuple[int, int], Interval], show: Any) -> str:  # noqa: ANN401 - a function
    return "; ".join(f"{name(config)}: {show(item)}" for config, item in differences.items())


def _bounds(interval: Interval) -> str:
    if interval.low is None or interval.high is None:
        return f"no interval ({interval.reason})"
    return f"{interval.low:+.1f} to {interval.high:+.1f} ms ({interval.made_by})"


def _missing(results: dict[str, Any], params: "PrefixHitMissParams") -> str:
    """Return what to do where trials are missing, rather than unproven; empty: they are there."""
    complete, planned = results["trials_complete"], results["trials_planned"]
    if complete >= params.min_valid_fraction * planned:
        return ""
    return (
        f"{planned - complete} of {planned} trials have no complete measurement: requests.csv says what failed; then go on with "
        "`kvlab run prefix_hit_miss --resume`"
    )


def _unproven(proven: int, planned: int, params: "PrefixHitMissParams") -> str:
    if trials.VERIFIED not in params.procedures:
        return "the verified arm was not asked for: nothing shows which states were measured"
    return (
        f"not met: in at least {params.min_valid_fraction:.0%} of the planned verified trials, hits read the whole "
        f"blocks of their primed prefix and misses read nothing: {proven} of {planned}"
    )


def _belief(results: dict[str, Any], verdict: Verdict) -> list[str]:
    """Say in one sentence which arm to believe, and why."""
    flagged, misses = results["as_written_misses_read_from_cache"], results["as_written_misses"]
    share = results["as_written_misses_cached_share"]
    if verdict is Verdict.INVALID:
        why = f", and {flagged} of {misses} as-written misses read from the cache" if flagged else ""
        return [f"Believe neither figure: the verified arm gives no answer{why}."]
    if not misses:
        return [
            "Believe the verified figure: every state in it was shown by the engine; there is no other arm."
        ]
    if flagged:
        every = (
            "every miss"
            if results["verified_proven"] == results["verified_planned"]
            else "every miss that counts"
        )
        return [
            f"Believe the verified figure: as written, {flagged} of {misses} misses read from the cache "
            f"({share:.0%} of their tokens, in the median), so that arm compares hits with hits; in the verified arm "
            f"{every} read 0 tokens and every hit exactly its primed prefix."
        ]
    return [
        "Believe the verified figure: the as-written misses read nothing from the cache either, but their prompts are "
        "shorter than the hits', and only the verified arm has a miss of the same length."
    ]


def _lost(results: dict[str, Any]) -> list[str]:
    lines = []
    if missing := results["trials_planned"] - results["trials_complete"]:
        lines.append(f"{missing} of {results['trials_planned']} planned trials have no complete measurement")
    if left_out := results["verified_planned"] - results["verified_proven"]:
        lines.append(
            f"{left_out} of {results['verified_planned']} verified trials are left out as not proven"
        )
    if denied := results["resets_asked"] - results["resets_confirmed"]:
        lines.append(
            f"{denied} of {results['resets_asked']} resets were refused; the markers stood in for them"
        )
    return lines


def _headline(verdict: Verdict, results: dict[str, Any]) -> str:
    if verdict is Verdict.INVALID:
        return (
            f"no answer from {results['verified_proven']} verified trials with proven cache states, of "
            f"{results['verified_planned']} planned"
        )
    parts = []
    for config, found in results["configs"].items():
        written = found.get("as_written_ttft_degradation_pct", {}).get("estimate")
        beside = "" if written is None else f", {written:+.0f}% as written"
        parts.append(
            f"{config} {found['verified_ttft_degradation_pct']['estimate']:+.0f}% verified "
            f"({found['verified_same_length_ttft_degradation_pct']['estimate']:+.0f}% at the same length){beside}"
        )
    flagged, misses = results["as_written_misses_read_from_cache"], results["as_written_misses"]
    were = f"; {flagged} of {misses} as-written misses were served from the cache" if misses else ""
    return f"TTFT of a miss against a hit: {'; '.join(parts)}{were}"


def _limitations(params: "PrefixHitMissParams", results: dict[str, Any]) -> list[str]:
    lines = [
        "One request at a time, inside the engine: no HTTP, no tokenizing of text, no queue, no eviction.",
        "Reset, then primed, then asked is the best case of a hit: nothing had time to be evicted.",
        "The verified miss [B, Q] is as short as the question puts it, so its figure mixes the cache with the length; "
        "the figure at the same length does not.",
        f"Each generation is exactly as long as planned (an end-of-text token does not end it): throughput is "
        f"{params.max_output_tokens} tokens over the whole generation, prefill included.",
    ]
    if results["greedy_compared"] > results["greedy_equal"]:
        different = results["greedy_compared"] - results["greedy_equal"]
        lines.append(
            f"{different} of {results['greedy_compared']} answers after a hit differ from the cold ones under greedy "
            "decoding: this engine is not invariant to how a prompt is split."
        )
    return lines
