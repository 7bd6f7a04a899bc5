"""Is the measurement sound, and what did it find?"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from kvlab.compression.transition import failures
from kvlab.compression.transition.bins import column, timings
from kvlab.compression.transition.detect import TransitionCall
from kvlab.compression.transition.scores import FULL
from kvlab.experiments.kv_budget_transition import sections, store
from kvlab.experiments.kv_budget_transition.brief import FAILURES, KEPT, REPEATS, RESUME, brief
from kvlab.experiments.kv_budget_transition.estimate import Analysis, Answers, Asked, analyse
from kvlab.experiments.kv_budget_transition.params import ANSWERED, KVBudgetTransitionParams
from kvlab.experiments.kv_budget_transition.pictures import pictures
from kvlab.experiments.kv_budget_transition.tables import tables
from kvlab.findings import Check, Findings, plain
from kvlab.runs.data import RunData
from kvlab.store import requests_csv
from kvlab.store.database import to_json

#: Flags of the engine in this process under which the same prompt gives the same tokens.
_EXACT = {"dtype=float32", "device=cpu"}

Rows = dict[str, Sequence[Mapping[str, Any]]]


def findings(data: RunData, params: KVBudgetTransitionParams) -> Findings:
    """Judge a run: the verdict says whether the measurement is sound, the headline what it found."""
    answers = Answers.of(data, params)
    found = analyse(answers.frame, Asked.of(params, answers))
    flags = set(data.identity.flags) if data.identity else _EXACT
    return report(
        found,
        planned_answers=answers.examples * len(params.kv.budgets),
        trials=answers.trials,
        tolerance=0 if params.in_process else params.engine.kept_tolerance_tokens,
        deterministic=params.in_process and flags >= _EXACT,
        sessions=answers.sessions,
        files=_files(data, answers.frame),
        derived=_derived(data, found),
    )


def report(
    found: Analysis,
    *,
    planned_answers: int,
    trials: tuple[int, int],
    tolerance: int = 0,
    deterministic: bool = True,
    sessions: Sequence[Mapping[str, Any]] = (),
    files: Mapping[str, str | bytes] | None = None,
    derived: Rows | None = None,
) -> Findings:
    """Return everything that is said of an analysis.

    Args:
        found: The analysis.
        planned_answers: How many answers of the phase ``planned`` there should be.
        trials: How many are done, and how many there are: the rounds of the refinement and the timed passes, too.
        tolerance: How many entries an endpoint may keep more or fewer than planned.
        deterministic: Whether the engine promises the same tokens for the same prompt. Where it does not, other
            tokens at budget 1.0 are its noise and no fault.
        sessions: What each session got done in its time.
        files: Further files of the run folder.
        derived: The tables that follow from the answers.
    """
    complete = _complete(found, planned_answers, trials)
    drawn = pictures(found)
    partial = "partial run: " if complete.passed is False else ""
    unscored = found.asked.metric == ANSWERED
    alone = "failures and costs alone, as this task has no score: " if unscored else ""
    checks = [_kept(found.frame, tolerance), _repeats(found, deterministic), complete, *_notes(found)]
    return Findings(
        headline=partial + alone + _headline(found),
        checks=checks,
        results=_rounded(_results(found) | _counts(found)),
        tables=tables(found, sessions),
        pictures=drawn,
        limitations=_limitations(found),
        sections=sections.sections(found, sessions, [picture.name for picture in drawn]),
        files=files or {},
        derived=derived or {},
        brief=brief(found, checks),
    )


def _rounded(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the results with six decimals; a p-value keeps what it has."""
    return {name: plain(value, None if name.endswith("p_value") else 6) for name, value in row.items()}


def _complete(found: Analysis, planned_answers: int, trials: tuple[int, int]) -> Check:
    plan, (done, of) = found.scores.plan, trials
    there = int((~pd.isna(plan.values) | plan.failed).sum())
    whole = there >= planned_answers and done >= of
    seen = f"{there} of {planned_answers}, {done} of {of} trials"
    return Check(
        name="all_planned_answered",
        asks="every planned answer is there, or the model's failure, and every trial is done",
        seen=seen + ("" if whole else ": a partial run"),
        passed=whole if planned_answers else None,
        role="proof",
        advice=RESUME,
    )


