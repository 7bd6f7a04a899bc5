import numpy as np
import pytest

from kvlab.stats.means import LEAST_N, increase_interval, mean_interval


def alone(values):
    return [[value] for value in values]


def test_the_same_seed_gives_the_same_interval():
    values = list(np.random.default_rng(0).normal(10, 1, size=30))
    assert mean_interval(alone(values), seed=1) == mean_interval(alone(values), seed=1)


@pytest.mark.parametrize("n", range(LEAST_N))
def test_below_the_floor_there_is_no_interval_and_a_reason(n):
    found = mean_interval(alone(range(1, n + 1)), seed=1)
    assert (found.low, found.high) == (None, None)
    assert found.reason


def test_equal_values_have_no_interval_instead_of_one_without_width():
    found = mean_interval(alone([0.5] * 12), seed=1)
    assert (found.estimate, found.low) == (0.5, None)
    assert "equal" in found.reason
    found = increase_interval([10.0] * 8, [15.0] * 8, seed=1, paired=True)
    assert (found.estimate, found.low) == (pytest.approx(50.0), None)


@pytest.mark.parametrize("draw", ["normal", "lognormal", "exponential"])
def test_it_covers_the_mean_of_seven_as_a_bootstrap_does_not(draw):
    rng, inside, of = np.random.default_rng(7), 0, 0
    worlds = {"normal": lambda: rng.normal(10, 1, 7), "lognormal": lambda: rng.lognormal(-0.5, 1, 7),
              "exponential": lambda: rng.exponential(1, 7)}  # fmt: skip
    truth = 10.0 if draw == "normal" else 1.0
    for i in range(150):
        found = mean_interval(alone(worlds[draw]()), seed=i)
        inside, of = inside + (found.low <= truth <= found.high), of + 1
    assert inside / of > 0.84, "90 %, less three standard errors"


def test_a_mean_over_clusters_weighs_values_and_needs_clusters():
    found = mean_interval([[1.0, 1.0, 1.0], [5.0], []], seed=1)
    assert (found.estimate, found.low, found.n) == (2.0, None, 2)
    assert "an interval needs" in found.reason
    assert mean_interval([], seed=1).estimate is None


def test_one_cluster_with_most_of_the_values_is_one_witness():
    draw = np.random.default_rng(1)
    clusters = [draw.normal(10, 1, 500).tolist(), *alone(draw.normal(10, 1, 11))]
    found = mean_interval(clusters, seed=1)
    assert found.low is None
    assert "12 clusters count for 1" in found.reason


def test_values_of_one_cluster_are_not_independent():
    draw, hits = np.random.default_rng(11), 0
    for i in range(100):
        clusters = [list(level + draw.normal(0, 0.1, 20)) for level in draw.normal(size=15)]
        found = mean_interval(clusters, seed=i)
        hits += found.low is None or found.low <= 0 <= found.high
    assert hits >= 90


def test_pairs_that_drift_together_have_a_narrower_interval_than_two_groups():
    draw = np.random.default_rng(3)
    base = [30.0, 10.0, 50.0, 20.0, 60.0, 40.0, 55.0, 15.0]
    other = [2 * value * noise for value, noise in zip(base, draw.lognormal(0, 0.01, 8), strict=True)]
    paired, apart = (increase_interval(base, other, seed=3, paired=how) for how in (True, False))
    assert 97 < paired.low < 100.5 < paired.high < 103
    assert apart.low < paired.low < paired.high < apart.high


def test_an_increase_of_too_few_values_has_no_interval():
    assert increase_interval([], [], seed=1, paired=True).estimate is None
    few = increase_interval([10.0] * 4, [20.0] * 4, seed=1, paired=True)
    assert (few.estimate, few.low, few.high) == (pytest.approx(100.0), None, None)
    assert "needs 7" in few.reason
