"""What a batch benchmark says first, and what a PASS is good for."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kvlab.brief import Brief, KeyFigure
from kvlab.experiments.batch_benchmark import tables
from kvlab.findings import Check, Verdict, in_the_way

if TYPE_CHECKING:
    from kvlab.experiments.batch_benchmark.params import BatchBenchmarkParams

#: What a check in the way means for somebody who wants to send the whole batch.
_PLAIN = {
    "savings_are_possible": "the server claims to have reused more than the prompts share",
    "all_sizes_complete": "not every planned request was sent and answered",
    "no_errors": "some requests failed for good",
    "few_empty_answers": "too many answers are empty",
    "consistent_across_scales": "the larger the batch, the slower each request",
    "savings_as_predicted": "the cache reuses less than the prompts share",
    "control_is_isolated": "requests that share nothing were found in the cache",
    "memory_while_measured": "the server's memory went beyond its limit, or rises",
    "memory_at_target": "the server's memory would grow too much",
}
_UNKNOWN = {
    "consistent_across_scales": "it cannot be said whether a larger batch is slower",
    "savings_as_predicted": "it cannot be said what the cache reuses",
    "memory_at_target": "it cannot be said whether memory goes on growing",
    "no_errors": "no trial is complete",
    "few_empty_answers": "nothing was answered",
    "all_sizes_complete": "no trial is complete",
}


def brief(
    table: Sequence[Mapping[str, Any]],
    forecasts: Sequence[Mapping[str, Any]],
    checks: Sequence[Check],
    params: "BatchBenchmarkParams",
) -> Brief:
    """Return the sentence and the figure."""
    verdict, blocking = in_the_way(checks)
    standing = next((found for found in forecasts if not found["refused"]), None)
    answered, planned = sum(cell["answered"] for cell in table), sum(cell["size"] for cell in table)
    count = f"{answered:,} of {planned:,}"
    target = f"{params.target_requests:,} requests"
    if standing is None:
        figure = KeyFigure(value=count, label=f"requests answered; no forecast for {target}")
        result = f"{count} requests were answered, but nothing can be foretold of {target}"
    else:
        figure = _figure(standing, params)
        largest = max(cell["size"] for cell in table)
        time = tables.hours(standing["seconds"])
        result = (
            f"{target} would take about {time}, going on from trials of up to {largest:,}{_saved(standing)}"
        )
    if verdict is not Verdict.PASS:
        why = (
            ", and ".join(dict.fromkeys(_plainly(check) for check in blocking[:2])) or "nothing was measured"
        )
        result = (
            f"{'Not ready to send' if verdict is Verdict.FAIL else 'No answer yet about'} {target}: {why}"
        )
    return Brief(
        sentence=f"{result[:1].upper()}{result[1:]}.",
        figure=figure,
        picture="extrapolation" if standing else "strategies",
        then=_then(standing, checks, params),
    )


def _plainly(check: Check) -> str:
    words = _PLAIN if check.passed is False else _UNKNOWN
    return words.get(check.name, _PLAIN.get(check.name, check.title))


def _saved(found: Mapping[str, Any]) -> str:
    if found["savings"] is None:
        return " (what the cache saves cannot be shown here)"
    return f"; the cache saves {found['savings']:.0%} of the prompt tokens"


def _figure(found: Mapping[str, Any], params: "BatchBenchmarkParams") -> KeyFigure:
    interval = found["note"] or "no interval"
    if found["low_s"] is not None:
        interval = (
            f"{tables.hours(found['low_s'])} to {tables.hours(found['high_s'])} ({params.confidence:.0%} prediction interval, "
            "extrapolated from the steady state)"
        )
    held = found["held_out"]
    checked = ""
    if held:
        checked = (
            f"; a check: the smaller trials predict {held['predicted_s']:,.2f} s for the largest ({held['requests']:,} "
            f"requests), which took {held['measured_s']:,.2f} s ({held['miss']:+.1%})"
        )
        if _is_rough(found):
            checked += ". That misses by more than the interval allows for: take it as rough"
    return KeyFigure(
        value=tables.hours(found["seconds"]),
        label=f"for {params.target_requests:,} requests ({found['strategy'].replace('_', ' ')})",
        interval=f"{interval}{checked}",
    )


def _is_rough(found: Mapping[str, Any]) -> bool:
    """Return whether the check on the largest trial missed by more than the forecast's interval is wide."""
    held, low, high = found["held_out"], found["low_s"], found["high_s"]
    if not held or low is None:
        return False
    return bool(abs(held["miss"]) > (high - low) / 2 / found["seconds"])


def _then(
    standing: Mapping[str, Any] | None, checks: Sequence[Check], params: "BatchBenchmarkParams"
) -> list[str]:
    if standing is None:
        return [
            "raise `sizes` or lower `concurrency`, until a trial has a steady state that a forecast can rest on"
        ]
    unknown = [check.seen for check in checks if check.name == "memory_at_target" and check.passed is None]
    cost = standing.get("cost")
    first = f"before {params.target_requests:,} requests, run a larger trial (`sizes`): it checks the forecast where it matters"
    send = (
        f"then send the batch with {standing['strategy'].replace('_', ' ')} at concurrency {params.concurrency}, and budget the "
        f"upper end of its interval{'' if cost is None else f' and a cost of {cost:,.2f} (in the currency of the prices)'}"
    )
    return [
        first,
        send,
        *(
            f"watch the server's memory; at {params.target_requests:,} requests it is {seen}"
            for seen in unknown
        ),
    ]
