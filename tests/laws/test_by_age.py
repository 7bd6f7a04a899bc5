import random

import pytest

from kvlab.laws.by_age import Kept, capacity_interval, look_by_age, out_of_order
from kvlab.laws.law import CacheLaw
from kvlab.laws.pool import Pool
from kvlab.laws.simulate import SimulatedCache
from kvlab.laws.simulated_server import SimulatedServer


@pytest.mark.parametrize(
    ("there", "count"), [("..##", 0), ("##..", 2), ("####", 0), ("....", 0), (".#.#", 1)]
)
def test_texts_that_no_cut_by_age_explains(there, count):
    assert out_of_order([Kept(4 - i, one == "#") for i, one in enumerate(there)]) == count


@pytest.mark.parametrize(
    ("policy", "is_random"), [("random", True), ("lru", False), ("fifo", False), ("leaf_first", False)]
)
def test_random_eviction_is_told_from_age_under_others_traffic(policy, is_random):
    for seed in range(3):
        cache = SimulatedCache(CacheLaw(16), 60, policy, seed=seed)
        server = SimulatedServer([cache], foreign_rate=0.1, foreign_units=5, seed=seed)
        found = look_by_age(Pool(server, CacheLaw(16), 0, 10**7), 6, random.Random(seed))
        assert found.is_random == is_random


def test_the_size_of_a_random_cache_that_is_ours_alone():
    server = SimulatedServer([SimulatedCache(CacheLaw(16), 60, "random", seed=1)])
    found = look_by_age(Pool(server, CacheLaw(16), 0, 10**7), 6, random.Random(1))
    assert found.low_units <= 60 <= found.high_units


def test_the_interval_of_a_capacity_holds_the_truth():
    draw = random.Random(5)
    held = 0
    for _ in range(100):
        units = draw.randint(20, 400)
        after = [units * i // 8 + 1 for i in range(16)] * 3
        low, high = capacity_interval([Kept(d, draw.random() < (1 - 1 / units) ** d) for d in after])
        held += low <= units <= high
    assert held >= 96
