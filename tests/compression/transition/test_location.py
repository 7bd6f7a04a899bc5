import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import isotonic_regression

from kvlab.compression.transition import collect
from kvlab.compression.transition.location import bracket, interval, locate, monotone
from tests.compression.transition.synthetic import answers, cliff

BUDGETS = np.array([0.9, 0.7, 0.5, 0.2])
HOW = {"margin": 0.05, "confidence": 0.95, "seed": 1, "resamples": 1000}


@settings(max_examples=50, deadline=None)
@given(arrays(float, (3, 6), elements=st.floats(-1, 1)))
def test_the_fit_is_the_isotonic_regression(drops):
    expected = [np.maximum(isotonic_regression(row).x, 0) for row in drops]
    np.testing.assert_allclose(monotone(drops), expected, atol=1e-9)


def test_the_bracket_by_hand():
    drops = np.array([0.0, 0.1, 0.3, 0.4])
    assert bracket(drops, BUDGETS, "half", 0.05) == (0.5, 0.7), "half of 0.4 is passed between 0.7 and 0.5"
    assert bracket(drops, BUDGETS, "margin", 0.05) == (0.7, 0.9)
    assert bracket(np.array([0.3, 0.3, 0.3, 0.3]), BUDGETS, "half", 0.05) == (0.9, 1.0)
    assert bracket(np.full(4, 0.05), BUDGETS, "margin", 0.05) == (0.0, 0.2), "at the margin is not above it"


def test_added_budgets_narrow_the_interval():
    wide, narrow = (locate(collect(cliff(added=more), "f1"), **HOW) for more in ((), (0.9, 0.85, 0.75, 0.7)))
    assert (wide.low, wide.high) == (0.5, 1.0)
    assert narrow.low >= 0.7
    assert narrow.high <= 0.9
    assert narrow == locate(collect(cliff(added=(0.9, 0.85, 0.75, 0.7)), "f1"), **HOW)


def test_a_flat_curve_and_few_contexts_have_no_place():
    flat = locate(collect(cliff(at=-1.0), "f1"), **HOW)
    assert (flat.below, flat.above, flat.low, flat.high) == (None, None, 0.0, 1.0), (
        "half of nothing is nowhere"
    )
    few = locate(collect(answers({"e01": {1.0: 1.0, 0.5: 0.0}, "e02": {1.0: 1.0, 0.5: 0.0}}), "f1"), **HOW)
    assert (few.below, few.above, few.low, few.reason) == (0.5, 1.0, None, "2 contexts: an interval needs 5")


def test_the_first_loss_of_a_margin_is_covered_where_a_fit_would_not():
    """A curve that falls slowly: near the margin a fit is as often above as below it."""
    budgets = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.35, 0.2])
    truth = 0.3 * (0.95 - budgets)  # 0.05 is lost between 0.8 and 0.7
    draw, inside = np.random.default_rng(5), 0
    for _ in range(60):
        drops = (draw.random((7, 100)) < truth[:, None]).astype(float)
        low, high = interval(drops, np.arange(100), budgets, "margin", 0.05, 0.95, seed=1, draws=999)
        inside += low <= 0.783 <= high
    assert inside >= 55
