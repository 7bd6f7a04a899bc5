"""The fit on trials whose truth is known."""

import numpy as np
import pytest

from kvlab.experiments.batch_benchmark.extrapolate import Trial, predict, trend


def trials(draw, sizes, tau=0.1, overhead=2.0, scatter=0.05, between=0.0, window=10):
    found = []
    for size in sizes:
        own = tau * (1 + between * draw.standard_normal())
        windows = own * (1 + scatter * draw.standard_normal(max(2, size // window)))
        found.append(Trial(size, overhead + float(windows.mean()) * size, windows.tolist()))
    return found


def test_a_constant_rate_is_found_with_its_overhead():
    made = predict([Trial(100, 12.0, [0.1] * 10), Trial(200, 22.0, [0.1] * 20)], 1000, 0.95)
    assert made.seconds == pytest.approx(102.0)
    assert (made.low_s, made.high_s) == (pytest.approx(102.0), pytest.approx(102.0))


@pytest.mark.parametrize("between", [0.0, 0.05])
def test_the_interval_covers_a_further_trial_about_as_often_as_it_says(between):
    draw = np.random.default_rng(1)
    inside = 0
    for _ in range(300):
        made = predict(trials(draw, [100, 200, 400], between=between), 1000, 0.95)
        (new,) = trials(draw, [1000], between=between)
        inside += made.low_s <= new.total_s <= made.high_s
    assert inside / 300 > 0.88


def test_trials_that_differ_widen_the_interval():
    alike = predict([Trial(100, 10.0, [0.1, 0.11] * 5), Trial(200, 20.0, [0.1, 0.11] * 5)], 1000, 0.95)
    apart = predict([Trial(100, 10.0, [0.1, 0.11] * 5), Trial(200, 20.0, [0.2, 0.21] * 5)], 1000, 0.95)
    assert apart.high_s - apart.low_s > 10 * (alike.high_s - alike.low_s)


def test_neighbours_that_are_alike_count_for_less():
    up, down = [0.1] * 10 + [0.12] * 10, [0.1, 0.12] * 10
    slow = predict([Trial(200, 22.0, up)], 1000, 0.95)
    fast = predict([Trial(200, 22.0, down)], 1000, 0.95)
    assert slow.high_s - slow.low_s > 2 * (fast.high_s - fast.low_s)
    assert "one trial" in slow.reason


def test_without_a_steady_state_there_is_no_prediction_and_with_two_windows_no_interval():
    assert predict([Trial(8, 1.0, [])], 1000, 0.95) is None
    made = predict([Trial(8, 1.0, [0.1, 0.1])], 1000, 0.95)
    assert (made.low_s, made.high_s) == (None, None)
    assert "needs 3" in made.reason


def test_a_trend_is_told_from_scatter():
    draw = np.random.default_rng(2)
    rising = np.linspace(0.1, 0.13, 20) + 0.002 * draw.standard_normal(20)
    assert trend(rising.tolist()) == pytest.approx(0.26, abs=0.05)
    assert trend((0.1 + 0.01 * draw.standard_normal(20)).tolist()) is None
    assert trend(np.linspace(0.1, 0.105, 20).tolist()) is None, "real, but small"
    assert trend([0.1, 0.2]) is None
