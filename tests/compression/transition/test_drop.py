import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from kvlab.compression.transition.drop import (
    clustered_mean,
    drop_at,
    holm,
    leading,
    p_exceeds,
    p_holds,
)

RULE = {"margin": 0.05, "confidence": 0.95, "seed": 1}
floats = st.lists(st.floats(-1, 1, width=16), min_size=6, max_size=12)


@settings(max_examples=30, deadline=None)
@given(floats, st.randoms(use_true_random=False))
def test_the_order_of_the_examples_changes_nothing(values, random):
    values = np.array(values)
    if np.ptp(values) < 0.01:
        return
    alone = np.arange(len(values))
    found = clustered_mean(values, alone)
    assert found.error == pytest.approx(stats.sem(values))
    random.shuffle(order := list(range(len(values))))
    moved = clustered_mean(values[order], alone)
    assert (moved.mean, moved.error) == (pytest.approx(found.mean), pytest.approx(found.error))


def test_the_same_answer_twice_is_known_once():
    values = np.array([0.0, 0.2, 0.4, 0.1, 0.9, 0.3])
    once = clustered_mean(values, np.arange(6))
    twice = clustered_mean(np.repeat(values, 2), np.repeat(np.arange(6), 2))
    assert (twice.mean, twice.error, twice.clusters, twice.n) == (
        pytest.approx(once.mean),
        pytest.approx(once.error),
        6,
        12,
    )
    apart = clustered_mean(np.repeat(values, 2), np.arange(12))
    assert apart.error < 0.75 * once.error


def test_missing_pairs_are_left_out():
    values = np.array([0.2, np.nan, 0.4, 0.6, np.nan, 0.8, 0.1])
    kept = ~np.isnan(values)
    found = clustered_mean(values, np.arange(7))
    known = clustered_mean(values[kept], np.arange(7)[kept])
    assert [float(x) for x in found] == [float(x) for x in known]


def test_few_contexts_that_all_fall_cannot_be_certain():
    """A t-test of equal values would say p = 0; a context that gains may not have been among k of them."""
    for k in (2, 3, 5, 8):
        assert p_exceeds(np.ones((1, k)), np.arange(k), 0.05, seed=1)[0] == pytest.approx(0.525**k, abs=0.015)


def test_of_zeros_and_ones_it_is_the_exact_binomial_test():
    values = np.array([1.0] * 7 + [0.0] * 33)
    exact = stats.binom.sf(6, 40, 0.05)
    found = p_exceeds(values[None], np.arange(40), 0.05, seed=1, least=0.0)[0]
    assert found == pytest.approx(exact, abs=0.002)
    assert found == p_exceeds(values[None], np.arange(40), 0.05, seed=1, least=0.0)[0]


def test_what_few_contexts_have_not_shown_calls_no_drop():
    """97 of 100 lose a little more than the margin and three gain much: the mean drop is the margin exactly."""
    draw = np.random.default_rng(2)
    drops = np.where(draw.random((300, 20)) < 0.97, 0.08, -0.92)
    assert (p_exceeds(drops, np.arange(20), 0.05, seed=1, draws=999) <= 0.025).mean() == 0


def test_a_context_with_most_of_the_examples_is_one_witness():
    sizes = np.array([60] + [3] * 11)
    clusters = np.repeat(np.arange(12), sizes)
    big_one_falls = (clusters == 0).astype(float)
    assert clustered_mean(big_one_falls, clusters).mean > 0.6
    assert p_exceeds(big_one_falls[None], clusters, 0.05, seed=1)[0] > 0.2
    assert p_holds(1 - big_one_falls[None], clusters, 0.9, seed=1)[0] > 0.1


def test_twenty_answers_without_a_change_do_not_show_that_none_would():
    assert p_holds(np.zeros(20), np.arange(20), 0.05)[0] > 0.1
    exact = 0.95**100
    assert p_holds(np.zeros(100), np.arange(100), 0.05)[0] == pytest.approx(exact, abs=0.002)


def test_a_drop_has_an_interval_or_a_reason():
    few = drop_at(0.5, np.array([0.1, 0.2, 0.3]), np.arange(3), **RULE)
    assert (few.low, few.reason) == (None, "3 contexts: an interval needs 5")
    equal = drop_at(0.5, np.zeros(9), np.arange(9), **RULE)
    assert equal.estimate == 0.0
    assert equal.low == -equal.high == pytest.approx(-(1 - 0.025 ** (1 / 9)), abs=0.02), "the rule of three"
    none = drop_at(0.5, np.full(9, np.nan), np.arange(9), **RULE)
    assert (none.estimate, none.n, none.p_exceeds, none.p_holds) == (None, 0, 1.0, 1.0)
    values = np.array([0.1, 0.3, 0.2, 0.6, 0.4, 0.2])
    found = drop_at(0.5, values, np.arange(6), **RULE)
    narrow = stats.t.interval(0.95, 5, values.mean(), stats.sem(values))
    assert found.low < narrow[0] < narrow[1] < found.high
    assert found.method


def test_holm_by_hand():
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03, np.nan])), [0.04, 0.09, 0.09, 1.0])
    assert holm(np.array([[0.5, 0.6]])).tolist() == [[1.0, 1.0]]


def test_a_sequence_ends_at_the_first_that_is_not_rejected():
    assert leading(np.array([[True, False, True], [False, True, True], [True, True, True]])).tolist() == [
        1,
        0,
        3,
    ]
