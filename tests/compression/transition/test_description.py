"""Bins, flips, failures, controls, assertions, costs: small frames worked out by hand."""

import numpy as np
import pandas as pd
import pytest

from kvlab.compression.transition import collect
from kvlab.compression.transition.bins import bin_table, worst_bin
from kvlab.compression.transition.controls import Resampling, no_context, noise_floor, random_policy
from kvlab.compression.transition.efficiency import profile
from kvlab.compression.transition.failures import decompose, integrity
from kvlab.compression.transition.flips import flips
from kvlab.compression.transition.sanity import assertions, sample
from kvlab.stats.percentiles import percentile
from tests.compression.transition.synthetic import answers, cliff

HOW = {"confidence": 0.95, "seed": 1, "resamples": 300}


def test_a_bins_row_by_hand():
    frame = answers({"e1": {1.0: 1.0}, "e2": {1.0: 0.5}, "e3": {1.0: None}, "e4": {1.0: 0.0}})
    frame.loc[3, "outcome"] = "TRUNCATED"
    row = bin_table(frame, metric="f1", n_bins=2, **HOW).iloc[0]
    assert (row["n"], row["acc_mean"], row["fail_rate"], row["no_answer_rate"]) == (4, 0.375, 0.5, 0.25)
    assert row["acc_std"] == pytest.approx(np.std([1, 0.5, 0, 0]))
    assert pd.isna(row["acc_ci_low"])
    assert row["acc_ci_reason"] == "4 contexts: an interval needs 5"
    assert pd.isna(row["latency_p50_ms"])
    assert row["tokens_reason"] == "4 values: p50 needs 5"


def test_percentiles_have_a_floor():
    assert percentile(np.arange(20.0), 95) == (pytest.approx(18.05), None)
    assert percentile(np.arange(19.0), 95) == (None, "19 values: p95 needs 20")
    assert percentile(np.full(5, np.nan), 50) == (None, "no values")


def test_latency_is_that_of_the_timed_pass():
    table = bin_table(cliff(per_bin=5), metric="f1", n_bins=5, **HOW)
    row = table[(table["budget"] == 0.5) & (table["bin_idx"] == 1) & (table["phase"] == "planned")].iloc[0]
    assert (row["latency_p50_ms"], row["latency_source"]) == (532.0, "timed pass")


def test_the_worst_bin_gets_its_share():
    curves = {f"e{b}{i:02d}": {1.0: 1.0, 0.5: float(b == 0)} for b in range(2) for i in range(8)}
    frame = answers(curves)
    frame["bin_idx"] = frame["example_id"].str[1].astype(int)
    assert worst_bin(collect(frame, "f1"), 0.5, n_bins=3, seed=1, resamples=200) == [0.0, 1.0, None]
    same = answers({name: {1.0: 1.0, 0.5: 0.0} for name in curves})
    same["bin_idx"] = same["example_id"].str[1].astype(int)
    assert worst_bin(collect(same, "f1"), 0.5, n_bins=2, seed=1, resamples=200) == pytest.approx(
        [0.5, 0.5], abs=0.01
    )


def test_flips_both_ways_with_the_exact_test():
    curves = {f"e{i}": {1.0: 1.0, 0.5: 0.0} for i in range(5)} | {
        "e5": {1.0: 0.0, 0.5: 1.0},
        "e6": {1.0: 1.0, 0.5: 1.0},
    }
    found = flips(collect(answers(curves), "f1"), 1.0, 0.5)
    assert (found.n, found.right_to_wrong, found.wrong_to_right) == (7, 5, 1)
    assert found.p_value == pytest.approx(2 * 7 / 64)  # 0 or 1 heads of 6, both sides
    assert flips(collect(answers({"e1": {1.0: 1.0, 0.5: 1.0}}), "f1"), 1.0, 0.5).p_value is None


