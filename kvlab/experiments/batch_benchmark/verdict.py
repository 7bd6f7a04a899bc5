"""The criteria: all sizes complete, consistent across scales, savings as predicted, memory safe, no errors."""

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from kvlab.endpoint import Identity
from kvlab.experiments.batch_benchmark import analysis, data, forecast, leaks, tables
from kvlab.summary import Check, Figure, Summary, Verdict

if TYPE_CHECKING:
    from kvlab.experiments.batch_benchmark.params import BatchBenchmarkParams

Cell = Mapping[str, Any]

FIGURES = [
    Figure(
        name="strategies",
        title="The strategies at the largest size",
        caption="Left: requests a second. Right: prompt tokens that the server did not compute, as measured, and as "
        "the structure of the prompts lets one expect (box: from at least to at most).",
    ),
    Figure(
        name="rate_over_time",
        title="Steady state",
        caption="The time a request in windows of the largest trials; what is shaded is start-up and drain, and is cut off.",
    ),
    Figure(
        name="ttft",
        title="TTFT of all answered requests at the largest size",
        caption="The share of requests whose first token came within the time.",
    ),
    Figure(
        name="extrapolation",
        title="From the trials to the target",
        caption="Filled: trials. Open: the largest size as the smaller ones predict it. Bars: prediction intervals. "
        "A strategy whose extrapolation is refused has no point at the target.",
    ),
    Figure(
        name="memory",
        title="The server's memory",
        caption="Shaded: trials. The table of checks says whether it rises within one.",
    ),
]


def summarize(
    frame: pd.DataFrame, params: "BatchBenchmarkParams", profile: str, identity: Identity | None
) -> Summary:
    """Judge a run."""
    table, forecasts = forecast.judged(frame, params, identity)
    load = data.of(frame)
    load.judged = (table, forecasts)
    checks = _checks(table, forecasts, params)
    verdict, reasons = _verdict(checks, table)
    figures = [item for item in FIGURES if item.name != "memory" or len(load.memory)]
    return Summary(
        experiment="batch_benchmark",
        profile=profile,
        verdict=verdict,
        headline=_headline(table, forecasts, params),
        reasons=[*reasons, *_foretold(forecasts, params)],
        checks=checks,
        results=results(table, forecasts, params),
        tables=tables.tables(table, forecasts, params),
        figures=figures,
        limitations=_limitations(table, load.memory_reasons, params, identity),
    )


def results(
    table: Sequence[Cell], forecasts: Sequence[Mapping[str, Any]], params: "BatchBenchmarkParams"
) -> dict[str, Any]:
    """Return ``summary.json``'s figures."""
    return {
        "requests_planned": sum(cell["size"] for cell in table),
        "requests_answered": sum(cell["answered"] for cell in table),
        "requests_failed": sum(cell["failed"] for cell in table),
        "attempts_sent_again": sum(cell["sent_again"] for cell in table),
        "target_requests": params.target_requests,
        "trials": [tables.flat(cell) for cell in table],
        "extrapolation": [tables.rounded(found) for found in forecasts],
    }


def _checks(
    table: Sequence[Cell], forecasts: Sequence[Mapping[str, Any]], params: "BatchBenchmarkParams"
) -> list[Check]:
    offered = [cell for cell in table if cell["state"] != "not offered"]
    complete = [cell for cell in offered if cell["state"] == "complete"]
    left_out = len(table) - len(offered)
    lost = {cell["trial_id"]: cell["errors"] for cell in offered if cell["errors"]}
    return [
        Check(
            name="all_sizes_complete",
            asks="every request of every trial has its final row",
            seen=f"{len(complete)} of {len(offered)} trials"
            + (f"; {left_out} not offered" if left_out else ""),
            holds=len(complete) == len(offered) if offered else None,
        ),
        Check(
            name="no_errors",
            asks="no request failed for good",
            seen=f"{sum(cell['failed'] for cell in offered)} failed" + (f": {lost}" if lost else ""),
            holds=not lost if complete else None,
        ),
        _consistent(complete, params),
        _as_predicted(complete, params),
        _memory(complete, params),
        Check(
            name="extrapolation_stands",
            asks="the fit from the smaller sizes predicts the largest, and nothing speaks against going on "
            "(not part of the verdict)",
            seen="; ".join(_checked(found) for found in forecasts),
            holds=any(not found["refused"] for found in forecasts),
        ),
    ]


def _consistent(complete: Sequence[Cell], params: "BatchBenchmarkParams") -> Check:
    """Compare the steady rate of each size with that of the next smaller one that has one."""
    falls: list[tuple[str, float]] = []
    for strategy in params.strategies:
        rates = [
            (cell["trial_id"], cell["steady_requests_per_s"])
            for cell in analysis.trials_of(complete, strategy)
            if cell["steady_requests_per_s"] and strategy not in forecast.WITHOUT
        ]
        falls += [(name, rate / before - 1) for (_, before), (name, rate) in itertools.pairwise(rates)]
    worst = min(falls, key=lambda fall: fall[1], default=None)
    return Check(
        name="consistent_across_scales",
        asks=f"the steady rate falls by at most {params.max_rate_change:.0%} from a size to the next",
        seen="no two sizes have a steady state"
        if worst is None
        else f"at worst {worst[1]:+.1%} ({worst[0]})",
        holds=None if worst is None else worst[1] >= -params.max_rate_change,
    )


