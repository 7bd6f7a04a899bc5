from collections import Counter

import numpy as np
import pytest

from kvlab.laws.law import CacheLaw
from kvlab.laws.probe import Answer
from kvlab.laws.replicas import judge, learn_replicas
from kvlab.laws.sharing import Block, by_evidence, by_times, learn_sharing, power
from kvlab.laws.simulate import SimulatedCache
from kvlab.laws.simulated_server import SimulatedServer

LAW = CacheLaw(16)


def server(replicas=1, **options):
    return SimulatedServer([SimulatedCache(LAW) for _ in range(replicas)], 5, 3, **options)


@pytest.mark.parametrize(("isolated", "verdict"), [(False, "shared"), (True, "isolated")])
@pytest.mark.parametrize("law", [LAW, None])
def test_sharing_by_evidence_takes_three_blocks(isolated, verdict, law):
    probe = server(isolated=isolated)
    found = learn_sharing(probe, law, tenants=("a", "b"), prompt_tokens=100, overhead_tokens=8)
    assert (found.verdict, found.by, found.requests) == (verdict, "cached tokens", 15)
    assert (found.positive_control, found.negative_control) == (True, True)
    assert len(probe.log) == 15


def answers(cross, same, fresh):
    return [Block(Answer(100, cross), Answer(100, same), Answer(100, fresh))] * 3


@pytest.mark.parametrize(
    ("read", "reason"),
    [
        ((0, 0, 0), "no positive control"),
        ((96, 96, 96), "no negative control"),
        ((48, 96, 0), "served in 0 of 3 blocks"),
    ],
)
def test_without_both_controls_sharing_is_unknown(read, reason):
    found = by_evidence(answers(*read), LAW, 100)
    assert found.verdict == "unknown"
    assert reason in found.reason


def timed(rng, shared, effect, spread):
    def time(mean, drift):
        return Answer(None, None, ttft_ms=float(drift * mean * np.exp(rng.normal(0, spread))))

    drifts = np.exp(rng.normal(0, 0.3, 12))
    return [Block(time(1 if shared else effect, d), time(1, d), time(effect, d)) for d in drifts]


@pytest.mark.parametrize("shared", [True, False])
def test_times_alone_find_a_large_effect_and_claim_nothing_without_one(shared):
    rng = np.random.default_rng(1)
    verdict, other = ("shared", "isolated") if shared else ("isolated", "shared")
    large = Counter(by_times(timed(rng, shared, 4.5, 0.1)).verdict for _ in range(60))
    assert large[verdict] >= 58
    assert large[other] == 0
    none = Counter(by_times(timed(rng, shared, 1.0, 0.1)).verdict for _ in range(60))
    assert none["unknown"] >= 59


def test_times_say_their_error_rate_and_need_enough_blocks():
    rng = np.random.default_rng(1)
    blocks = timed(rng, True, 4.5, 0.1)
    found = by_times(blocks)
    assert found.false_alarms_at_most == 0.01
    assert found.p_shared < 0.005
    assert found.cross_share == pytest.approx(1, abs=0.2)
    assert by_times(blocks[:7]).verdict == "unknown"
    assert "8" in by_times(blocks[:7]).reason


def test_times_alone_are_used_where_the_server_says_nothing():
    found = learn_sharing(
        server(says_cached=False), LAW, tenants=("a", "b"), prompt_tokens=100, overhead_tokens=8
    )
    assert (found.by, found.verdict) == ("times", "unknown")


def test_power_grows_with_the_effect():
    assert power(4.5, 0.1, simulations=50) > 0.95 > power(1.05, 0.3, simulations=50)


@pytest.mark.parametrize("replicas", [2, 3])
def test_replicas_in_turns_are_counted(replicas):
    found = learn_replicas(server(replicas), LAW, prompt_tokens=100, overhead_tokens=8, prompts=8)
    assert (found.number, found.routing) == (replicas, "round_robin")


def test_replicas_at_random_are_counted_with_an_error():
    right = 0
    for seed in range(20):
        probe = server(2, routing="random", seed=seed)
        found = learn_replicas(probe, LAW, prompt_tokens=100, overhead_tokens=8, prompts=6, times=12)
        assert found.at_least <= 2
        assert found.routing in ("random", "unknown")
        right += found.number == 2
    assert right >= 19


def test_sticky_routing_shows_one_place_and_no_number():
    probe = server(3, routing="sticky")
    found = learn_replicas(probe, LAW, prompt_tokens=100, overhead_tokens=8)
    assert (found.at_least, found.number, found.routing) == (1, None, "sticky")
    several = learn_replicas(
        probe,
        LAW,
        prompt_tokens=100,
        overhead_tokens=8,
        tenants=("a", "b", "c", "d"),
        times=12,
        first_text=50,
    )
    assert several.at_least > 1


def test_prompts_that_stay_cold_say_nothing_about_replicas():
    found = judge(["....", "...."])
    assert (found.number, found.routing) == (None, "unknown")
