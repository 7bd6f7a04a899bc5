"""Memory that goes on rising, told from a server that warms up."""

import numpy as np
import pytest

from kvlab.experiments.batch_benchmark import leaks
from kvlab.experiments.batch_benchmark.params import BatchBenchmarkParams

PARAMS = BatchBenchmarkParams(sizes=[100, 1000])  # max_memory_rise 0.05


def cell(size, used):
    usage = {"baseline_bytes": used[0], "end_bytes": used[-1], "used_bytes": list(used)}
    return {"trial_id": f"t.{size}", "size": size, "memory": {"process_rss": usage}}


def flat(size, level):
    return cell(size, [level] * 20)


def test_a_rise_that_goes_on_within_a_trial_is_a_leak():
    assert leaks.rising([cell(1000, np.linspace(100, 120, 40))], PARAMS).at_target == [
        "process_rss by 8.5% within the later half of t.1000: at 170,000 requests, if it goes on, by 2878%"
    ]


def test_a_small_rise_is_a_leak_where_the_target_is_far():
    used = 100 + 4 * np.linspace(0, 1, 40) + 0.1 * np.random.default_rng(1).standard_normal(40)
    near = PARAMS.model_copy(update={"target_requests": 10_000})
    assert leaks.rising([cell(10_000, used)], near).at_target == []
    assert "at 170,000 requests" in leaks.rising([cell(10_000, used)], PARAMS).at_target[0]
    trials = [flat(10_000, 100 + 0.7 * k) for k in range(8)]
    assert "over 8 trials" in leaks.rising(trials, PARAMS).at_target[0]


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
    assert leaks.rising([cell(1000, used)], PARAMS) == ([], [])


def test_a_rise_from_trial_to_trial_is_a_leak():
    trials = [flat(100, 100), *(flat(1000, level) for level in (104, 108, 112))]
    assert leaks.rising(trials, PARAMS).measured == ["process_rss by 12% over the trials of 1,000 requests"]


#: What a healthy vLLM took on a CPU in three smoke runs, in MiB after each trial: six percent and less in all.
SMOKE = [
    [4750, 4752, 4752, 4771, 4790, 4791, 4826, 4826, 4867, 4874, 4922, 4939],
    [4745, 4748, 4749, 4749, 4759, 4788, 4835, 4835, 4878, 4883, 4951, 5010],
    [4869, 4875, 4875, 4936, 4940, 4941, 5004, 5004, 5005, 5006, 5043, 5087],
]


@pytest.mark.parametrize("levels", [*SMOKE, [100] * 4 + [108, 120] + [130] * 6, [100] * 10 + [110, 110]])
def test_warm_up_and_one_new_high_are_healthy(levels):
    trials = [flat(size, level) for size, level in zip([16] * 4 + [32] * 4 + [64] * 4, levels, strict=True)]
    assert leaks.rising(trials, PARAMS) == ([], [])


def test_without_memory_or_trials_there_is_nothing_to_say():
    assert leaks.rising([], PARAMS) == ([], [])
    assert leaks.rising([{**flat(100, 1), "memory": {}}], PARAMS) == ([], [])


def test_what_a_short_trial_shows_is_not_carried_on_without_end():
    """A healthy vLLM rose by 0.3 % within the later half of 64 requests; that says nothing of 170,000."""
    warming = np.linspace(5000, 5030, 40)
    assert leaks.rising([cell(64, warming)], PARAMS) == ([], [])
    leaking = leaks.rising([cell(64, np.linspace(100, 120, 40))], PARAMS)
    assert leaking == (["process_rss by 8.5% within the later half of t.64"], [])
