"""Is the measurement sound, and what did it find?"""

from typing import Any

import pandas as pd

from kvlab.compression.transition import failures
from kvlab.compression.transition.bins import column, timings
from kvlab.compression.transition.detect import Call
from kvlab.compression.transition.scores import FULL
from kvlab.endpoints.connect import Identity
from kvlab.experiments.kv_budget_transition import evidence, story, tables
from kvlab.experiments.kv_budget_transition.analysis import Analysis, AnalysisParams, analyse, summary_of
from kvlab.experiments.kv_budget_transition.asked import ANSWERED
from kvlab.experiments.kv_budget_transition.cells import clean, named
from kvlab.findings import Check, Summary, Verdict


def summarize(
    frame: pd.DataFrame,
    params: AnalysisParams,
    profile: str,
    identity: Identity | None = None,
    *,
    planned_answers: int | None = None,
    trials: tuple[int, int] | None = None,
    tolerance: int = 0,
    deterministic: bool = True,
) -> Summary:
    """Judge a run: the verdict says whether the measurement is sound, the headline what it found.

    Args:
        frame: One row an answer.
        params: The parameters.
        profile: Their name.
        identity: What answered.
        planned_answers: How many answers of the phase ``planned`` there should be; ``None``: every example
            of the frame at every planned budget.
        trials: How many are done, and how many there are: the rounds of the refinement and the timed passes,
            too; ``None``: not known.
        tolerance: How many entries an endpoint may keep more or fewer than planned.
        deterministic: Whether the engine promises the same tokens for the same prompt. Where it does not, other
            tokens at budget 1.0 are its noise and no fault.
    """
    found = analyse(frame, params)
    checks = _checks(found, planned_answers, trials, tolerance, deterministic)
    verdict, grounds = _verdict(checks, deterministic)
    if found.call.outcome == "failures" and verdict is Verdict.PASS:
        verdict, grounds = Verdict.INVALID, [story.FAILURES_ALONE]
    partial = checks[2].holds is False
    names = drawn(found)
    return Summary(
        experiment="kv_budget_transition",
        profile=profile,
        verdict=verdict,
        headline=("partial run: " if partial else "") + _unscored(params) + _headline(found, params),
        reasons=grounds,
        checks=checks,
        results=_results(found, params),
        tables=[
            named(table, found.scores.tokens)
            for table in (*tables.tables(found, params), *evidence.tables(found, params))
            if table.rows
        ],
        figures=story.figures(names),
        limitations=_limitations(found, checks, identity),
        sections=story.sections(found, params, names),
    )


def drawn(found: Analysis) -> list[str]:
    """Return the names of the figures that there is data for."""
    if not len(found.scores.examples):
        return []
    clock, _ = timings(found.frame)
    known = pd.notna(column(clock, "latency_ms")).any()
    return [name for name in story.FIGURES if name != "latency_p50_by_bin" or known]


def _complete(found: Analysis, planned_answers: int | None, trials: tuple[int, int] | None) -> Check:
    plan = found.scores.plan
    there = int((~pd.isna(plan.values) | plan.failed).sum())
    every = planned_answers if planned_answers is not None else plan.values.size
    done, of = trials or (0, 0)
    whole = there >= every and done >= of
    seen = f"{there} of {every}" + (f", {done} of {of} trials" if trials else "")
    return Check(
        name="all_planned_answered",
        asks="every planned answer is there, or the model's failure, and every trial is done",
        seen=seen + ("" if whole else ": a partial run"),
        holds=whole if every else None,
    )


def _checks(
    found: Analysis,
    planned_answers: int | None,
    trials: tuple[int, int] | None,
    tolerance: int,
    deterministic: bool,
) -> list[Check]:
    outcomes = sorted({_in_short(call, found) for call in found.treatments.values()})
    return [
        _kept(found.frame, tolerance),
        _repeats(found, deterministic),
        _complete(found, planned_answers, trials),
        Check(
            name="failures_do_not_decide",
            asks="the call is the same with failures as 0, as missing, and as both bounds (not part of the verdict)",
            seen=", ".join(outcomes),
            holds=not failures.decide_call(found.treatments),
        ),
        *(
            Check(
                name=item.name,
                asks=f"{item.asks} (not part of the verdict)",
                seen=item.seen,
                holds=item.holds,
            )
            for item in found.assertions
        ),
    ]


def _in_short(call: Call, found: Analysis) -> str:
    """Return a call's outcome and the budgets that it names."""
    name = found.scores.name
    parts: list[str] = [call.outcome]
    if call.fails_at is not None:
        parts.append(f"down from {name(call.fails_at)}")
    if call.holds_at is not None and call.holds_at < FULL:
        parts.append(f"good down to {name(call.holds_at)}")
    if call.also_falls_at:
        parts.append(f"falls at {', '.join(map(name, call.also_falls_at))}")
    return " ".join(parts)


