"""What makes an extrapolation unsound, and what a batch costs."""

import numpy as np
import pandas as pd
import pytest

from kvlab.experiments.batch_benchmark import leaks
from kvlab.experiments.batch_benchmark.findings import results
from kvlab.experiments.batch_benchmark.forecast import forecast
from kvlab.experiments.batch_benchmark.params import BatchBenchmarkParams
from kvlab.stats import steady
from kvlab.stats.steady import Steady
from tests.stats.test_steady import closed_loop

PARAMS = BatchBenchmarkParams(sizes=[100, 200, 400], strategies=["shared_prefix"])


def cell(size, tau=0.1, drift=0.0, memory=(100.0,) * 20, **changes):
    values = np.linspace(tau, tau * (1 + drift), 20) * (1 + 0.01 * np.tile([1, -1], 10))
    windows = pd.DataFrame({"s_per_request": values, "requests": max(1, size // 20)})
    used = {"baseline_bytes": memory[0], "end_bytes": memory[-1], "peak_bytes": max(memory), "total_bytes": None,
            "used_bytes": list(memory)}  # fmt: skip
    found = {
        "trial_id": f"shared_prefix.{size}", "strategy": "shared_prefix", "size": size, "state": "complete",
        "answered": size, "served": size, "failed": 0, "total_s": 2 + size * float(values.mean()), "steady": Steady(1.0, 9.0, 10.0, windows),
        "preemptions": 0.0, "evicted": 0, "memory": {"process_rss": used}, "prompt_tokens": 300 * size,
        "completion_tokens": 10 * size, "savings": 0.9,
    }  # fmt: skip
    return {**found, **changes}


def foretell(params=PARAMS, **largest):
    return forecast([cell(100), cell(200), cell(400, **largest)], params, "shared_prefix")


def test_a_sound_one_stands_and_is_checked():
    found = foretell()
    assert found["refused"] == []
    assert found["seconds"] == pytest.approx(17_002, rel=0.01)
    assert found["low_s"] < found["seconds"] < found["high_s"]
    assert abs(found["held_out"]["miss"]) < 0.02
    assert found["held_out"]["inside"]
    assert (found["prompt_tokens"], found["computed_tokens"]) == (51_000_000, pytest.approx(5_100_000))


@pytest.mark.parametrize(
    ("largest", "word"),
    [
        ({"preemptions": 3.0}, "preempted 3"),
        ({"evicted": 7}, "evicted"),
        ({"failed": 1}, "failed for good"),
        ({"tau": 0.15}, "outside of what the smaller ones predict"),
        ({"drift": 0.4}, "rises by"),
        ({"drift": 0.04}, "170,000, if it goes on, by"),
        ({"memory": tuple(np.linspace(100, 120, 20))}, "memory rises: process_rss by 8"),
    ],
)
def test_what_makes_it_unsound_is_named(largest, word):
    found = foretell(**largest)
    assert any(word in reason for reason in found["refused"]), found["refused"]
    assert "seconds" not in found


def test_a_constant_server_is_predicted_from_sizes_that_hold_few_rounds():
    """The default's sizes and concurrency: a request takes 2 s +- 1 %, whoever else is served."""
    cells = []
    for size in (100, 1000, 10_000):
        state = steady.find(closed_loop(size, 32, service_s=2.0, slow_first_s=2.0, scatter=0.01), 32)
        cells.append(cell(size, total_s=state.total_s, steady=state))
    found = forecast(cells, PARAMS, "shared_prefix")
    assert found["refused"] == []
    assert abs(found["held_out"]["miss"]) < 0.01
    assert found["seconds"] == pytest.approx(170_000 * 2 / 32, rel=0.01)


def test_memory_that_a_long_run_does_not_show_to_stay_refuses_too():
    near = PARAMS.model_copy(update={"target_requests": 800})
    creeping = tuple(100 + 0.04 * np.arange(60))
    assert foretell(near, memory=(100.0,) * 60)["refused"] == []
    refused = foretell(near, memory=creeping)["refused"]
    assert any("memory at 800 requests is not known: process_rss rises by" in reason for reason in refused)
    assert foretell(memory=creeping)["refused"] == [], "too far to say: the headline does"


def test_without_a_smaller_size_nothing_checks_it():
    found = forecast([cell(400)], PARAMS, "shared_prefix")
    assert "cannot be checked" in found["refused"][0]
    assert forecast([], PARAMS, "shared_prefix")["refused"] == ["no trial is complete"]


def test_the_cost_needs_prices_and_cached_tokens_may_have_their_own():
    assert foretell()["cost"] is None
    prices = {"price_per_million_prompt_tokens": 2.0, "price_per_million_completion_tokens": 10.0}
    assert foretell(PARAMS.model_copy(update=prices))["cost"] == pytest.approx(102 + 17)
    prices["price_per_million_cached_tokens"] = 0.5
    assert foretell(PARAMS.model_copy(update=prices))["cost"] == pytest.approx(10.2 + 22.95 + 17)
    assert foretell(PARAMS.model_copy(update=prices), savings=None)["cost"] is None


def test_a_strategy_without_a_steady_state_is_refused_from_the_start():
    assert "all requests are sent at once" in forecast([], PARAMS, "concurrent_start")["refused"][0]
    assert results([], [], leaks.at_target([], PARAMS), PARAMS)["requests_planned"] == 0
