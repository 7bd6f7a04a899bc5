import pytest

from kvlab.laws.capacity import learn_capacity
from kvlab.laws.law import CacheLaw
from kvlab.laws.simulate import SimulatedCache
from kvlab.laws.simulated_server import SimulatedServer
from kvlab.laws.working_set import hit_share, survival_over_tokens


def learn(policy, units, grain=16, start=0, budget=40, **server):
    cache = SimulatedCache(CacheLaw(grain), units, policy, seed=3)
    law = CacheLaw(grain, shared_start_tokens=start)
    probe = SimulatedServer([cache], start, 4 if start else 0, **server)
    overhead = start + (4 if start else 0)
    return learn_capacity(
        probe, law, overhead_tokens=overhead, prompt_units=6, max_tokens=budget * units * grain
    )


@pytest.mark.parametrize(
    ("policy", "units", "start"),
    [("lru", 31, 35), ("leaf_first", 31, 35), ("lru_unhashed_first", 31, 35), ("fifo", 30, 0)],
)
def test_capacity_to_the_unit_and_policy(policy, units, start):
    found = learn(policy, units, start=start)
    assert (found.tokens_low, found.tokens_high, found.policy) == (units * 16, units * 16, policy)
    assert found.predicted == found.held_out > 20


def test_random_eviction_is_told_with_a_range_that_holds():
    found = learn("random", 60)
    assert found.policy == "random"
    assert found.tokens_low <= 60 * 16 <= found.tokens_high


@pytest.mark.parametrize("policy", ["lru", "lru_unhashed_first"])
def test_others_traffic_gives_a_bound_and_no_policy(policy):
    found = learn(policy, 40, foreign_rate=0.3, foreign_units=5)
    assert found.policy is None
    assert found.tokens_low <= 40 * 16
    assert found.tokens_high is None
    assert "others use the cache" in found.reason or "did not suffice" in found.reason


def test_a_budget_that_ends_before_the_limit_gives_a_lower_bound():
    found = learn("lru", 1000, budget=0.5)
    assert (found.policy, found.tokens_high) == (None, None)
    assert 0 < found.tokens_low <= 1000 * 16
    assert found.prompt_tokens <= 8000


def test_the_cliff_of_a_cycle():
    shares = {}
    for texts in (4, 6, 7):
        server = SimulatedServer([SimulatedCache(CacheLaw(16), 24, "lru")])
        for order in ("cycle", "random"):
            shares[order, texts] = hit_share(
                server, CacheLaw(16), prompt_tokens=65, texts=texts, order=order, visits=3 * texts, sets=3,
                first_text=100 * texts + (1000 if order == "random" else 0),
            )  # fmt: skip
    assert [shares["cycle", texts].share for texts in (4, 6, 7)] == [1.0, 1.0, 0.0]
    assert 0.5 < shares["random", 7].share < 1.0
    for one in shares.values():
        assert 0 <= one.low <= one.share <= one.high <= 1
        assert one.sets == 3


def test_survival_over_others_tokens():
    server = SimulatedServer([SimulatedCache(CacheLaw(16), 24, "lru")])
    found = survival_over_tokens(server, CacheLaw(16), prompt_tokens=65, others=(1, 5, 6), repeats=3)
    assert [(point.tokens, point.kept, point.n) for point in found] == [(65, 3, 3), (325, 3, 3), (390, 0, 3)]


def test_a_prompt_that_is_never_served_is_refused():
    with pytest.raises(ValueError, match="prompt_tokens"):
        hit_share(
            lambda spec: None, CacheLaw(128), prompt_tokens=100, texts=3, order="cycle", visits=3, sets=1
        )
