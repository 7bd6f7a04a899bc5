"""The verdict of a batch benchmark with its grounds, and what it cannot say."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kvlab.experiments.batch_benchmark import (
    consistency,
    criteria,
    estimate,
    exports,
    forecast,
    leaks,
    pictures,
    tables,
)
from kvlab.experiments.batch_benchmark.brief import brief
from kvlab.experiments.batch_benchmark.data import read
from kvlab.findings import Check, Findings

if TYPE_CHECKING:
    from kvlab.experiments.batch_benchmark.params import BatchBenchmarkParams
    from kvlab.runs.data import RunData

Cell = Mapping[str, Any]


def findings(data: "RunData", params: "BatchBenchmarkParams") -> Findings:
    """Judge a run: are all requests served, as fast and as cheaply as predicted, on and on?"""
    load, started = read(data), str(data.stored["created_utc"])
    table = estimate.cells(load, params, data.identity)
    forecasts = [forecast.forecast(table, params, strategy) for strategy in params.strategies]
    memory = leaks.at_target([cell for cell in table if cell["state"] == "complete"], params)
    checks = _checks(table, forecasts, memory, params)
    return Findings(
        headline=_headline(table, forecasts, memory, params),
        checks=checks,
        results=results(table, forecasts, memory, params),
        tables=tables.tables(table, forecasts, params),
        pictures=pictures.pictures(load, table, forecasts, params),
        remarks=_foretold(forecasts, params),
        limitations=_limitations(table, load.memory_reasons),
        judges_failures=True,
        brief=brief(table, forecasts, checks, params),
        files={
            "performance_benchmarks.json": exports.performance_benchmarks(
                table, forecasts, memory, params, started
            )
        },
    )


def results(
    table: Sequence[Cell],
    forecasts: Sequence[Mapping[str, Any]],
    memory: leaks.AtTarget,
    params: "BatchBenchmarkParams",
) -> dict[str, Any]:
    """Return ``summary.json``'s figures."""
    return {
        "requests_planned": sum(cell["size"] for cell in table),
        "requests_answered": sum(cell["answered"] for cell in table),
        "requests_failed": sum(cell["failed"] for cell in table),
        "requests_empty": sum(cell["empty"] for cell in table),
        "attempts_sent_again": sum(cell["sent_again"] for cell in table),
        "target_requests": params.target_requests,
        "memory_at_target": memory.as_json(),
        "trials": [tables.flat(cell) for cell in table],
        "extrapolation": [tables.rounded(found) for found in forecasts],
    }


def _checks(
    table: Sequence[Cell],
    forecasts: Sequence[Mapping[str, Any]],
    memory: leaks.AtTarget,
    params: "BatchBenchmarkParams",
) -> list[Check]:
    """Return the checks.

    A remote server's memory cannot be seen, nor that of hours in minutes, a control may not have been asked for, and on a noisy machine a
    change of the rate may be too uncertain to tell: that is said, and is no obstacle. That nothing was compared is.
    """
    offered = [cell for cell in table if cell["state"] != "not offered"]
    done = [cell for cell in offered if cell["state"] == "complete"]
    changes = consistency.changes(done, params)
    return [
        criteria.possible(done),
        criteria.complete(offered, len(table) - len(offered)),
        criteria.no_errors(offered),
        criteria.few_empty(offered, params),
        criteria.consistent(changes, params),
        criteria.as_predicted(done, params),
        criteria.control(done),
        criteria.memory(done, params),
        criteria.memory_at_target(memory, params),
        Check(
            name="extrapolation_stands",
            asks="the fit from the smaller sizes predicts the largest, and nothing speaks against going on",
            seen="; ".join(_checked(found) for found in forecasts),
            passed=any(not found["refused"] for found in forecasts),
            role="note",
        ),
    ]


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
    table: Sequence[Cell],
    forecasts: Sequence[Mapping[str, Any]],
    memory: leaks.AtTarget,
    params: "BatchBenchmarkParams",
) -> str:
    """Return what came out; that memory at the target is not known stands here, for a verdict does not say it."""
    standing = [found for found in forecasts if not found["refused"]]
    if standing:
        said = f"{standing[0]['strategy']}: {tables.sentence(standing[0], params)}"
    else:
        answered = sum(cell["answered"] for cell in table)
        said = f"{answered:,} requests answered; no extrapolation to {params.target_requests:,} stands"
    if memory.reason:
        said += f"; memory at {params.target_requests:,} requests is not known: {memory.reason}"
    return said


def _limitations(table: Sequence[Cell], reasons: Mapping[str, str]) -> list[str]:
    lines = [
        "The extrapolation goes on from a steady state: it knows nothing of hours in which the server's load, its "
        "neighbours or the prompts change.",
        "Tokens per second are generated ones; a prompt's are in the table of tokens.",
    ]
    lines += [f"Memory: {name}: {why}." for name, why in sorted(reasons.items())]
    return lines + [f"{cell['trial_id']}: {cell['why']}." for cell in table if cell["why"]]