def _as_predicted(complete: Sequence[Cell], params: "BatchBenchmarkParams") -> Check:
    """Compare measured with predicted savings where a prediction is more than a bound."""
    ratios = [
        (cell["trial_id"], cell["savings"] / cell["predicted_savings"])
        for cell in complete
        if cell["strategy"] in ("shared_prefix", "conversation")
        and cell["savings"] is not None
        and cell["predicted_savings"]
    ]
    wanted = [cell for cell in complete if cell["strategy"] in ("shared_prefix", "conversation")]
    unknown = [cell["trial_id"] for cell in wanted if cell["savings"] is None]
    worst = min(ratios, key=lambda ratio: ratio[1], default=None)
    seen = "not provable on this server" if worst is None else f"at worst {worst[1]:.1%} of it ({worst[0]})"
    return Check(
        name="savings_as_predicted",
        asks=f"measured token savings are at least {params.min_savings_match:.0%} of the predicted ones",
        seen=seen + (f"; unknown: {', '.join(unknown)}" if unknown and worst else ""),
        holds=None if worst is None or unknown else worst[1] >= params.min_savings_match,
    )


def _memory(complete: Sequence[Cell], params: "BatchBenchmarkParams") -> Check:
    peaks = [
        (series, usage["peak_bytes"], params.memory_limit_bytes or usage["total_bytes"])
        for cell in complete
        for series, usage in cell["memory"].items()
    ]
    rising = [*leaks.within(complete, params), *leaks.over_all(complete, params)]
    over = [f"{series}: {peak / 2**20:,.0f} MiB" for series, peak, limit in peaks if limit and peak > limit]
    highest = max(peaks, key=lambda peak: peak[1], default=None)
    seen = (
        "memory cannot be seen from here"
        if highest is None
        else f"peak {highest[1] / 2**20:,.0f} MiB ({highest[0]})"
    )
    return Check(
        name="memory_is_safe",
        asks=f"memory stays below its limit, and does not go on rising by {params.max_memory_rise:.0%} within a trial, "
        "nor over those of the largest size",
        seen="; ".join([seen, *over[:3], *rising[:3]]),
        holds=None if highest is None else not over and not rising,
    )


def _verdict(checks: Sequence[Check], table: Sequence[Cell]) -> tuple[Verdict, list[str]]:
    complete, errors, consistent, saved, memory, _ = checks
    judged = [complete, errors, consistent, saved, memory]
    failed = [f"not met: {check.asks}: {check.seen}" for check in judged if check.holds is False]
    if failed:
        return Verdict.FAIL, failed
    # A remote server's memory cannot be seen: that is said, and does not stand in the way of an answer.
    unknown = [f"cannot be said: {check.asks}: {check.seen}" for check in judged[:4] if check.holds is None]
    if unknown:
        return Verdict.INVALID, unknown
    return Verdict.PASS, [f"{check.asks}: {check.seen}" for check in judged]


def _checked(found: Mapping[str, Any]) -> str:
    held = found["held_out"]
    if held is None:
        return f"{found['strategy']}: {found['refused'][0] if found['refused'] else 'not checked'}"
    miss = f"{found['strategy']}: {held['requests']:,} requests missed by {held['miss']:+.1%}"
    return miss + (f", refused: {'; '.join(found['refused'])}" if found["refused"] else "")


def _foretold(forecasts: Sequence[Mapping[str, Any]], params: "BatchBenchmarkParams") -> list[str]:
    lines = []
    for found in forecasts:
        if found["refused"]:
            lines.append(f"{found['strategy']}: no extrapolation: {'; '.join(found['refused'])}")
        else:
            lines.append(f"{found['strategy']}: {tables.sentence(found, params)}")
    return lines


def _headline(
    table: Sequence[Cell], forecasts: Sequence[Mapping[str, Any]], params: "BatchBenchmarkParams"
) -> str:
    standing = [found for found in forecasts if not found["refused"]]
    if standing:
        return f"{standing[0]['strategy']}: {tables.sentence(standing[0], params)}"
    answered = sum(cell["answered"] for cell in table)
    return f"{answered:,} requests answered; no extrapolation to {params.target_requests:,} stands"


def _limitations(
    table: Sequence[Cell],
    reasons: Mapping[str, str],
    params: "BatchBenchmarkParams",
    identity: Identity | None,
) -> list[str]:
    lines = [
        "The extrapolation goes on from a steady state: it knows nothing of hours in which the server's load, its "
        "neighbours or the prompts change.",
        "Tokens a second are generated ones; a prompt's are in the table of tokens.",
    ]
    lines += [f"Memory: {name}: {why}." for name, why in sorted(reasons.items())]
    lines += [f"{cell['trial_id']}: {cell['why']}." for cell in table if cell["why"]]
    for key, fact in (identity.facts if identity else {}).items():
        if fact.holds is not True:
            lines.append(f"Not proven of this server: {key} ({fact.why}).")
    return lines
