import numpy as np
import pandas as pd
import pytest

from benchmarks.detector import DENSE, World, cliffs, false_alarms, tables
from kvlab.compression.transition import collect
from kvlab.compression.transition.detect import call, call_bins
from kvlab.compression.transition.drop import p_holds
from kvlab.compression.transition.failures import by_treatment, decide_call
from tests.compression.transition.synthetic import answers, cliff

RULE = {"margin": 0.05, "alpha": 0.05, "seed": 1}


def run(drop_at, n=30):
    """Return scores that are 1 down to a budget and 0 in a share of the examples below."""
    curves = {}
    for i in range(n):
        curves[f"e{i:02d}"] = {b: float(not (i % 2 and b <= drop_at)) for b in (1.0, 0.8, 0.5, 0.2)}
    return collect(answers(curves), "f1")


@pytest.mark.parametrize("place", [0.8, 0.5, 0.2])
def test_the_sequence_reaches_the_largest_budget_that_falls(place):
    found = call(run(place), **RULE)
    assert (found.outcome, found.fails_at) == ("transition", place)


def test_what_holds_is_said_only_where_it_is_shown():
    assert call(run(0.2, n=30), **RULE).holds_at == 1.0, "thirty answers without a change show too little"
    assert call(run(0.2, n=100), **RULE).holds_at == 0.5
    assert call(run(0.0, n=100), **RULE).outcome == "no transition"
    assert call(run(0.0, n=30), **RULE).outcome == "underpowered"
    assert call(run(0.0).columns(np.array([True, False, False, False])), **RULE).outcome == "not tested"


def test_added_budgets_change_no_call():
    frame = cliff(added=(0.75, 0.9, 0.3))
    with_them = call(collect(frame, "f1"), **RULE)
    assert with_them == call(collect(frame[frame["phase"] != "added"], "f1"), **RULE)


def test_a_failure_at_the_smallest_budget_does_not_hide_the_rest():
    curves = {f"e{i:02d}": {1.0: 1.0, 0.5: 0.0 if i % 2 else 1.0, 0.2: None} for i in range(30)}
    scores = collect(answers(curves), "f1")
    assert call(scores, **RULE).fails_at == 0.5
    assert call(scores, treatment="missing", **RULE).fails_at == 0.5, "it begins where something is known"


def test_a_drop_of_failures_alone_is_no_transition():
    curves = {f"e{i:02d}": {1.0: 1.0, 0.5: 1.0, 0.2: None if i % 3 else 1.0} for i in range(60)}
    scores = collect(answers(curves), "f1")
    found = call(scores, **RULE)
    assert (found.outcome, found.fails_at) == ("failures", None)
    calls = by_treatment(scores, **RULE)
    assert {name: made.outcome for name, made in calls.items()} == {
        "zero": "transition", "missing": "underpowered", "worst": "transition", "best": "underpowered",
    }  # fmt: skip
    assert decide_call(calls)


def test_what_failures_count_as_may_change_a_budget_and_not_the_outcome():
    curves = {
        f"e{i:02d}": {1.0: 1.0, 0.5: None if i % 2 else 1.0, 0.2: 0.0 if i % 2 else 1.0} for i in range(60)
    }
    calls = by_treatment(collect(answers(curves), "f1"), **RULE)
    assert calls["zero"].fails_at == 0.5
    assert calls["missing"].fails_at == 0.2
    assert decide_call(calls)
    whole = by_treatment(run(0.5), **RULE)
    assert not decide_call(whole)


def test_missing_answers_do_not_show_that_nothing_fell():
    """A hundred answers hold; ten of them are missing at the budget, and might all have been wrong."""
    curves = {f"e{i:03d}": {1.0: 1.0, 0.5: None if i < 10 else 1.0} for i in range(110)}
    scores = collect(answers(curves), "f1")
    assert call(scores, treatment="missing", **RULE).outcome == "no transition"
    assert call(scores, **RULE).outcome != "no transition"


def test_a_curve_that_comes_back_is_named():
    curves = {f"e{i:02d}": {1.0: 1.0, 0.5: float(i % 9 < 2), 0.2: 1.0} for i in range(60)}
    found = call(collect(answers(curves), "f1"), **RULE)
    assert (found.outcome, found.also_falls_at, found.fails_at) == ("not monotone", (0.5,), None)
    assert call(run(0.5), **RULE).also_falls_at == ()


def test_unequal_contexts_make_no_false_claim():
    """One context has most of the examples; in truth a share of the margin falls, so 'no transition' is false."""
    draw = np.random.default_rng(4)
    sizes = np.array([200, *[4] * 40])
    claims = 0
    for _ in range(60):
        falls = draw.random(len(sizes)) < 0.05
        rows = [(c, float(not falls[c])) for c in range(len(sizes)) for _ in range(sizes[c])]
        drops = np.array([1 - score for _, score in rows])
        p = p_holds(drops[None], np.array([c for c, _ in rows]), 0.05, seed=1, draws=999)
        claims += p[0] <= 0.025
    assert claims / 60 <= 0.05


def test_only_the_bin_that_falls_is_called():
    parts = []
    for b in range(3):
        curves = {f"e{b}{i:02d}": {1.0: 1.0, 0.5: float(b != 2 or i % 3 == 0)} for i in range(20)}
        parts += answers(curves, bin_idx=b).to_dict("records")
    found = call_bins(collect(pd.DataFrame(parts), "f1"), n_bins=4, **RULE)
    assert [item.falls for item in found] == [False, False, True, False]
    assert [item.fails_at for item in found] == [None, None, 0.5, None]
    assert found[3].drop.n == 0
    assert found[2].p_adjusted == pytest.approx(4 * found[2].drop.p_exceeds)


@pytest.mark.parametrize(
    ("kind", "mean", "sd"), [("beta", 0.6, 0.35), ("binary", 0.72, 0.45), ("clustered", 0.72, 0.45)]
)
def test_false_alarms_are_rare_even_at_the_margin(kind, mean, sd):
    """5 % of 200 are 10; 20 are more than four standard errors above. `benchmarks.detector` has the fine table."""
    null, edge = (false_alarms(World(kind, mean, sd), 20, DENSE, fall, 200, seed=5) for fall in (0.0, 0.05))
    assert null["either"]["rate"] <= 0.05
    assert edge["either"]["rate"] <= 0.10
    assert null["point_rule"]["rate"] > null["either"]["rate"], "what the calibration is for"


def test_large_cliffs_are_found_and_located():
    found = cliffs(World("beta", 0.6, 0.35), 20, DENSE, 0, 0.4, 40, seed=5, draws=500)
    assert found["power"]["rate"] >= 0.95
    assert found["coverage"]["rate"] >= 0.85
    added = cliffs(World("paired", 0.933, 0.25), 20, np.array([1.0, 0.5, 0.2]), 4, 0.4, 40, seed=5, draws=500)
    assert added["coverage"]["rate"] >= 0.85
    assert added["width_median"] < 0.1, "bisection narrows the gap of 0.3 to 0.5"
    assert [table.row_count for table in tables({"false_alarms": [], "cliffs": [found, added]})] == [0, 2]
