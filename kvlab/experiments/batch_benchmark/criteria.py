"""The criteria of a batch benchmark: each one asks something of the complete trials, and says what was seen."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kvlab.experiments.batch_benchmark import leaks
from kvlab.experiments.batch_benchmark.consistency import LEAST_WINDOWS, Change
from kvlab.findings import Check

if TYPE_CHECKING:
    from kvlab.experiments.batch_benchmark.params import BatchBenchmarkParams

Cell = Mapping[str, Any]
#: So much of a prompt the control may find where nobody can count the chat template's own tokens.
UNKNOWN_TEMPLATE_SHARE = 0.1


def complete(offered: Sequence[Cell], left_out: int) -> Check:
    """Ask for every request's final row."""
    done = sum(cell["state"] == "complete" for cell in offered)
    return Check(
        name="all_sizes_complete",
        asks="every request of every trial has its final row",
        seen=f"{done} of {len(offered)} trials" + (f"; {left_out} not offered" if left_out else ""),
        advice="go on with this run: `kvlab run batch_benchmark --resume` with its folder",
        passed=done == len(offered) if done else None,
    )


def no_errors(offered: Sequence[Cell]) -> Check:
    """Ask for no failure of serving; an answer of nothing is the model's."""
    lost = {cell["trial_id"]: cell["errors"] for cell in offered if cell["errors"]}
    known = any(cell["state"] == "complete" for cell in offered)
    return Check(
        name="no_errors",
        asks="no request failed for good",
        seen=f"{sum(cell['failed'] for cell in offered)} failed" + (f": {lost}" if lost else ""),
        advice="see `failures.csv` for what failed; lower `concurrency`, or raise `max_attempts` and `outage_limit_s`",
        passed=not lost if known else None,
    )


def few_empty(offered: Sequence[Cell], params: "BatchBenchmarkParams") -> Check:
    """Ask for answers with something in them: a batch of empty ones is fast, and good for nothing."""
    empty, served = (sum(cell[name] for cell in offered) for name in ("empty", "served"))
    return Check(
        name="few_empty_answers",
        asks=f"at most {params.max_empty_share:.0%} of the answers hold no token",
        seen=f"{empty} of {served:,} answers" if served else "nothing was answered",
        advice="read some answers in requests.csv: raise `max_tokens`, or correct the prompt or the chat template",
        passed=empty / served <= params.max_empty_share if served else None,
    )


def consistent(found: Sequence[Change], params: "BatchBenchmarkParams") -> Check:
    """Ask that no size is slower than a smaller one by more than the margin, as far as windows can tell."""
    margin = params.max_rate_change
    worst = min(found, key=lambda change: change.high, default=None)
    unclear = min(found, key=lambda change: change.low, default=None)
    passed: bool | None = None
    if worst is None or unclear is None:
        seen = f"fewer than two sizes have a steady state of {LEAST_WINDOWS} windows: raise sizes, or lower concurrency"
    elif worst.high < -margin:
        passed, seen = False, f"slower: {worst}"
    elif unclear.low < -margin:
        seen = f"too uncertain to say: {unclear}"
    else:
        passed, seen = True, f"at worst {unclear}"
    return Check(
        name="consistent_across_scales",
        asks=f"the steady rate falls by at most {margin:.0%} from a smaller size to a larger one",
        seen=seen,
        advice="raise `sizes` or `repeats` for longer steady states; where the rate really falls, lower `concurrency`",
        passed=passed,
        optional=bool(found),
    )


def as_predicted(found: Sequence[Cell], params: "BatchBenchmarkParams") -> Check:
    """Compare measured with predicted savings, where a prediction is more than a bound."""
    wanted = [cell for cell in found if cell["strategy"] in ("shared_prefix", "conversation")]
    known = [cell for cell in wanted if cell["savings"] is not None]
    ratios = [
        (cell["savings"] / cell["predicted_savings"], cell) for cell in known if cell["predicted_savings"]
    ]
    unknown = [cell["trial_id"] for cell in wanted if cell["savings"] is None]
    worst, passed = min(ratios, key=lambda ratio: ratio[0], default=None), None
    if worst is not None:
        share, cell = worst
        passed = share >= params.min_savings_match
        seen = f"at worst {share:.1%} of it ({cell['trial_id']})"
        if cell["predicted_from"]:
            seen += f"; predicted {cell['predicted_from']}"
            passed = passed or None  # a server with blocks may keep less, and be right
        if unknown:
            passed, seen = None, f"{seen}; unknown: {', '.join(unknown)}"
    else:
        seen = _why_none(wanted, known)
    return Check(
        name="savings_as_predicted",
        asks=f"measured token savings are at least {params.min_savings_match:.0%} of the predicted ones",
        seen=seen,
        advice="let the server report cached tokens (`kvlab doctor` says how), give its cache more memory, or lower `concurrency`: "
        "requests that start together cannot share what none has computed yet",
        passed=passed,
    )