def _notes(found: Analysis) -> list[Check]:
    outcomes = sorted({_in_short(call, found) for call in found.treatments.values()})
    return [
        Check(
            name="not_of_failures_alone",
            asks="no drop is called that missing answers alone make",
            seen=f"called: {found.call.outcome}",
            passed=found.call.outcome != "failures",
            role="power",
            reason=sections.FAILURES_ALONE,
            advice=FAILURES,
        ),
        Check(
            name="failures_do_not_decide",
            asks="the call is the same with failures as 0, as missing, and as both bounds",
            seen=", ".join(outcomes),
            passed=not failures.decide_call(found.treatments),
            role="note",
        ),
        *(
            Check(name=item.name, asks=item.asks, seen=item.seen, passed=item.passed, role="note")
            for item in found.assertions
        ),
    ]


def _in_short(call: TransitionCall, found: Analysis) -> str:
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
        + ("" if deterministic else ", which this engine does not promise"),
        seen=seen,
        passed=noise.same == noise.n if noise.n else None,
        role="criterion" if deterministic else "note",
        advice=REPEATS,
        optional=True,
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
    passed = False if wrong else None if unknown else True
    return Check(
        name="n_kept_as_planned",
        asks=f"the KV entries kept, as observed, equal the plan in every layer of every answer{within}",
        seen=seen,
        passed=passed,
        reason=f"a budget that is not observed is not a budget: {seen}" if passed is None else "",
        advice=KEPT,
    )


def _headline(found: Analysis) -> str:
    drop, least = found.called_drop, sections.least_of(found)
    if drop is None or found.call.outcome == "not tested":
        return "no transition was looked for: there is no budget below 1.0 with an answer"
    drop_words = (
        f"accuracy at {found.scores.name(drop.budget)} is lower than at 1.0 by {sections.range_of(drop)}"
    )
    if found.noise.absolute:
        drop_words += f" (1.0 differs from itself by {found.noise.absolute:.3f}; no smaller drop counts)"
    if found.call.outcome == "transition":
        return f"transition: the middle of the fall lies {sections.place_of(found, found.half)}; {drop_words}; {least}"
    smallest = f"[{found.scores.name(found.call.drops[-1].budget)}, 1]"
    if found.call.outcome == "no transition":
        return f"no transition in {smallest}: every planned budget is shown to lose less than {found.asked.margin:g}; {drop_words}; {least}"
    if found.call.outcome == "failures":
        return f"no call: {sections.FAILURES_ALONE}; {drop_words}; {least}"
    if found.call.outcome == "not monotone":
        return f"not monotone: {sections.comes_back(found)}; {drop_words}; {least}"
    return f"underpowered: neither a loss of more than {found.asked.margin:g} in {smallest} nor its absence is shown; {drop_words}; {least}"


