import json

import numpy as np
import pandas as pd
import pytest

from kvlab.experiments.kv_budget_transition.estimate import Answers, Asked, analyse
from kvlab.experiments.kv_budget_transition.findings import report
from kvlab.experiments.kv_budget_transition.params import KVBudgetTransitionParams
from kvlab.report import render
from kvlab.report.figures import png
from tests.compression.transition.synthetic import answers, cliff
from tests.experiments.kv_budget_transition.chosen import params

STORED = {"experiment_id": "e", "profile": "p", "created_utc": "t", "isolation_id": "i", "contract": {}, "params": {},
          "sources": {}}  # fmt: skip
SECTIONS = ["What changed with the budget", "Where the transition is", "Accuracy or failures", "Latency and memory",
            "Sanity validation", "Efficiency profile", "Known failure modes", "Limitations", "Terms"]  # fmt: skip


def found_in(frame, chosen, planned_answers=None, trials=(1, 1), **more):
    """The findings of answers; planned is every example of the frame at every planned budget."""
    analysis = analyse(frame, chosen)
    every = analysis.scores.plan.values.size if planned_answers is None else planned_answers
    return report(analysis, planned_answers=every, trials=trials, **more)


def summarize(frame, chosen, **more):
    return found_in(frame, chosen, **more).summary("kv_budget_transition", "test")


def judge(frame, *, draw=False, **changes):
    """Judge, and see that all that follows from it can be made."""
    found = found_in(frame, params(**changes))
    summary = found.summary("kv_budget_transition", "test")
    json.dumps(summary.as_json(), allow_nan=False)
    text = render.markdown("KV", summary, STORED, None)
    heads = [line[3:] for line in text.splitlines() if line.startswith("## ")]
    assert [head for head in heads if head in SECTIONS] == SECTIONS
    if draw:  # a second each
        assert all(picture.draw() for picture in found.pictures)
    return summary


def drawn(frame, name, **changes):
    return found_in(frame, params(**changes)).picture(name).draw()


def stored(frame):
    """The answers of a dataset that is scored by F1."""
    examples = frame["example_id"].nunique()
    return Answers(frame, scored_by={"f1"}, examples=examples, bins=5, trials=(1, 1), sessions=[])


def check(summary, name):
    return next(check for check in summary.checks if check.name == name)


def table(summary, name):
    found = next(item for item in summary.tables if item.name == name)
    return [dict(zip(found.columns, row, strict=True)) for row in found.rows]


def flat(per_bin=30, **changes):
    return cliff(per_bin=per_bin, at=-1.0, **changes)


def test_a_transition_is_called_with_its_interval():
    summary = judge(cliff(added=(0.75, 0.875)))
    assert summary.verdict == "PASS"
    assert summary.headline.startswith(
        "transition: the middle of the fall lies between 0.75 and 0.875 (95% interval:"
    )
    assert "the smallest drop that would be called with a probability of 80 % is" in summary.headline
    row = summary.results
    assert (row["call_fails_at"], row["transition_budget"], row["budgets_added"]) == (0.5, 0.5, [0.875, 0.75])
    assert row["location_low"] <= 0.8 <= row["location_high"]
    added = [item for item in table(summary, "accuracy_over_budget") if item["kind"] == "added"]
    assert len(added) == 2
    assert [item["p_value"] for item in added] == [None, None], (
        "what the answers chose is not tested with them"
    )


def test_no_transition_and_underpowered_are_different_answers():
    assert judge(flat()).headline.startswith("no transition in [0.2, 1]")
    few = judge(flat(per_bin=3))
    assert few.headline.startswith("underpowered")
    assert few.verdict == "PASS", "the measurement is sound; it is the answer that is missing"


def test_the_same_answers_in_another_order_give_the_same_report():
    frame = cliff(n_bins=1, per_bin=8)
    again = frame.sample(frac=1, random_state=1)
    first, second = (render.markdown("KV", judge(item, n_bins=1), STORED, None) for item in (frame, again))
    assert first == second
    pngs = [png(drawn(item, "flips", n_bins=1)) for item in (frame, again)]
    assert pngs[0] == pngs[1]


@pytest.mark.parametrize("change", ["n_kept_min", "n_kept_max"])
def test_a_budget_that_was_not_applied_fails(change):
    frame = cliff(per_bin=4)
    frame.loc[frame.index[frame["budget"] == 0.5][:1], change] = 7
    summary = judge(frame)
    assert summary.verdict == "FAIL"
    assert "n_kept" in next(check.name for check in summary.checks if check.passed is False)


def test_a_baseline_that_was_not_whole_fails():
    frame = cliff(per_bin=4)
    frame.loc[
        frame.index[(frame["budget"] == 1.0) & (frame["phase"] == "planned")][:1],
        ["n_kept_min", "n_kept_max"],
    ] = 10
    assert judge(frame).verdict == "FAIL"


