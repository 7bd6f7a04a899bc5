"""The fit on trials whose truth is known."""

import numpy as np
import pytest

from kvlab.stats.extrapolate import TrialRate, fit_trend, predict, trend


def trials(draw, sizes, tau=0.1, overhead=2.0, scatter=0.05, between=0.0, window=4):
    """Trials as a smoke run has them: windows of 4, and no window in the first and the last round."""
    found = []
    for size in sizes:
        own = tau * (1 + between * draw.standard_normal())
        windows = own * (1 + scatter * draw.standard_normal(max(2, size // window - 2)))
        found.append(TrialRate(size, overhead + float(windows.mean()) * size, windows.tolist(), window))
    return found


def further_s(draw, size, tau=0.1, overhead=2.0, scatter=0.05, between=0.0, window=4):
    """Time of one more such trial; of many windows, only their mean counts."""
    mean = 1 + scatter * draw.standard_normal() / (size / window) ** 0.5
    return overhead + size * tau * (1 + between * draw.standard_normal()) * mean


def test_a_constant_rate_is_found_with_its_overhead():
    made = predict([TrialRate(100, 12.0, [0.1] * 10), TrialRate(200, 22.0, [0.1] * 20)], 1000, 0.95)
    assert made.seconds == pytest.approx(102.0)
    assert (made.low_s, made.high_s) == (pytest.approx(102.0), pytest.approx(102.0))


def test_a_window_weighs_as_many_requests_as_it_holds():
    made = predict([TrialRate(8, 0.9, [0.2, 0.2], 1), TrialRate(80, 4.0, [0.1, 0.1], 9)], 1000, 0.95)
    assert made.seconds == pytest.approx(1000 * 0.11 + (0.9 - 1.6 + 4.0 - 8.0) / 2)


@pytest.mark.parametrize("between", [0.0, 0.05, 0.1])
@pytest.mark.parametrize(("sizes", "target"), [([16, 32], 64), ([16, 32, 64], 170_000)])
def test_the_interval_covers_a_further_trial_as_often_as_it_says(sizes, target, between):
    draw = np.random.default_rng(1)
    inside = 0
    for _ in range(1000):
        made = predict(trials(draw, sizes, between=between), target, 0.95)
        inside += made.low_s <= further_s(draw, target, between=between) <= made.high_s
    assert inside / 1000 > 0.93 - 2 * 0.008, "0.93, within the error of a thousand draws"


def test_trials_that_differ_widen_the_interval():
    alike = predict(
        [TrialRate(100, 10.0, [0.1, 0.11] * 5), TrialRate(200, 20.0, [0.1, 0.11] * 5)], 1000, 0.95
    )
    apart = predict(
        [TrialRate(100, 10.0, [0.1, 0.11] * 5), TrialRate(200, 20.0, [0.2, 0.21] * 5)], 1000, 0.95
    )
    assert apart.high_s - apart.low_s > 10 * (alike.high_s - alike.low_s)


def test_neighbours_that_are_alike_count_for_less():
    up, down = [0.1] * 10 + [0.12] * 10, [0.1, 0.12] * 10
    slow = predict([TrialRate(200, 22.0, up)] * 2, 1000, 0.95)
    fast = predict([TrialRate(200, 22.0, down)] * 2, 1000, 0.95)
    assert slow.high_s - slow.low_s > 2 * (fast.high_s - fast.low_s)


def test_one_trial_has_no_interval_for_it_says_nothing_of_how_trials_differ():
    made = predict([TrialRate(200, 22.0, [0.1, 0.11] * 10)], 1000, 0.95)
    assert (made.low_s, made.trials) == (None, 1)
    assert "how much trials differ is not known" in made.reason
    two = predict([TrialRate(200, 22.0, [0.1, 0.11] * 10)] * 2, 1000, 0.95).interval
    assert two.made_by.endswith("n = 2 trials")
    assert two.label == "95 % if the rate stays what it was"


def test_without_a_steady_state_there_is_no_prediction():
    assert predict([TrialRate(8, 1.0, [])], 1000, 0.95) is None


def wandering(draw, n, rho):
    noise = np.empty(n)
    noise[0] = draw.standard_normal()
    for k in range(1, n):
        noise[k] = rho * noise[k - 1] + (1 - rho**2) ** 0.5 * draw.standard_normal()
    return (0.1 * (1 + 0.05 * noise)).tolist()


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.8])
@pytest.mark.parametrize("n", [8, 20, 60])
def test_a_series_that_wanders_has_no_trend(n, rho):
    draw = np.random.default_rng(3)
    assert sum(trend(wandering(draw, n, rho)) is not None for _ in range(200)) / 200 <= 0.1


def test_a_small_trend_is_certain_all_the_same():
    draw = np.random.default_rng(4)
    seen = [
        trend((0.1 * (1 + 0.08 * np.linspace(0, 1, 20) + 0.01 * draw.standard_normal(20))).tolist())
        for _ in range(50)
    ]
    assert sum(change is not None for change in seen) >= 48
    assert fit_trend([0.1, 0.2]) is None
    exact = fit_trend([1.0, 1.01, 1.02, 1.03, 1.04, 1.05])
    assert (exact.change, exact.p_value) == (pytest.approx(0.05 / 1.025), 0.0)
    assert exact.at(17) == pytest.approx(17 * exact.change)


def test_a_trend_is_told_from_scatter():
    draw = np.random.default_rng(2)
    rising = np.linspace(0.1, 0.13, 20) + 0.002 * draw.standard_normal(20)
    assert trend(rising.tolist()) == pytest.approx(0.26, abs=0.05)
    assert trend((0.1 + 0.01 * draw.standard_normal(20)).tolist()) is None
    small = np.linspace(0.1, 0.105, 20).tolist()
    assert trend(small) == pytest.approx(0.05, abs=0.002)
    assert trend(small, least_change=0.1) is None, "real, but small"
    assert trend([0.1, 0.2]) is None