def test_the_parts_of_a_drop_add_up():
    frame = answers(
        {
            "e1": {1.0: 1.0, 0.5: None},
            "e2": {1.0: 1.0, 0.5: 0.0},
            "e3": {1.0: 1.0, 0.5: 0.4},
            "e4": {1.0: 1.0, 0.5: 1.0},
        }
    )
    frame.loc[(frame["example_id"] == "e2") & (frame["budget"] == 0.5), "outcome"] = "EMPTY_OUTPUT"
    part = decompose(collect(frame, "f1"), 0.5)
    assert (part.no_answer, part.broken, part.labelled, part.wrong) == (0.25, 0.25, 0, pytest.approx(0.15))
    assert part.drop == pytest.approx(0.65)
    assert part.driven_by == "failures"
    table = integrity(frame)
    assert (table.loc["ENGINE_ERROR", 0.5], table.loc["EMPTY_OUTPUT", 0.5], table.loc["none", 1.0]) == (
        0.25,
        0.25,
        1.0,
    )
    assert table.loc["n"].tolist() == [4, 4]


@pytest.mark.parametrize(
    ("label", "driver"),
    [("TRUNCATED", "wrong answers"), ("FORMAT_ERROR", "wrong answers"), ("REFUSAL", "failures"), ("DEGENERATE_REPETITION", "failures")],
)  # fmt: skip
def test_a_wrong_answer_that_was_cut_off_is_a_wrong_answer(label, driver):
    frame = answers({f"e{i:02d}": {1.0: 1.0, 0.5: 0.0} for i in range(15)})
    frame.loc[frame["budget"] == 0.5, "outcome"] = label
    part = decompose(collect(frame, "f1"), 0.5)
    assert part.driven_by == driver
    assert (part.broken, part.labelled, part.wrong) == ((1, 0, 0) if driver == "failures" else (0, 1, 0))


def test_controls_are_paired_with_the_policy():
    frame, how = cliff(), Resampling(0.95, 1, 300)
    noise = noise_floor(frame, "f1", how)
    assert (noise.n, noise.same, noise.absolute) == (60, 60, 0.0)
    beside = random_policy(frame, "f1", how)
    assert [item.budget for item in beside] == [0.5, 0.2]
    assert all(item.control == 0 and item.difference.estimate == item.policy for item in beside)
    without = no_context(frame, "f1", how)
    assert without.policy > 0.9 > 0.1 > without.control
    assert no_context(frame[frame["phase"] == "planned"], "f1", how) is None


def test_a_gain_at_a_smaller_budget_is_flagged():
    curves = {f"e{i:02d}": {1.0: 0.0 if i % 2 else 1.0, 0.5: 1.0} for i in range(30)}
    gain, failed, base = assertions(collect(answers(curves), "f1"), margin=0.05, alpha=0.05, seed=1)
    assert gain.passed is False
    assert "metric/task mismatch or prompt leakage" in gain.seen
    assert (failed.passed, base.passed) == (True, True)
    frame = cliff()
    held = [item.passed for item in assertions(collect(frame, "f1"), margin=0.05, alpha=0.05, seed=1)]
    assert held == [True, True, True], "what is cut off has answered"
    frame["outcome"] = frame["outcome"].replace("TRUNCATED", "EMPTY_OUTPUT")
    held = [item.passed for item in assertions(collect(frame, "f1"), margin=0.05, alpha=0.05, seed=1)]
    assert held == [True, False, True]


def test_the_sample_is_the_same_examples_at_every_budget():
    picked = sample(cliff(), seed=1)
    assert picked.groupby("budget")["example_id"].apply(tuple).nunique() == 1
    assert len(picked) == 30
    assert picked.equals(sample(cliff().sample(frac=1, random_state=2), seed=1))
    assert not picked["example_id"].equals(sample(cliff(), seed=2)["example_id"])


def test_the_cost_needs_both_prices():
    frame = cliff(per_bin=2)
    row = profile(frame, price_per_million_prompt_tokens=1.0, price_per_million_completion_tokens=2.0).iloc[0]
    assert row["cost_per_1000_answers"] == pytest.approx(1000 * (420 + 2 * 8) / 1e6)
    assert row["tokens_per_s_of_latency"] == pytest.approx(
        10 * 8 / (sum(500 + 100 * b + i for b in range(5) for i in (0, 1)) / 1e3)
    )
    assert profile(frame, price_per_million_prompt_tokens=1.0)["cost_per_1000_answers"].isna().all()
    bare = profile(frame.drop(columns=["latency_ms", "cache_bytes"]))
    assert bare[["latency_p50_ms", "cache_bytes_mean", "answers_per_min_of_latency"]].isna().all().all()