def test_an_endpoint_may_be_off_by_what_the_parameters_allow():
    frame = cliff(per_bin=4)
    frame.loc[frame["budget"] == 0.5, ["n_kept_min", "n_kept_max"]] += 16
    verdicts = [summarize(frame, params(), tolerance=most).verdict for most in (15, 16)]
    assert verdicts == ["FAIL", "PASS"]


def test_a_budget_that_was_not_observed_is_no_budget():
    frame = cliff(per_bin=4)
    frame[["n_kept_min", "n_kept_max"]] = np.nan
    assert judge(frame).verdict == "INVALID"


def test_other_tokens_at_the_same_budget_fail():
    frame = cliff(per_bin=4)
    frame.loc[frame.index[frame["phase"] == "noise_floor"][0], "text"] = "something else"
    summary = judge(frame)
    assert summary.verdict == "FAIL"
    assert check(summary, "budget_1_repeats").seen.startswith("19 of 20")


def test_other_tokens_are_the_noise_of_an_engine_that_promises_no_others():
    frame = cliff(per_bin=4).assign(asked=lambda rows: rows["budget"])
    noisy = frame.index[frame["phase"] == "noise_floor"][:5]
    frame.loc[noisy, "text"] = "something else"
    frame.loc[noisy, "f1"] = 1 - frame.loc[noisy, "f1"]
    asked = Asked.of(KVBudgetTransitionParams(), stored(frame))
    assert asked.margin == 0.25, "5 of 20 scores differ by 1: no smaller drop counts"
    summary = summarize(frame, asked, deterministic=False)
    assert summary.verdict == "PASS"
    assert "(1.0 differs from itself by 0.250; no smaller drop counts)" in summary.headline
    assert summary.results["call_margin"] == 0.25
    assert Asked.of(KVBudgetTransitionParams(), stored(cliff().assign(asked=1.0))).margin == 0.05


def test_a_run_without_controls_says_so():
    summary = judge(cliff(per_bin=4, controls=False))
    assert summary.verdict == "PASS"
    assert (
        sum(
            "not answered a second time" in line or "No random policy" in line for line in summary.limitations
        )
        == 2
    )
    assert "latency_p50_by_bin" not in [figure.name for figure in summary.figures]


def test_a_partial_run_is_labelled():
    frame = cliff(per_bin=4)
    missing = frame[~((frame["budget"] == 0.2) & (frame["phase"] == "planned") & (frame["bin_idx"] == 4))]
    summary = judge(missing)
    assert summary.verdict == "INVALID"
    assert summary.headline.startswith("partial run: ")
    assert "56 of 60, 1 of 1 trials: a partial run" in check(summary, "all_planned_answered").seen
    whole = summarize(frame, params(), planned_answers=90)
    assert whole.headline.startswith("partial run: "), "examples of which nothing is there are missing, too"


def test_a_round_that_was_stopped_is_a_partial_run_and_no_part_of_the_fit():
    frame = cliff(per_bin=4, added=(0.75,))
    first = frame["example_id"].iloc[0]
    stopped = frame[(frame["phase"] != "added") | (frame["example_id"] == first)]
    summary = summarize(stopped, params(), trials=(21, 40))
    assert (summary.verdict, summary.headline[:12]) == ("INVALID", "partial run:")
    assert check(summary, "all_planned_answered").seen == "60 of 60, 21 of 40 trials: a partial run"
    assert (summary.results["location_below"], summary.results["location_above"]) == (0.5, 1.0)
    assert summarize(frame, params(), trials=(40, 40)).verdict == "PASS"


def test_a_collapse_of_failures_is_called_one():
    curves = {f"e{i:02d}": {1.0: 1.0, 0.5: 1.0, 0.2: None} for i in range(30)}
    summary = judge(answers(curves), n_bins=1)
    assert (summary.verdict, summary.results["call_outcome"]) == ("INVALID", "failures")
    assert "only where missing answers count as wrong" in summary.headline
    part = next(item for item in table(summary, "drop_parts") if item["budget"] == "0.2")
    assert (part["driven_by"], part["from_no_answer"]) == ("failures", 1.0)
    assert check(summary, "failures_do_not_decide").passed is False, (
        "with failures left out there is no transition"
    )
    assert {row["outcome"] for row in table(summary, "failure_treatments")} == {"transition", "underpowered"}