def _results(found: Analysis) -> dict[str, Any]:
    """Return what both rules say, flat: the point rule under its own names, then the calibrated rule.

    ``transition_budget``, ``pre_budget``, ``acc_pre``, ``acc_post``, ``drop``, ``method`` and
    ``transition_bin_idx`` are the point rule's. ``call_…`` are the calibrated rule's, ``location_…`` the
    interval of the middle of the fall, ``loss_…`` that of the first loss of a margin. Budgets are as the
    parameters write them: above 1 they are numbers of entries. Missing is ``None``.
    """
    drop = found.called_drop
    as_asked, asked = found.scores.as_asked, found.asked
    shares = [share if share is not None else -1.0 for share in found.worst]
    worst = int(np.argmax(shares)) if shares and max(shares) >= 0 else None
    return {
        "metric": asked.metric,
        "query_mode": asked.query_mode,
        **_as_asked(found, asdict(found.point)),
        "drop_threshold": asked.drop_threshold,
        "call_outcome": found.call.outcome,
        "call_fails_at": as_asked(found.call.fails_at),
        "call_holds_at": as_asked(found.call.holds_at),
        "call_budget": None if drop is None else as_asked(drop.budget),
        "call_drop": None if drop is None else drop.estimate,
        "call_drop_low": None if drop is None else drop.low,
        "call_drop_high": None if drop is None else drop.high,
        "call_p_value": None if drop is None or not drop.n else drop.p_exceeds,
        "call_alpha": asked.alpha,
        "call_margin": asked.margin,
        **{
            f"location_{key}": value
            for key, value in _as_asked(found, asdict(found.half)).items()
            if key != "threshold"
        },
        **{
            f"loss_{key}": value
            for key, value in _as_asked(found, asdict(found.margin)).items()
            if key != "threshold"
        },
        "minimum_detectable_drop": found.detectable.drop,
        "minimum_detectable_reason": found.detectable.reason,
        "bins_called": [item.bin_idx for item in found.bin_calls if item.falls],
        "worst_bin_idx": worst,
        "worst_bin_share": None if worst is None else found.worst[worst],
        "budgets_planned": [as_asked(budget) for budget in found.scores.plan.budgets.tolist()],
        "budgets_added": [
            as_asked(budget) for budget in found.scores.budgets[~found.scores.planned].tolist()
        ],
    }


def _counts(found: Analysis) -> dict[str, int]:
    return {
        "examples": len(found.scores.examples),
        "contexts": len(set(found.scores.clusters.tolist())),
        "failed_answers": int(found.frame["failed"].astype(bool).sum()),
    }


def _as_asked(found: Analysis, row: dict[str, Any]) -> dict[str, Any]:
    """Return a row with its budgets as the parameters write them."""
    budgets = ("transition_budget", "pre_budget", "below", "above", "low", "high")
    return {key: found.scores.as_asked(value) if key in budgets else value for key, value in row.items()}


def _limitations(found: Analysis) -> list[str]:
    lines = []
    if not found.noise.n:
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
    return lines


def _files(data: RunData, frame: pd.DataFrame) -> dict[str, str | bytes]:
    """Return every answer as a CSV, and the dataset: enough to ask the same elsewhere."""
    files: dict[str, str | bytes] = {"answers.csv": requests_csv.text(frame, float_format="%.6f")}
    if (manifest := store.manifest_of(data.sql)) is not None:
        files["dataset_manifest.json"] = manifest.as_bytes()
    return files


_STATS = (
    "phase", "bin_idx", "n", "acc_mean", "acc_std", "acc_ci_low", "acc_ci_high", "f1_mean", "em_mean", "contains_mean",
    "fail_rate", "no_answer_rate", "latency_p50_ms", "latency_p95_ms", "tokens_p50", "tokens_p95",
)  # fmt: skip
_POINT = ("transition_budget", "pre_budget", "acc_pre", "acc_post", "drop", "method", "transition_bin_idx")


def _derived(data: RunData, found: Analysis) -> Rows:
    """Return the rows of the tables that follow from the answers: scores, bin_stats, transition_summary."""
    if found.frame.empty:
        return {}
    dataset_id = data.table("datasets")["dataset_id"].iloc[0]
    runs = found.frame.groupby(["policy", "budget", "phase"])["run_id"].first()
    stats = [
        {
            "run_id": runs[row["policy"], row["budget"], row["phase"]],
            "dataset_id": dataset_id,
            **{name: plain(row[name]) for name in _STATS},
        }
        for row in found.stats.to_dict("records")
    ]
    results = plain(_results(found))
    point = {f'"{name}"' if name == "drop" else name: results.pop(name) for name in _POINT}
    summary = {
        "experiment_id": data.stored["experiment_id"],
        **point,
        "calibrated_json": to_json(results),
    }
    scores = list(store.scores(data).values())
    return {"scores": scores, "bin_stats": stats, "transition_summary": [summary]}
