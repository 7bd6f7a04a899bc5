"""Memory: what was measured of it, and what is known of it at the target."""

import numpy as np
import pytest

from kvlab.experiments.batch_benchmark import criteria, leaks
from kvlab.experiments.batch_benchmark.params import BatchBenchmarkParams
from kvlab.findings import Verdict, judge

PARAMS = BatchBenchmarkParams(sizes=[100, 1000])  # max_memory_rise 0.05, target 170,000
NEAR = PARAMS.model_copy(update={"target_requests": 2000})


def cell(size, used, series="process_rss", total=None):
    usage = {
        "baseline_bytes": used[0], "peak_bytes": max(used), "end_bytes": used[-1], "used_bytes": list(used),
        "total_bytes": total,
    }  # fmt: skip
    return {"trial_id": f"t.{size}", "size": size, "memory": {series: usage}}


def flat(size, level):
    return cell(size, [level] * 40)


def test_a_rise_within_a_trial_of_the_largest_size_was_measured():
    assert leaks.measured([cell(1000, np.linspace(100, 120, 40))], PARAMS) == [
        "process_rss by 8.5% within the later half of t.1000"
    ]
    assert leaks.measured([cell(100, np.linspace(100, 120, 40)), flat(1000, 120)], PARAMS) == []


@pytest.mark.parametrize(
    "used",
    [
        100 + 20 * (1 - np.exp(-np.arange(40) / 5)),  # allocators fill up
        np.repeat([100.0, 120.0], 20),  # a new high, once
        100 + 3 * np.sin(np.arange(40)),
        np.linspace(100, 100.1, 40),
    ],
)
def test_a_server_that_warms_up_is_healthy(used):
    assert leaks.measured([cell(1000, used)], PARAMS) == []


def test_a_rise_from_trial_to_trial_is_a_leak():
    trials = [flat(100, 100), *(flat(1000, level) for level in (104, 108, 112))]
    assert leaks.measured(trials, PARAMS) == ["process_rss by 12% over the trials of 1,000 requests"]


#: What a healthy vLLM took on a CPU in three smoke runs, in MiB after each trial: six percent and less in all.
SMOKE = [
    [4750, 4752, 4752, 4771, 4790, 4791, 4826, 4826, 4867, 4874, 4922, 4939],
    [4745, 4748, 4749, 4749, 4759, 4788, 4835, 4835, 4878, 4883, 4951, 5010],
    [4869, 4875, 4875, 4936, 4940, 4941, 5004, 5004, 5005, 5006, 5043, 5087],
]


def smoke(levels):
    return [flat(size, level) for size, level in zip([16] * 4 + [32] * 4 + [64] * 4, levels, strict=True)]


@pytest.mark.parametrize("levels", [*SMOKE, [100] * 4 + [108, 120] + [130] * 6, [100] * 10 + [110, 110]])
def test_warm_up_and_one_new_high_are_healthy(levels):
    assert leaks.measured(smoke(levels), PARAMS) == []


def test_without_memory_or_trials_nothing_is_known():
    for found in ([], [{**flat(100, 1), "memory": {}}]):
        assert leaks.measured(found, PARAMS) == []
        assert leaks.at_target(found, PARAMS) == (None, "memory cannot be seen from here", None, 0, False)


@pytest.mark.parametrize("levels", [*SMOKE, [100] * 12])
def test_a_short_run_does_not_say_what_a_long_one_would_meet(levels):
    """However level it was: of 170,000 requests, 224 know nothing; the bound is none, and not 0."""
    known = leaks.at_target(smoke(levels), PARAMS)
    assert (known.is_level, known.rise_at_most, known.enough) == (None, None, False)
    assert "from 224 to 560" in known.reason
    assert "a run of 136,000 requests could tell" in known.reason
    check = criteria.memory_at_target(known, PARAMS)
    assert (check.passed, check.optional) == (None, True)
    assert check.seen.startswith("not known: ")


def test_a_level_memory_is_carried_on_as_far_as_the_run_allows():
    known = leaks.at_target([flat(1000, 100), flat(1000, 100)], NEAR)
    assert known == (True, None, 0.0, 1000, True)
    beyond = NEAR.model_copy(update={"target_requests": 2501})
    assert leaks.at_target([flat(1000, 100), flat(1000, 100)], beyond).is_level is None
    assert leaks.at_target([flat(1000, 100), flat(1000, 100)], NEAR).as_json()["rise_at_most"] == 0.0


@pytest.mark.parametrize(
    ("used", "why"),
    [
        (
            100 + 4 * np.linspace(0, 1, 60),
            "rises by 1.8% in the run's later half",
        ),  # a little, at every request
        (100 + 0.25 * np.repeat(np.arange(24), 10), "rises by"),  # in steps
        (100 + 4 * np.linspace(0, 1, 240) ** 2, "may rise by"),  # ever faster
        (100 + 3 * np.sin(np.arange(60) / 4), "may rise by"),
        (np.repeat([120.0, 100.0], [45, 15]), "fell by more than 5%"),  # it was restarted
    ],
)
def test_a_long_run_must_show_that_memory_stays(used, why):
    known = leaks.at_target([cell(2000, used)], NEAR)
    assert known.is_level is None
    assert known.enough
    assert why in known.reason
    good = criteria.complete([{"trial_id": "t", "size": 1, "state": "complete"}], 0)
    verdict, reasons = judge([good, criteria.memory_at_target(known, NEAR)])
    assert verdict is Verdict.INVALID
    assert why in reasons[0]


def test_the_worst_of_all_series_counts_and_the_limit_does():
    level = cell(2000, [100] * 60, "nvml_process_0")
    level["memory"] |= cell(2000, np.linspace(100, 110, 60))["memory"]
    assert "process_rss" in leaks.at_target([level], NEAR).reason
    full = leaks.at_target([cell(2000, 100 + 0.001 * np.arange(60), total=100.06)], NEAR)
    assert "may pass its limit" in full.reason


def test_what_was_measured_is_judged_whatever_is_known_of_the_target():
    over = PARAMS.model_copy(update={"memory_limit_bytes": 50})
    assert criteria.memory([flat(1000, 100)], over).passed is False
    assert criteria.memory([flat(1000, 100)], PARAMS).passed is True
    few = criteria.memory([cell(1000, [100, 100, 100])] * 2, PARAMS)
    assert (few.passed, few.optional) == (None, True)
    assert "too few looks" in few.seen
    assert criteria.memory([cell(1000, [100, 100, 100])] * 3, PARAMS).passed is True
    unseen = criteria.memory([{**flat(100, 1), "memory": {}}], PARAMS)
    assert (unseen.passed, unseen.optional) == (None, True)


def test_looks_are_spread_over_requests_whatever_time_they_took():
    """A slow trial has many looks at few requests: they count as few."""
    slow, fast = cell(100, np.linspace(100, 101, 900)), cell(1000, [101] * 50)
    values, stretch = leaks.later_half("process_rss", [slow, fast])
    assert stretch == 550
    assert set(values) == {101.0}
    few = leaks.at_target([cell(100, [1, 2, 3])], PARAMS.model_copy(update={"target_requests": 100}))
    assert "2 looks at it" in few.reason
    assert not few.enough
