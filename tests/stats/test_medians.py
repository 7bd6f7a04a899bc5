import numpy as np
import pytest
from scipy import stats

from kvlab.stats import decide
from kvlab.stats.medians import least_n, median_interval
from kvlab.stats.serial import effective_n, lag1


@pytest.mark.parametrize(("confidence", "n"), [(0.9, 5), (0.95, 6), (0.99, 8)])
def test_the_fewest_values_are_those_whose_extremes_suffice(confidence, n):
    assert least_n(confidence) == n
    values = [3.0, 1.0, 4.0, 2.0, 9.0, 5.0, 8.0, 6.0][:n]
    found = median_interval(values, confidence=confidence)
    assert (found.low, found.high) == (min(values), max(values))
    few = median_interval(values[:-1], confidence=confidence)
    assert (few.low, few.n) == (None, n - 1)
    assert f"needs {n}" in few.reason


def test_the_ends_are_the_binomial_order_statistics():
    values = [float(1 + 7 * k % 25) for k in range(25)]
    assert lag1(values) < 0
    found = median_interval(values)
    rank = int(stats.binom.ppf(0.025, 25, 0.5))
    assert (found.low, found.high) == (rank, 26 - rank)
    assert 1 - 2 * stats.binom.cdf(rank - 1, 25, 0.5) >= 0.95


def test_equal_values_have_no_interval_and_tied_ends_go_out():
    found = median_interval([1.0] * 20)
    assert (found.estimate, found.low) == (1.0, None)
    assert "all 20 pairs are equal" in found.reason
    tied = median_interval([5.0, 4.0, 5.0, 6.0] * 2 + [5.0] * 12)
    assert (tied.low, tied.high) == (4.0, 6.0)


def test_neighbours_that_are_alike_count_for_less():
    draw = np.random.default_rng(2)
    walk = np.linspace(0, 3, 30) + 0.3 * draw.standard_normal(30)
    assert lag1(walk.tolist()) > 0.5
    assert effective_n(walk.tolist()) < 10
    found = median_interval(walk.tolist())
    free = median_interval(draw.permutation(walk).tolist())
    assert found.low is None or found.high - found.low > free.high - free.low
    assert effective_n(draw.standard_normal(30).tolist()) > 12


def test_few_pairs_say_what_they_take_for_granted_and_many_need_not():
    draw = np.random.default_rng(3)
    few, many = (median_interval(draw.standard_normal(n).tolist()) for n in (7, 80))
    assert few.label == "95 % if neighbouring pairs do not depend on each other"
    assert many.label == "95 %"


@pytest.mark.parametrize("n", [6, 10, 20])
def test_a_true_saving_at_the_margin_is_called_a_failure_in_at_most_one_of_forty(n):
    """Judged by the median alone it is called one in half of all runs."""
    draw = np.random.default_rng(4)
    calls = [decide(median_interval((0.2 + draw.standard_t(3, n)).tolist()), 0.2) for _ in range(400)]
    assert calls.count("below") / 400 <= 0.025 + 0.02
    assert calls.count("above") / 400 <= 0.025 + 0.02