def _repeats(found: Analysis, deterministic: bool) -> Check:
    noise = found.noise
    seen = f"{noise.same} of {noise.n}, every second example" if noise.n else "not asked for once more"
    if noise.n and noise.same < noise.n:
        seen += f"; the two scores differ by {noise.absolute:.3f} on average"
    return Check(
        name="budget_1_repeats",
        asks="budget 1.0 once more gives the same tokens"
        + ("" if deterministic else " (not part of the verdict: this engine does not promise it)"),
        seen=seen,
        holds=noise.same == noise.n if noise.n else None,
    )


def _kept(frame: pd.DataFrame, tolerance: int) -> Check:
    """Compare the observed entries with the plan in every answer, all phases; at 1.0 where they were observed."""
    observed = pd.notna(column(frame, "n_kept_min"))
    rows = frame[((frame["budget"] < FULL) | observed) & ~frame["failed"].astype(bool)]
    least, most, plan = (column(rows, name) for name in ("n_kept_min", "n_kept_max", "n_planned"))
    unknown = int((pd.isna(least) | pd.isna(most) | pd.isna(plan)).sum())
    equal = int(((abs(least - plan) <= tolerance) & (abs(most - plan) <= tolerance)).sum())
    wrong = len(rows) - unknown - equal
    within = f", give or take {tolerance}" if tolerance else ""
    seen = f"{equal} of {len(rows)}" + (f", {unknown} without an observation" if unknown else "")
    if not len(rows):
        seen = "no answer below 1.0, and none observed at it: no budget to apply"
    return Check(
        name="n_kept_as_planned",
        asks=f"the KV entries kept, as observed, equal the plan in every layer of every answer{within}",
        seen=seen,
        holds=False if wrong else None if unknown else True,
    )


def _verdict(checks: list[Check], deterministic: bool) -> tuple[Verdict, list[str]]:
    kept, repeats, complete = checks[:3]
    if kept.holds is None:
        return Verdict.INVALID, [f"a budget that is not observed is not a budget: {kept.seen}"]
    if complete.holds is not True:
        return Verdict.INVALID, [f"not met: {complete.asks}: {complete.seen}"]
    decisive = (kept, repeats) if deterministic else (kept,)
    broken = [check for check in decisive if check.holds is False]
    if broken:
        return Verdict.FAIL, [f"not met: {check.asks}: {check.seen}" for check in broken]
    return Verdict.PASS, [f"{check.asks}: {check.seen}" for check in (kept, repeats, complete)]


def _unscored(params: AnalysisParams) -> str:
    return "failures and costs alone, as this task has no score: " if params.metric == ANSWERED else ""


def _headline(found: Analysis, params: AnalysisParams) -> str:
    drop, least = found.called_drop, story.least_of(found)
    if drop is None or found.call.outcome == "not tested":
        return "no transition was looked for: there is no budget below 1.0 with an answer"
    said = f"accuracy at {found.scores.name(drop.budget)} is lower than at 1.0 by {story.range_of(drop)}"
    if found.noise.absolute:
        said += f" (1.0 differs from itself by {found.noise.absolute:.3f}; no smaller drop counts)"
    if found.call.outcome == "transition":
        return f"transition: the middle of the fall lies {story.place_of(found, found.half, params.confidence)}; {said}; {least}"
    smallest = f"[{found.scores.name(found.call.drops[-1].budget)}, 1]"
    if found.call.outcome == "no transition":
        return f"no transition in {smallest}: every planned budget is shown to lose less than {params.margin:g}; {said}; {least}"
    if found.call.outcome == "failures":
        return f"no call: {story.FAILURES_ALONE}; {said}; {least}"
    if found.call.outcome == "not monotone":
        return f"not monotone: {story.comes_back(found, params)}; {said}; {least}"
    return f"underpowered: neither a loss of more than {params.margin:g} in {smallest} nor its absence is shown; {said}; {least}"


def _results(found: Analysis, params: AnalysisParams) -> dict[str, Any]:
    row = {key: clean(value) for key, value in summary_of(found, params).items()}
    row["examples"] = len(found.scores.examples)
    row["contexts"] = len(set(found.scores.clusters.tolist()))
    row["failed_answers"] = int(found.frame["failed"].astype(bool).sum())
    return row


def _limitations(found: Analysis, checks: list[Check], identity: Identity | None) -> list[str]:
    lines = []
    if checks[1].holds is None:
        lines.append("Budget 1.0 was not answered a second time: the noise floor is not known.")
    if not found.random:
        lines.append(
            "No random policy was run: it is not known what the policy's choice of entries is worth."
        )
    if found.no_context is None:
        lines.append("No question was asked without its context: some answers may not need it.")
    _, source = timings(found.frame)
    if source == "answers" and pd.notna(column(found.frame, "latency_ms")).any():
        lines.append("Latencies are those of the answers themselves, not of a pass made for timing.")
    empty = [str(item.bin_idx) for item in found.bin_calls if not item.drop.n]
    if empty:
        lines.append(f"Length bins without a pair: {', '.join(empty)}.")
    for key, fact in (identity.facts if identity else {}).items():
        if fact.holds is not True:
            lines.append(f"Not proven of this engine: {key} ({fact.why}).")
    return lines
