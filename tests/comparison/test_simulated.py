"""The simulations of the benchmark, small: what they claim of the rules holds here, too."""

import numpy as np

from benchmarks import comparison


def test_looking_after_every_block_costs_the_bets_nothing_and_a_t_test_much():
    rng = np.random.default_rng(3)
    worlds = [comparison.draw(rng, 80, 0.0, 0.15, "normal") for _ in range(60)]
    alarms = [comparison.bets(pairs, 80)[0] in ("faster", "slower") for pairs in worlds]
    assert sum(alarms) <= 6
    looked = [
        comparison.peeking(comparison.paired, pairs, 80)[0] in ("faster", "slower") for pairs in worlds[:30]
    ]
    assert sum(looked) >= 4


def test_a_true_difference_is_called_in_its_direction():
    rng = np.random.default_rng(4)
    for effect, word in ((0.2, "slower"), (-0.17, "faster")):
        said = [comparison.bets(comparison.draw(rng, 100, effect, 0.15, "t3"))[0] for _ in range(20)]
        assert said.count(word) >= 18


def test_an_interval_over_starts_covers_where_one_over_pairs_does_not():
    rows = {(row["starts"], row["interval"]): row["covered"]["rate"] for row in comparison.coverage(150)}
    assert rows[3, "over starts"] > 0.87
    assert rows[3, "over pairs"] < 0.85
    assert rows[1, "over starts"] is None


def test_the_same_seed_gives_the_same_table():
    assert comparison.coverage(20) == comparison.coverage(20)
