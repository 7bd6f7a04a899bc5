"""What the report says in words, section by section."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from kvlab.compression.transition import failures
from kvlab.compression.transition.bins import column, curve, timings
from kvlab.compression.transition.drop import Drop
from kvlab.compression.transition.location import Location
from kvlab.compression.transition.scores import FULL
from kvlab.experiments.kv_budget_transition.estimate import Analysis
from kvlab.experiments.kv_budget_transition.params import ANSWERED
from kvlab.findings import Section

FAILURES_ALONE = (
    "a drop is shown only where missing answers count as wrong: correct what made them fail, and ask again"
)


def comes_back(found: Analysis) -> str:
    """Return in words where a curve falls that does not stay down."""
    return (
        f"accuracy is more than {found.asked.margin:g} below that of 1.0 at {_list(found, found.call.also_falls_at)} (Holm over "
        f"the budgets), and higher again at {found.scores.name(found.call.drops[-1].budget)}: no budget parts good from bad"
    )


def range_of(drop: Drop) -> str:
    """Return a drop with its interval, or why there is none."""
    if drop.estimate is None:
        return "not measured"
    if drop.low is None or drop.high is None:
        return f"{drop.estimate:+.3f} (no interval: {drop.reason})"
    return f"{drop.estimate:+.3f} ({drop.low:+.3f} to {drop.high:+.3f})"


def least_of(found: Analysis) -> str:
    """Return the minimum detectable drop, or why there is none."""
    least = found.detectable
    if least.drop is None:
        return f"the smallest drop that would be called cannot be given: {least.reason}"
    return f"the smallest drop that would be called with a probability of 80 % is {least.drop:.3f}"


def place_of(found: Analysis, location: Location) -> str:
    """Return a location with its interval."""
    name = found.scores.name
    if location.below is None or location.above is None:
        return "nowhere in the fit"
    between = f"between {name(location.below)} and {name(location.above)}"
    if location.low is None or location.high is None:
        return f"{between} (no interval: {location.reason})"
    low = name(location.low) if location.low > 0 else "below the smallest budget"
    return f"{between} ({found.asked.confidence:.0%} interval: {low} to {name(location.high)})"


def sections(found: Analysis, rates: Sequence[Mapping[str, Any]], drawn: Collection[str]) -> list[Section]:
    """Return the report's sections.

    Args:
        found: The analysis.
        rates: What each session got done (`kvlab.experiments.kv_budget_transition.estimate.sessions`).
        drawn: The names of the pictures that there are.
    """
    parts = [
        ("What changed with the budget", _changed(found), ["accuracy_over_budget", "flips", "bin_stats"],
         ["accuracy_over_budget", "acc_by_bin", "flips"]),
        ("Where the transition is", _where(found), ["transition", "bin_calls"], []),
        ("Accuracy or failures", _failures(found), ["drop_parts", "failure_treatments", "integrity"], ["fail_by_bin"]),
        ("Latency and memory", _latency(found), [], ["latency_p50_by_bin"]),
        ("Sanity validation", _sanity(found), ["assertions", "controls", "raw_sample"], []),
        ("Efficiency profile", _efficiency(found, rates), ["throughput", "efficiency"], []),
        ("Known failure modes", _modes(found), ["failure_modes"], []),
        ("Limitations", _limitations(found), [], []),
        ("Terms", _terms(found), [], []),
    ]  # fmt: skip
    return [
        Section(
            title=title, paragraphs=text, tables=tables, figures=[name for name in pictures if name in drawn]
        )
        for title, text, tables, pictures in parts
    ]


def _changed(found: Analysis) -> list[str]:
    means = ", ".join(
        f"{mean:.3f} at {found.scores.name(budget)}"
        for budget, mean in curve(found.scores).items()
        if mean == mean
    )
    added = found.scores.budgets[~found.scores.planned]
    lines = [f"Accuracy (mean {found.asked.metric}): {means or 'nothing was answered'}."]
    if len(added):
        lines.append(
            f"Planned: {_list(found, found.scores.plan.budgets)}. Added by bisection where the answers fell: {_list(found, added)}."
        )
    worst = [item for item in found.flips if item.high == FULL and item.low == found.focus]
    lines += [
        f"From 1.0 to {found.scores.name(item.low)}, {item.right_to_wrong} of {item.n} examples turned from right to wrong and "
        f"{item.wrong_to_right} from wrong to right."
        for item in worst
    ]
    return lines


def _list(found: Analysis, budgets: Iterable[float]) -> str:
    return ", ".join(found.scores.name(budget) for budget in budgets)


def _where(found: Analysis) -> list[str]:
    call, point = found.call, found.point
    lines = [f"Calibrated rule: **{call.outcome}**; {least_of(found)}."]
    if call.fails_at is not None:
        lines.append(
            f"At {found.scores.name(call.fails_at)} and every planned budget below it, accuracy is more than {found.asked.margin:g} below that of "
            f"1.0. The middle of the fall lies {place_of(found, found.half)}; the first loss of more than "
            f"{found.asked.margin:g} {place_of(found, found.margin)}. Planned and added budgets make this fit."
        )
    if call.outcome == "not monotone":
        lines.append(f"{comes_back(found).capitalize()}.")
    elif call.also_falls_at:
        lines.append(f"By itself the drop at {_list(found, call.also_falls_at)} exceeds the margin, too.")
    if call.outcome == "failures":
        lines.append(f"{FAILURES_ALONE.capitalize()}.")
    if call.holds_at is not None and call.holds_at < FULL:
        lines.append(
            f"Down to {found.scores.name(call.holds_at)}, the drop is shown to be less than {found.asked.margin:g}."
        )
    if point.transition_budget is None:
        lines.append(f"Point rule ({point.method}): no step of {found.asked.drop_threshold:g} or more.")
    else:
        lines.append(
            f"Point rule ({point.method}): {found.scores.name(point.transition_budget)}, {point.drop:.3f} lower than "
            f"{found.scores.name(point.pre_budget or FULL)}, "
            f"most in bin {point.transition_bin_idx}. It has no error rate."
        )
    falling = [str(item.bin_idx) for item in found.bin_calls if item.falls]
    if found.bin_calls:
        lines.append(f"Length bins that fall: {', '.join(falling) or 'none is shown to'}.")
    return lines


def _failures(found: Analysis) -> list[str]:
    part = next((item for item in found.parts if item.budget == found.focus), None)
    if part is None or part.drop is None or part.no_answer is None:
        return ["There is no pair of budgets to compare."]
    outcomes = {call.outcome for call in found.treatments.values()}
    decided = failures.decide_call(found.treatments)
    driver = f"It is driven by {part.driven_by}." if part.driven_by else "Nothing fell."
    return [
        f"The drop at {found.scores.name(part.budget)} is {part.drop:+.3f}: {part.no_answer:+.3f} from missing answers, "
        f"{part.broken:+.3f} from answers that answer nothing, {part.labelled:+.3f} from wrong ones that were cut off or are "
        f"of another form, {part.wrong:+.3f} from plainly wrong ones. {driver}",
        "The call is the same whatever the failed answers count as."
        if not decided
        else f"The call, or a budget that it names, depends on what failed answers count as: {', '.join(sorted(outcomes))}.",
    ]


def _latency(found: Analysis) -> list[str]:
    clock, source = timings(found.frame)
    latency = _each(found, "latency_p50_ms", lambda ms: f"{ms:.0f} ms")
    cache = _each(found, "cache_bytes_mean", lambda size: f"{size / 2**20:.1f} MiB")
    timed = int((~np.isnan(column(clock, "latency_ms"))).sum())
    lines = [
        f"Median latency ({source}): {latency}."
        if latency
        else f"{timed} latencies ({source}), fewer than 5 for each budget: too few for a median. The figure shows each."
        if timed
        else "Latency was not measured for each budget: where budgets share a prefill, no answer's time is its own. So "
        "there is no figure of it (kv.timed_per_bin asks for a timed pass).",
        f"Mean KV cache: {cache}." if cache else "Memory: not available (no cache sizes were recorded).",
    ]
    if (~np.isnan(column(clock, "peak_memory_bytes"))).any():
        lines.append("Peak memory of each budget is in the efficiency profile.")
    return lines


def _each(found: Analysis, name: str, show: Callable[[float], str]) -> str:
    """Return a column of the efficiency profile in words, for the budgets of the curve."""
    table = found.efficiency
    rows = table[table["budget"].isin(found.scores.budgets) & table[name].notna()].to_dict("records")
    return "; ".join(
        f"{show(row[name])} at {found.scores.name(row['budget'])} ({row['policy']})" for row in rows
    )


def _sanity(found: Analysis) -> list[str]:
    failed = [item for item in found.assertions if item.passed is False]
    lines = [f"{item.name}: {item.seen}." for item in failed] or [
        "Every assertion that could be tried holds."
    ]
    noise = found.noise
    if noise.n:
        lines.append(
            f"Budget 1.0 once more gave the same tokens in {noise.same} of {noise.n} answers (every second example)."
        )
        if noise.absolute:
            lines.append(
                f"Its two scores differ by {noise.absolute:.3f} on average: the noise floor. The margin of every test is at least that."
            )
    if found.no_context and found.no_context.control is not None:
        lines.append(
            f"Without their context, {found.no_context.control:.3f} of the questions' score remains, of "
            f"{found.no_context.policy:.3f} with it: that part cannot be lost by compression."
        )
    return lines


def _efficiency(found: Analysis, rates: Sequence[Mapping[str, Any]]) -> list[str]:
    priced = (
        found.asked.price_per_million_prompt_tokens is not None
        and found.asked.price_per_million_completion_tokens is not None
    )
    timed = [one for one in rates if one["answers_per_min"] is not None]
    lines = []
    if timed:
        answers, elapsed_s = (sum(one[name] for one in timed) for name in ("answers", "elapsed_s"))
        lines.append(
            f"Effective throughput: {answers / elapsed_s * 60:.1f} answers a minute, pauses and retries included "
            f"(sessions: {len(timed)}, {elapsed_s:.0f} s in all)."
        )
    return lines if priced else [*lines, "No prices were given, so there is no cost."]


def _modes(found: Analysis) -> list[str]:
    seen = sorted(str(label) for label in found.frame["outcome"].dropna().unique())
    return [
        f"Labels in this run: {', '.join(seen)}."
        if seen
        else "No answer of this run carries a failure label."
    ]


def _limitations(found: Analysis) -> list[str]:
    score = (
        "kvlab has no score for this task: nothing is said of whether an answer is right."
        if found.asked.metric == ANSWERED
        else f"{found.asked.metric} compares words with a gold answer: a right answer in other words scores low."
    )
    return [
        f"{score} One model, one policy, one task and one serving stack: nothing is said of others.",
        "The sequence of tests takes accuracy to fall with the budget. A budget in the middle that is worse than the "
        "smallest one is not found by it; the table of all budgets shows it.",
        "Bins and the overall curve are two families, each at the stated level.",
    ]


def _terms(found: Analysis) -> list[str]:
    accuracy = f"**Accuracy** is the mean {found.asked.metric} over the answers asked for, a failed answer counting as 0."
    if found.asked.metric == ANSWERED:
        accuracy = (
            "**Accuracy** is only the share of answers without a failure label here: this task has no score."
        )
    return [
        accuracy,
        "**Failure rate** is the share of the answers asked for that are missing or carry a label of the failure taxonomy.",
        f"**Transition zone detector**: each planned budget is compared with 1.0 on the same examples, from the smallest "
        f"upwards, by a test over contexts; a transition is called down from the last budget whose drop exceeds "
        f"{found.asked.margin:g} with a two-sided error of {found.asked.alpha:g}. Where it lies is the interval of budgets at which tests do "
        "not say whether half of the fall is passed.",
        f"**Analysis parameters** of this report: metric {found.asked.metric}, drop_threshold {found.asked.drop_threshold:g}, "
        f"margin {found.asked.margin:g}, alpha {found.asked.alpha:g}, confidence {found.asked.confidence:g}, resamples "
        f"{found.asked.resamples}, seed {found.asked.seed}.",
        '**Budget** is the share of the context\'s KV entries that are kept in each layer, as observed; with "tokens", '
        "their number, the same for every context.",
    ]
