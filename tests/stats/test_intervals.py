import numpy as np
import pytest

from kvlab.stats.intervals import (
    MIN_BOOTSTRAP_N,
    bootstrap_increase,
    bootstrap_mean,
    bootstrap_median,
)


def test_the_same_seed_gives_the_same_interval():
    values = list(np.random.default_rng(0).normal(size=30))
    assert bootstrap_median(values, seed=1) == bootstrap_median(values, seed=1)


@pytest.mark.parametrize("n", range(MIN_BOOTSTRAP_N))
def test_below_the_floor_there_is_no_interval_and_a_reason(n):
    interval = bootstrap_median([0.5] * n, seed=1)
    assert (interval.low, interval.high) == (None, None)
    assert interval.reason
    assert interval.estimate == (0.5 if n else None)


def test_equal_values_have_a_point_for_an_interval():
    interval = bootstrap_median([0.5] * 8, seed=1)
    assert (interval.low, interval.high) == (0.5, 0.5)


def test_it_covers_the_median_about_as_often_as_it_says():
    draw = np.random.default_rng(7)
    hits = 0
    for i in range(200):
        interval = bootstrap_median(list(draw.normal(size=25)), seed=i, resamples=500)
        assert interval.low is not None
        assert interval.high is not None
        hits += interval.low <= 0 <= interval.high
    # 95 % nominal; the standard error of 200 draws is 1.5 points, the bootstrap of a median errs a little
    assert hits / 200 > 0.88


def test_the_increase_of_a_mean_has_its_sign_and_an_interval():
    found = bootstrap_increase([10.0] * 6, [15.0] * 6, seed=1, paired=True)
    assert (found.estimate, found.low, found.high, found.n) == (50.0, 50.0, 50.0, 6)
    assert bootstrap_increase([10.0] * 5, [5.0] * 5, seed=1, paired=False).estimate == -50.0


def test_pairs_that_drift_together_have_a_narrower_interval_than_two_groups():
    base = [10.0, 20.0, 30.0, 40.0, 50.0, 60.0]
    other = [2 * value for value in base]
    paired, apart = (bootstrap_increase(base, other, seed=3, paired=how) for how in (True, False))
    assert (paired.low, paired.high) == (100.0, 100.0)
    assert apart.low < 100.0 < apart.high
    assert apart == bootstrap_increase(base, other, seed=3, paired=False)


def test_an_increase_of_too_few_values_has_no_interval():
    assert bootstrap_increase([], [], seed=1, paired=True).estimate is None
    few = bootstrap_increase([10.0] * 4, [20.0] * 4, seed=1, paired=True)
    assert (few.estimate, few.low, few.high) == (100.0, None, None)
    assert few.reason


def test_a_mean_over_clusters_covers_it_about_as_often_as_it_says():
    """Values of a cluster go up and down together: an interval over single values would be far too narrow."""
    draw, hits, narrow = np.random.default_rng(11), 0, 0
    for i in range(200):
        clusters = [list(level + draw.normal(0, 0.1, 20)) for level in draw.normal(size=15)]
        interval = bootstrap_mean(clusters, seed=i, resamples=500)
        hits += interval.low <= 0 <= interval.high
        alone = bootstrap_mean([[value] for cluster in clusters for value in cluster], seed=i, resamples=500)
        narrow += alone.low <= 0 <= alone.high
    assert 0.87 <= hits / 200 <= 0.98
    assert narrow / 200 < 0.6


def test_a_mean_over_clusters_weighs_values_and_needs_clusters():
    found = bootstrap_mean([[1.0, 1.0, 1.0], [5.0], []], seed=1)
    assert (found.estimate, found.low, found.n) == (2.0, None, 2)
    assert "an interval needs" in found.reason
    assert bootstrap_mean([], seed=1).estimate is None
    clusters = [[1.0, 2.0], [3.0], [2.0, 2.0], [1.0], [4.0]]
    assert bootstrap_mean(clusters, seed=1) == bootstrap_mean(clusters, seed=1)
