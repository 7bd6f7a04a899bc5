import pytest

from kvlab.experiments.prefix_hit_miss import estimate
from tests.experiments.prefix_hit_miss.synthetic import (
    EXPERIMENT,
    data,
    decided,
    frame,
    judge,
    params,
    scattered,
)


def table(summary, name):
    return next(item for item in summary.tables if item.name == name)


def test_pass_says_which_figure_to_believe_and_why():
    summary = decided()
    assert summary.verdict == "PASS"
    first = summary.reasons[0]
    assert first.startswith("Believe the verified figure: as written, 6 of 6 misses read from the cache")
    assert first.count(".") == 1, "one sentence"
    held = {check.name: check.passed for check in summary.checks}
    assert held.pop("as_written_misses_are_misses") is False
    assert set(held.values()) <= {True, None}
    assert any("6 of 6 did" in check.seen for check in summary.checks)


def test_both_figures_side_by_side_with_their_sign():
    found = judge().results["configs"]["a64_b48"]
    assert found["as_written_ttft_degradation_pct"]["estimate"] == pytest.approx(-19.84, abs=0.1)
    assert found["verified_ttft_degradation_pct"]["estimate"] == pytest.approx(297.4, abs=1)
    assert found["verified_same_length_ttft_degradation_pct"]["estimate"] == pytest.approx(892, abs=2)
    difference = found["verified_same_length_difference_ms"]
    assert (difference["estimate"], difference["low"], difference["n"]) == (450.0, None, 5)
    assert "5 pairs" in difference["reason"]
    difference = decided().results["configs"]["a64_b48"]["verified_same_length_difference_ms"]
    assert 449.9 < difference["low"] < difference["high"] < 450.1
    assert difference["method"].endswith("order statistics of the median, n = 6 pairs")
    rows = table(judge(), "degradation").rows
    assert [row[2:4] + row[-1:] for row in rows] == [
        ["as_written", "miss", "5 of 5"],
        ["verified", "miss", "0 of 5"],
        ["verified", "miss_same_length", "0 of 5"],
    ]


def test_a_miss_that_is_not_slower_fails():
    summary = decided(times={"hit": 50.0, "miss": 50.0, "miss_same_length": 40.0})
    assert summary.verdict == "FAIL"
    assert "same length" in summary.reasons[1]


def test_an_interval_that_holds_0_is_underpowered():
    slow = {"m02": 700.0, "m03": 700.0}

    def scatter(row):
        late = row["trial_id"][-3:] in slow and row["arm"] == "hit/ttft" and "verified" in row["trial_id"]
        return {**row, "ttft_ms": 700.0} if late else row

    summary = judge(change=scatter)
    assert summary.verdict == "INVALID"
    assert any("underpowered" in reason for reason in summary.reasons)


def test_too_few_trials_are_underpowered():
    assert judge(params(num_trials=3)).verdict == "INVALID"


@pytest.mark.parametrize("kind", ["ttft", "throughput", "prime_ttft", "prime_throughput"])
def test_a_verified_trial_counts_only_if_all_its_states_are_proven(kind):
    """A cached token in the measured miss, or in what prepared it, leaves the trial out."""

    def contaminate(row):
        mine = "verified.miss.m03" in row["trial_id"] and row["arm"].endswith(f"/{kind}")
        return {**row, "cached_tokens": 16, "cache_state": "partial"} if mine else row

    summary = judge(change=contaminate)
    assert (summary.results["verified_proven"], summary.results["verified_planned"]) == (14, 15)
    assert any("1 of 15 verified trials are left out" in reason for reason in summary.reasons)


def test_a_hit_that_read_more_than_its_prefix_is_not_proven():
    def feed(row):
        mine = "verified.hit.m03" in row["trial_id"] and row["arm"] == "hit/ttft"
        return {**row, "cached_tokens": 128} if mine else row

    assert judge(change=feed).results["verified_proven"] == 14


@pytest.mark.parametrize("state", ["unverified", "hit"])
def test_without_proven_states_neither_figure_is_to_be_believed(state):
    def change(row):
        mine = "verified" in row["trial_id"] and "miss" in row["arm"]
        return (
            {**row, "cache_state": state, "cached_tokens": None if state == "unverified" else 16}
            if mine
            else row
        )

    summary = judge(change=change)
    assert summary.verdict == "INVALID"
    assert summary.reasons[0].startswith("Believe neither figure")


def test_clean_as_written_misses_are_not_flagged():
    def clean(row):
        mine = "as_written.miss" in row["trial_id"]
        return {**row, "cached_tokens": 0, "cache_state": "cold"} if mine else scattered(row)

    summary = decided(change=clean)
    assert [c.passed for c in summary.checks if c.name == "as_written_misses_are_misses"] == [True]
    assert "read nothing from the cache either" in summary.reasons[0]


def test_the_share_of_equal_answers_is_reported():
    def differ(row):
        mine = "verified.hit.m03" in row["trial_id"] and row["arm"] == "hit/reference"
        return {**row, "completion_token_ids": "[7, 8, 1, 2]"} if mine else row

    summary = judge(change=differ)
    assert table(summary, "greedy_agreement").rows == [[64, 48, 5, 4, 0.8, 0.9]]
    assert any("1 of 5 answers after a hit differ" in line for line in summary.limitations)


def test_a_reference_that_was_not_cold_compares_nothing():
    def warm(row):
        return {**row, "cached_tokens": 112} if row["arm"] == "hit/reference" else row

    summary = judge(change=warm)
    assert summary.results["greedy_compared"] == 0
    assert table(summary, "greedy_agreement").rows == []


def test_a_refused_reset_is_counted():
    summary = judge(change=lambda row: {**row, "cache_reset": False} if row["cache_reset"] else row)
    assert summary.results["resets_confirmed"] == 0
    assert any("resets were refused" in reason for reason in summary.reasons)


def test_the_engines_view_is_beside_ours():
    row = table(judge(), "engine_view").rows[0]
    assert row[:4] == [64, 48, "as_written", "hit"]
    assert row[4] - row[5] == row[6] == 2


@pytest.mark.parametrize("procedures", [["as_written"], ["verified"]])
def test_one_arm_alone(procedures):
    chosen = params(procedures=procedures, num_trials=6)
    summary = decided(chosen)
    assert summary.verdict == ("PASS" if procedures == ["verified"] else "INVALID")
    assert [item.name for item in summary.tables] == [item.name for item in judge().tables], (
        "for the notebook"
    )
    assert [picture.draw() for picture in EXPERIMENT.findings(data(chosen), chosen).pictures]


def test_nothing_measured_is_no_answer_and_no_crash():
    chosen = params()
    empty = frame(chosen).iloc[:0]
    found = EXPERIMENT.findings(data(chosen, None, found=empty), chosen)
    assert (found.verdict, found.results["trials_complete"]) == ("INVALID", 0)
    assert [picture.draw() for picture in found.pictures]
    assert found.files == {}


def test_a_discarded_trial_is_in_no_statistic():
    chosen = params()

    def slow(row):
        return {**row, "ttft_ms": 9999.0} if ".w01" in row["trial_id"] and row["ttft_ms"] else row

    found = estimate.table_of(frame(chosen, change=slow), chosen)
    assert found[found["discarded"]]["ttft_ms"].max() == 9999
    assert max(estimate.values(found)) < 600
