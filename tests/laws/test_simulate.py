import pytest

from kvlab.laws.law import CacheLaw
from kvlab.laws.simulate import POLICIES, SimulatedCache


def prompt(text, units, more=1):
    return [text * 1000 + i for i in range(units * 4 + more)]


@pytest.mark.parametrize("policy", POLICIES)
def test_no_policy_holds_more_than_the_capacity_or_loses_what_fits(policy):
    cache = SimulatedCache(CacheLaw(4), 10, policy)
    for text in range(30):
        cache.ask(prompt(text, 3))
        assert len(cache) <= 10
    assert cache.ask(prompt(29, 3)).cached_tokens == 12


def test_by_use_or_by_age_of_storing():
    read = {}
    for policy in ("lru", "fifo"):
        cache = SimulatedCache(CacheLaw(4), 6, policy)
        for text in (1, 2, 1, 3):
            cache.ask(prompt(text, 2))
        cache.ask(prompt(4, 1))
        read[policy] = cache.ask(prompt(1, 2)).cached_tokens
    assert read == {"lru": 8, "fifo": 0}


def test_a_chain_loses_its_tail_or_its_head_first():
    read = {}
    for policy in ("lru", "leaf_first"):
        cache = SimulatedCache(CacheLaw(4), 8, policy)
        cache.ask(prompt(1, 6))
        cache.ask(prompt(2, 4))
        read[policy] = cache.ask(prompt(1, 6)).cached_tokens
    assert read == {"lru": 0, "leaf_first": 16}


def test_the_end_of_a_prompt_takes_a_block_while_it_runs():
    for more, cached in ((0, 16), (1, 12)):
        cache = SimulatedCache(CacheLaw(4), 8, "lru_unhashed_first")
        cache.ask(prompt(1, 4))
        cache.ask(prompt(2, 4, more))
        assert cache.ask(prompt(1, 4)).cached_tokens == cached - (not more) * 4 + (not more) * 4


def test_roots_share_nothing():
    cache = SimulatedCache(CacheLaw(4))
    cache.ask(prompt(1, 4), root="a")
    assert cache.ask(prompt(1, 4), root="b").cached_tokens == 0
    assert cache.ask(prompt(1, 4), root="a").cached_tokens == 16


@pytest.mark.parametrize(("renewed", "cached"), [(True, 16), (False, 0)])
def test_units_expire(renewed, cached):
    cache = SimulatedCache(CacheLaw(4), ttl_s=10, renewed_by_use=renewed)
    cache.ask(prompt(1, 4), now_s=0)
    assert cache.ask(prompt(1, 4), now_s=6).cached_tokens == 16
    assert cache.ask(prompt(1, 4), now_s=12).cached_tokens == cached
    assert cache.ask(prompt(1, 4), now_s=40).cached_tokens == 0


def test_a_copy_goes_its_own_way():
    cache = SimulatedCache(CacheLaw(4), 8)
    cache.ask(prompt(1, 4))
    other = cache.copy()
    other.ask(prompt(2, 8))
    assert cache.ask(prompt(1, 4)).cached_tokens == 16
    assert other.ask(prompt(1, 4)).cached_tokens == 0


def test_an_unknown_policy_is_refused():
    with pytest.raises(ValueError, match="most_recent"):
        SimulatedCache(CacheLaw(4), policy="most_recent")
