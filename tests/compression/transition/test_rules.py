"""The point rule, and the next budget."""

import numpy as np
import pytest

from kvlab.compression.transition.point_rule import METHOD, point_rule
from kvlab.compression.transition.refine import next_budget

BUDGETS = np.array([1.0, 0.5, 0.2])
BINS = np.array([0, 0, 1, 1])


def rule(rows, threshold=0.1):
    return point_rule(BUDGETS, np.array(rows, dtype=float), BINS, threshold=threshold)


def test_the_first_step_that_is_large_enough():
    found = rule([[1, 1, 0], [1, 0.8, 0], [1, 1, 0], [1, 1, 0]])
    assert (found.transition_budget, found.pre_budget, found.method) == (0.2, 0.5, METHOD)
    assert (found.acc_pre, found.acc_post, found.drop) == (pytest.approx(0.95), 0, pytest.approx(0.95))
    assert found.transition_bin_idx == 1, "1.0 there, 0.9 in bin 0"


def test_a_step_of_exactly_the_threshold_counts():
    assert rule([[0.9, 0.8, 0.8]] * 4).transition_budget == 0.5
    assert rule([[0.9, 0.81, 0.72]] * 4).transition_budget is None, "two small steps are none"


def test_a_budget_without_answers_is_passed_over():
    found = rule([[1, np.nan, 0]] * 4)
    assert (found.transition_budget, found.pre_budget) == (0.2, 1.0)
    assert rule([[1, np.nan, np.nan]] * 4).transition_budget is None


def test_bisection_goes_where_the_curve_falls():
    curve = {1.0: 0.9, 0.5: 0.3, 0.2: 0.25}
    assert next_budget(curve, 5, 0.02) == 0.75
    assert next_budget(curve | {0.75: 0.85}, 4, 0.02) == 0.625
    assert next_budget(curve | {0.75: 0.35}, 4, 0.02) == 0.875


def test_bisection_ends():
    curve = {1.0: 0.9, 0.5: 0.3}
    assert next_budget(curve, 0, 0.02) is None
    assert next_budget(curve | {0.75: 0.5}, 1, 0.02, planned=2) is None
    assert next_budget(curve | {0.75: 0.5}, 2, 0.02, planned=2) == 0.875
    assert next_budget({1.0: 0.9, 0.97: 0.1}, 5, 0.02) is None, "closer than the gap"
    assert next_budget({1.0: 0.3, 0.5: 0.9}, 5, 0.02) is None, "nothing falls"
    assert next_budget({1.0: 0.9, 0.2: 0.1}, 5, 0.02, floor=0.7) is None
    assert next_budget({1.0: 0.9, 0.5: float("nan")}, 5, 0.02) is None
    assert next_budget({1.0: 0.9}, 5, 0.02) is None


def test_equal_falls_take_the_larger_budgets():
    assert next_budget({1.0: 1.0, 0.5: 0.5, 0.1: 0.0}, 5, 0.02) == 0.75
