import numpy as np
import pytest
from scipy import stats

from kvlab.stats.slopes import slope_interval


@pytest.mark.parametrize("kind", ["independent", "adds up", "in steps"])
def test_the_slope_is_covered_whatever_the_noise_does(kind):
    draw, inside, least_squares = np.random.default_rng(1), 0, 0
    for _ in range(200):
        x = np.cumsum(draw.uniform(50, 150, 15))
        noise = draw.normal(0, 30, 15)
        y = {"independent": 5 * x + noise, "adds up": 5 * x + np.cumsum(noise),
             "in steps": 900 * np.floor((5 * x + draw.uniform(0, 900)) / 900)}[kind]  # fmt: skip
        found = slope_interval(x, y)
        inside += found.low <= 5 <= found.high
        line = stats.linregress(x, y)
        least_squares += abs(line.slope - 5) <= stats.t.ppf(0.975, 13) * line.stderr
    assert inside / 200 >= 0.9
    if kind == "adds up":
        assert least_squares / 200 < 0.7


def test_too_few_points_are_no_line_and_an_exact_one_has_no_noise():
    assert slope_interval([1, 2, 3], [1, 2, 3]).low is None
    found = slope_interval([1, 2, 3, 4, 5], [7, 9, 11, 13, 15])
    assert (found.estimate, found.low, found.high) == pytest.approx((2, 2, 2))