@pytest.mark.parametrize(
    ("frame", "changes"),
    [
        (cliff(per_bin=4, budgets=(1.0,)), {"budgets": [1.0]}),
        (cliff(n_bins=1), {"n_bins": 1}),
        (cliff(per_bin=1), {}),
        (cliff(n_bins=3, per_bin=5), {}),
        (answers({f"e{i:02d}": {1.0: None, 0.5: None, 0.2: None} for i in range(8)}), {}),
        (answers({"e00": {1.0: 1.0, 0.5: 0.0}}), {}),
        (answers({f"e{i:02d}": {0.5: 0.0} for i in range(8)}), {}),
        (cliff(per_bin=2).drop(columns=["latency_ms", "ttft_ms", "peak_memory_bytes", "cache_bytes", "prompt_tokens"]), {}),
        (cliff(per_bin=2).iloc[:0], {}),
    ],
    ids=["one budget", "one bin", "one a bin", "empty bins", "all failed", "one example", "no baseline", "no telemetry", "nothing"],
)  # fmt: skip
def test_what_little_there_is_gets_a_report(frame, changes):
    summary = judge(frame, draw=True, **changes)
    assert not summary.headline.startswith("transition") or "one" in str(changes) or len(frame) > 50
    stats = analyse(frame, params(**changes)).stats
    empty = stats[stats["n"] == 0]
    assert (empty["acc_ci_reason"] == "empty bin").all()
    assert empty["acc_mean"].isna().all(), "missing is not 0"


def test_one_budget_compares_nothing():
    summary = judge(cliff(per_bin=4, budgets=(1.0,)), budgets=[1.0])
    assert summary.headline.startswith("no transition was looked for")
    assert summary.verdict == "PASS"


def test_the_row_of_the_database_has_the_point_rules_names():
    row = summarize(cliff(), params()).results
    assert {
        "transition_budget",
        "pre_budget",
        "acc_pre",
        "acc_post",
        "drop",
        "method",
        "transition_bin_idx",
    } <= set(row)
    assert row["drop"] == pytest.approx(row["acc_pre"] - row["acc_post"])
    assert not any(isinstance(value, float) and np.isnan(value) for value in row.values())


def test_text_of_the_model_brings_no_markup_of_its_own():
    frame = cliff(per_bin=2)
    frame["text"] = "![x](http://elsewhere/p.png) | a\nb"
    summary = judge(frame)
    page = render.html("KV", summary, STORED, None, {})
    assert "<img" not in page.replace('<img src="" alt=', ""), "but for its own pictures, which are not there"
    assert "elsewhere/p.png" in page, "as text"


def test_nullable_columns_are_read_like_others():
    frame = cliff(n_bins=2, per_bin=4)
    frame.loc[3, ["f1", "em", "contains"]] = np.nan
    frame.loc[3, ["failed", "outcome"]] = [True, "TIMEOUT"]
    plain, nullable = (judge(item, n_bins=2) for item in (frame, frame.convert_dtypes()))
    assert plain == nullable


def test_only_the_query_mode_of_the_params_counts():
    frame = cliff(per_bin=4)
    other = frame.assign(query_mode="aware", f1=0.0)
    both = pd.concat([frame, other], ignore_index=True)
    assert summarize(both, params()).results == summarize(frame, params()).results


def test_one_latency_a_bin_is_a_point_and_no_median():
    frame = cliff(n_bins=3, per_bin=4)
    once = (frame["phase"] != "timed") | (frame["example_id"].str.endswith("00"))
    frame = frame[once]
    summary = judge(frame, n_bins=3)
    assert "latency_p50_by_bin" in [figure.name for figure in summary.figures]
    (section,) = [item for item in summary.sections if item.title == "Latency and memory"]
    assert section.paragraphs[0].startswith("9 latencies (timed pass), fewer than 5 for each budget")
    assert {row["latency_p50_ms"] for row in table(summary, "efficiency")} == {None}
    assert max(row["timed_n"] for row in table(summary, "efficiency")) == 3
    (axes,) = drawn(frame, "latency_p50_by_bin", n_bins=3).axes
    points = sorted(y for line in axes.lines for y in line.get_ydata())
    timed = frame.loc[frame["phase"] == "timed", "latency_ms"]
    assert points == sorted(timed), "each measurement, and no line of medians"
    assert max(points) <= axes.get_ylim()[1]


def test_enough_latencies_have_a_median_beside_their_points():
    frame = cliff(n_bins=1, per_bin=5)
    (axes,) = drawn(frame, "latency_p50_by_bin", n_bins=1).axes
    points = [y for line in axes.lines for y in line.get_ydata()]
    assert len(points) == 3 * (5 + 1)
    assert 502.0 in points, "of 500 to 504"


def test_no_latency_no_figure_and_the_reason_instead():
    frame = cliff(per_bin=4)
    summary = judge(frame[frame["phase"] != "timed"])
    assert "latency_p50_by_bin" not in [figure.name for figure in summary.figures]
    (section,) = [item for item in summary.sections if item.title == "Latency and memory"]
    assert "So there is no figure of it" in section.paragraphs[0]