def possible(found: Sequence[Cell]) -> Check:
    """Ask that no saving is larger than the prompts allow: one that is contradicts them, and proves nothing."""
    over = [(cell["savings"] - most, cell, most) for cell in found if (most := _most(cell)) is not None]
    worst = max(over, key=lambda each: each[0], default=None)
    seen = "no trial whose savings are known beside what its prompts allow"
    if worst is not None:
        seen = f"{worst[1]['savings']:.1%} saved, {worst[2]:.1%} possible ({worst[1]['trial_id']})"
    return Check(
        name="savings_are_possible",
        asks="no trial saved more than its prompts share",
        seen=seen,
        advice="do not trust this server's count of cached tokens: `kvlab run cache_laws` finds out what it reuses",
        passed=None if worst is None else worst[0] <= 0,
        role="proof",
        optional=True,
    )


def _most(cell: Cell) -> float | None:
    """Return the largest saving that a trial's prompts allow, with room for what is only estimated."""
    most, saved = cell["predicted_savings_at_most"], cell["savings"]
    if most is None or saved is None or not cell["prompt_tokens"] or cell["strategy"] == "isolated":
        return None  # the control has a check of its own
    own = (
        cell["completion_tokens"] or 0 if cell["strategy"] == "conversation" else 0
    )  # it finds its own answers
    again = float(cell["sent_again"]) / max(
        1, int(cell["served"])
    )  # a request that is sent again finds itself
    room = 0.05 if cell["predicted_from"] else 0.005
    return min(1.0, float(most) + own / float(cell["prompt_tokens"]) + again + room)


def _why_none(wanted: Sequence[Cell], known: Sequence[Cell]) -> str:
    """Return why no measured saving could be held against a prediction."""
    if not wanted:
        return "neither shared_prefix nor conversation is complete"
    if not known:
        return "not provable on this server"
    if all(cell["predicted_savings"] is None for cell in known):
        return f"no prediction: {known[0]['predicted_from']}"
    return (
        "no prediction above 0: all requests of a trial start together, so all may miss; raise sizes, or lower "
        "concurrency"
    )


def control(found: Sequence[Cell]) -> Check:
    """Ask that the control shares nothing but the chat template's own blocks: else it controls nothing."""
    known = [
        (cell["savings"] - _allowed(cell), cell)
        for cell in found
        if cell["strategy"] == "isolated" and cell["savings"] is not None
    ]
    worst = max(known, key=lambda pair: pair[0], default=None)
    seen = (
        "no isolated trial whose savings are known"
        if worst is None
        else f"{worst[1]['savings']:.1%} saved ({worst[1]['trial_id']}), {_allowed(worst[1]):.1%} allowed"
    )
    return Check(
        name="control_is_isolated",
        asks="the isolated requests find no more in the cache than the chat template's own blocks",
        seen=seen,
        advice="let nobody else send to this server, or set another `isolation_id`, and measure again",
        passed=None if worst is None else worst[0] <= 1e-9,
        optional=True,
    )


def _allowed(cell: Cell) -> float:
    """Return which share of its prompt tokens an isolated trial may find; a request sent again finds itself."""
    own = UNKNOWN_TEMPLATE_SHARE if cell["template_share"] is None else float(cell["template_share"])
    return own + float(cell["sent_again"]) / max(1, int(cell["served"]))


def memory(found: Sequence[Cell], params: "BatchBenchmarkParams") -> Check:
    """Ask for a memory that kept within its limit and did not go on rising, in what was measured."""
    peaks = [
        (series, usage["peak_bytes"], params.memory_limit_bytes or usage["total_bytes"])
        for cell in found
        for series, usage in cell["memory"].items()
    ]
    rising = leaks.measured(found, params)
    over = [f"{series}: {peak / 2**20:,.0f} MiB" for series, peak, limit in peaks if limit and peak > limit]
    highest = max(peaks, key=lambda peak: peak[1], default=None)
    seen = "memory cannot be seen from here"
    if highest is not None:
        seen = f"peak {highest[1] / 2**20:,.0f} MiB ({highest[0]})"
    tells = leaks.can_tell(found)
    if peaks and not tells:
        seen += "; too few looks to see a rise: lower memory_interval_s, raise sizes or repeats"
    return Check(
        name="memory_while_measured",
        asks=f"in what was measured, memory stays below its limit, and rises by at most {params.max_memory_rise:.0%} "
        "within the later half of a trial of the largest size, and over those trials",
        seen="; ".join([seen, *over[:3], *rising[:3]]),
        advice="give the server more memory, or restart it between batches; where it is unknown, measure larger `sizes`",
        passed=False if over or rising else True if tells else None,
        optional=True,
    )


def memory_at_target(known: leaks.AtTarget, params: "BatchBenchmarkParams") -> Check:
    """Ask whether memory is known to stay as it is up to the target.

    A run that is long enough must show it. One that is too short says so in its headline, and its PASS is none of memory.
    """
    seen = known.reason or (
        f"by at most {known.rise_at_most:.1%}, carried on from the last {known.stretch_requests:,} requests"
    )
    return Check(
        name="memory_at_target",
        asks=f"memory is shown to rise by at most {params.max_memory_rise:.0%} up to {params.target_requests:,} requests",
        seen=seen if known.is_level else f"not known: {seen}",
        advice="give the server more memory, or restart it between batches; a longer run (`sizes`, `repeats`) says more",
        passed=known.is_level,
        optional=not known.enough,
    )
