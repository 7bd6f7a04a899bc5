import numpy as np
import pytest

from kvlab.stats import decide
from kvlab.stats.rates import rate_change


def trial(draw, tau=0.1, windows=15, rho=0.0, between=0.0):
    own = tau * np.exp(between * draw.standard_normal())
    noise = np.empty(windows)
    noise[0] = draw.standard_normal()
    for k in range(1, windows):
        noise[k] = rho * noise[k - 1] + (1 - rho**2) ** 0.5 * draw.standard_normal()
    return (own * np.exp(0.05 * noise)).tolist()


@pytest.mark.parametrize("rho", [0.0, 0.5])
def test_equal_rates_are_rarely_told_apart(rho):
    draw = np.random.default_rng(1)
    calls = [decide(rate_change([trial(draw, rho=rho)], [trial(draw, rho=rho)]), 0.0) for _ in range(200)]
    assert calls.count("undecided") >= 0.88 * 200


def test_of_three_trials_a_side_the_trial_is_the_unit():
    draw, inside = np.random.default_rng(2), 0
    for _ in range(150):
        sides = [[trial(draw, rho=0.8, between=0.1) for _ in range(3)] for _ in range(2)]
        found = rate_change(*sides)
        inside += found.low <= 0 <= found.high
    assert (found.unit, found.n, found.assumes) == ("trials", 3, None)
    assert inside >= 0.9 * 150


def test_a_fall_by_a_third_is_found():
    draw = np.random.default_rng(3)
    found = rate_change([trial(draw, 0.1)], [trial(draw, 0.15)])
    assert found.high < -0.25
    assert "do not differ" in found.assumes


def test_windows_that_only_wander_are_too_few():
    slow = np.linspace(0.1, 0.12, 12).tolist()
    found = rate_change([slow], [slow[::-1]])
    assert found.low is None
    assert "count for" in found.reason
    assert rate_change([], [[0.1]]).reason == "no windows"
    assert rate_change([[0.1] * 9], [[0.1] * 9]).reason == "all windows are equal"
