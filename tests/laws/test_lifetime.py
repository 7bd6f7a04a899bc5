import pytest

from kvlab.laws.law import CacheLaw
from kvlab.laws.lifetime import learn_lifetime, price
from kvlab.laws.simulate import SimulatedCache
from kvlab.laws.simulated_server import SimulatedServer


def learn(ttl, renewed=True, limit=3600, **server):
    probe = SimulatedServer([SimulatedCache(CacheLaw(64), None, "lru", ttl, renewed)], **server)
    return learn_lifetime(
        probe, CacheLaw(64), prompt_tokens=257, limit_s=limit, now=lambda: probe.now_s, sleep=probe.sleep
    )


@pytest.mark.parametrize("ttl", [1.5, 30, 300, 1799])
@pytest.mark.parametrize("renewed", [True, False])
def test_a_lifetime_lies_in_its_interval(ttl, renewed):
    found = learn(ttl, renewed)
    assert found.ttl_s_low <= ttl <= found.ttl_s_high
    assert found.ttl_s_high - found.ttl_s_low <= 0.1 * found.ttl_s_low
    assert found.renewed_by_use in (renewed, None)


def test_a_lifetime_in_spite_of_losses():
    for seed in range(20):
        found = learn(200, loss_rate=0.03, seed=seed)
        assert found.ttl_s_low <= 200 <= found.ttl_s_high


def test_nothing_lost_is_at_least_the_limit():
    found = learn(None, limit=600)
    assert (found.ttl_s_low, found.ttl_s_high) == (600, None)
    assert found.renewed_by_use is None
    assert found.reason == "nothing was lost within 600 s"


def test_the_curve_counts_every_prompt():
    found = learn(100)
    assert sum(point.n for point in found.curve) * 2 <= found.requests
    assert all(0 <= point.kept <= point.n for point in found.curve)
    assert [point.wait_s for point in found.curve] == sorted(point.wait_s for point in found.curve)


def test_without_a_positive_control_nothing_is_said():
    found = learn(0.0)
    assert (found.ttl_s_low, found.ttl_s_high, found.survived_s) == (0.0, None, 0.0)
    assert "no lifetime can be seen" in found.reason


def test_prompts_that_are_never_served_are_refused():
    with pytest.raises(ValueError, match="prompt_tokens"):
        learn_lifetime(None, CacheLaw(512), prompt_tokens=257, limit_s=9, now=lambda: 0, sleep=lambda s: None)


@pytest.mark.parametrize("ttl", [1.5, 30, 300, 1799, None])
def test_the_price_bounds_requests_and_time(ttl):
    probe = SimulatedServer([SimulatedCache(CacheLaw(64), None, "lru", ttl)])
    found = learn_lifetime(
        probe, CacheLaw(64), prompt_tokens=257, limit_s=2000, now=lambda: probe.now_s, sleep=probe.sleep
    )
    requests, seconds = price(2000)
    assert found.requests <= requests
    assert probe.now_s <= seconds
