"""The verdict of a batch benchmark with its grounds, and what it cannot say."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from kvlab.endpoints.connect import Identity
from kvlab.experiments.batch_benchmark import consistency, criteria, data, forecast, tables
from kvlab.findings import Check, Figure, Summary, Verdict

if TYPE_CHECKING:
    from kvlab.experiments.batch_benchmark.params import BatchBenchmarkParams

Cell = Mapping[str, Any]
EXTRAPOLATION = "extrapolation_stands"

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
    checks, may_be_open = _checks(table, forecasts, params)
    verdict, reasons = _verdict(checks, may_be_open)
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
        "requests_empty": sum(cell["empty"] for cell in table),
        "attempts_sent_again": sum(cell["sent_again"] for cell in table),
        "target_requests": params.target_requests,
        "trials": [tables.flat(cell) for cell in table],
        "extrapolation": [tables.rounded(found) for found in forecasts],
    }


def _checks(
    table: Sequence[Cell], forecasts: Sequence[Mapping[str, Any]], params: "BatchBenchmarkParams"
) -> tuple[list[Check], set[str]]:
    """Return the checks, and the names of those that may stay open without standing in the way of an answer.

    A remote server's memory cannot be seen, a control may not have been asked for, and on a noisy machine a
    change of the rate may be too uncertain to tell: that is said. That nothing was compared is no answer.
    """
    offered = [cell for cell in table if cell["state"] != "not offered"]
    complete = [cell for cell in offered if cell["state"] == "complete"]
    changes = consistency.changes(complete, params)
    checks = [
        criteria.complete(offered, len(table) - len(offered)),
        criteria.no_errors(offered),
        criteria.few_empty(offered, params),
        criteria.consistent(changes, params),
        criteria.as_predicted(complete, params),
        criteria.control(complete),
        criteria.memory(complete, params),
        Check(
            name=EXTRAPOLATION,
            asks="the fit from the smaller sizes predicts the largest, and nothing speaks against going on "
            "(not part of the verdict)",
            seen="; ".join(_checked(found) for found in forecasts),
            holds=any(not found["refused"] for found in forecasts),
        ),
    ]
    return checks, {"memory_is_safe", "control_is_isolated"} | (
        {"consistent_across_scales"} if changes else set()
    )


def _verdict(checks: Sequence[Check], may_be_open: set[str]) -> tuple[Verdict, list[str]]:
    judged = [check for check in checks if check.name != EXTRAPOLATION]
    failed = [f"not met: {check.asks}: {check.seen}" for check in judged if check.holds is False]
    if failed:
        return Verdict.FAIL, failed
    unknown = {
        check.name: f"cannot be said: {check.asks}: {check.seen}" for check in judged if check.holds is None
    }
    in_the_way = [line for name, line in unknown.items() if name not in may_be_open]
    if in_the_way:
        return Verdict.INVALID, in_the_way
    return Verdict.PASS, [unknown.get(check.name, f"{check.asks}: {check.seen}") for check in judged]


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
