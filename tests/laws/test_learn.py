from dataclasses import replace

import pytest

from benchmarks import laws as hidden
from kvlab.laws.causes import common_prefix
from kvlab.laws.law import CacheLaw
from kvlab.laws.learn import learn_law, price
from kvlab.laws.probe import Answer, token_ids
from kvlab.laws.simulate import SimulatedCache
from kvlab.laws.simulated_server import SimulatedServer

KNOWN = [
    (CacheLaw(16), 3, 5),
    (CacheLaw(32), 0, 0),
    (CacheLaw(1), 24, 8),
    (CacheLaw(128, 1024, 0), 4, 6),
    (CacheLaw(64, 1024), 0, 7),
    (CacheLaw(256, tail_grain_tokens=16), 0, 0),
    (CacheLaw(256, tail_grain_tokens=1), 0, 0),
    (CacheLaw(528, grains_off=1), 20, 5),
    (CacheLaw(2144, grains_off=1), 0, 0),
    (CacheLaw(8320), 20, 5),
    (CacheLaw(16, always_computed_tokens=5), 37, 5),
    (CacheLaw(16, cap_tokens=512), 3, 3),
]


def learn(law, start=0, end=0, longest=8192, **options):
    server = SimulatedServer([SimulatedCache(law)], start, end)
    return learn_law(server, max_prompt_tokens=longest, **options)


@pytest.mark.parametrize(("law", "start", "end"), KNOWN)
def test_a_law_is_found_with_its_shared_start(law, start, end):
    found = learn(law, start, end, 40_000 if law.grain_tokens > 1000 else 8192)
    assert found.law is not None, found.reason
    assert found.law == replace(law, shared_start_tokens=start)
    assert found.predicted == found.held_out >= 7
    assert found.requests <= 40
    assert found.overhead_tokens == start + end


def test_hidden_laws_are_found_and_none_is_wrong():
    ones = [hidden._one(hidden.draw_world(seed)) for seed in range(1000, 1024)]
    assert sum(one["wrong"] for one in ones) == 0
    assert sum(one["right"] for one in ones) >= 23
    assert max(one["found"].requests for one in ones) <= 40


@pytest.mark.parametrize("kind", range(4))
def test_outside_the_family_no_wrong_law_is_claimed(kind):
    for seed, loss in ((0, 0.0), (1, 0.05)):
        world = hidden.World(hidden.OUTSIDE[kind](), 12, 5, 8192, loss_rate=loss, seed=seed)
        one = hidden._one(world)
        assert not one["wrong"]
        assert one["claimed"] or one["found"].reason


def test_what_is_not_reused_is_described():
    found = learn(CacheLaw(4096), longest=2000)
    assert found.law is None
    assert found.reason.startswith("a prompt of 2,000 tokens was sent again, and 0 of them were cached")
    assert found.wrong_at_most is None


def test_grains_that_cannot_be_told_apart_are_named():
    found = learn(CacheLaw(1024), longest=2100)
    assert found.law is None or found.law.grain_tokens == 1024
    assert 1024 in found.possible_grains


def test_a_start_that_is_known_tells_units_off_from_a_longer_start():
    server = SimulatedServer([SimulatedCache(CacheLaw(16, grains_off=1))], 30, 6)
    found = learn_law(server, max_prompt_tokens=4096, shared_start_tokens=30)
    assert (found.law.grains_off, found.law.shared_start_tokens) == (1, 30)
    assert found.alternatives == ()


def test_laws_that_nothing_tells_apart_are_all_named():
    server = SimulatedServer([SimulatedCache(CacheLaw(16, grains_off=1))], 30, 6)
    found = learn_law(server, max_prompt_tokens=4096)
    named = {found.law, *found.alternatives}
    assert CacheLaw(16, 0, 1, 1, 30) in named
    assert {law.shared_start_tokens - 16 * law.grains_off for law in named} == {14}


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (lambda spec: Answer(spec.own_tokens, None), "the server is silent"),
        (lambda spec: Answer(spec.own_tokens, None, note="HTTP 500: no"), "HTTP 500: no"),
        (lambda spec: Answer(None, 0), "does not say how long"),
        (lambda spec: Answer(spec.own_tokens, spec.own_tokens + 1), "impossible"),
        (lambda spec: Answer(spec.own_tokens - 1, 0), "counts 63 tokens in a prompt of 64"),
        (lambda spec: Answer(spec.own_tokens + spec.own_tokens // 100, 0), "lengths are not under control"),
        (lambda spec: Answer(spec.own_tokens, 0, shared_tokens=1), "1 tokens are shared, not 64"),
    ],
)
def test_a_server_that_does_not_say_what_must_be_known_gives_no_law(answer, reason):
    found = learn_law(answer, max_prompt_tokens=4096)
    assert found.law is None
    assert reason in found.reason
    assert found.requests <= 40


def test_the_budget_is_kept_and_priced():
    found = learn(CacheLaw(8320), 20, 5, 40_000, max_requests=12)
    requests, tokens = price(40_000, 12)
    assert found.law is None
    assert "12 requests did not suffice" in found.reason
    assert found.requests == requests == 12
    assert found.prompt_tokens <= tokens


def test_the_price_bounds_what_is_spent():
    for law, start, end in KNOWN[:4]:
        longest = 40_000 if law.grain_tokens > 1000 else 8192
        assert learn(law, start, end, longest).prompt_tokens <= price(longest)[1]


def test_evictions_are_asked_again_and_counted():
    server = SimulatedServer([SimulatedCache(CacheLaw(32))], 5, 5, loss_rate=0.15, seed=4)
    found = learn_law(server, max_prompt_tokens=4096)
    assert found.law == CacheLaw(32, shared_start_tokens=5)
    assert found.evicted > 0
    assert server.losses > 0


class Slots:
    """A server that keeps the last prompts only, as llama.cpp does: one in each slot."""

    def __init__(self, law, slots):
        self.law, self.count, self.slots = law, slots, []

    def __call__(self, spec):
        tokens = [*range(-24, 0), *token_ids(spec), *range(-40, -32)]
        best = max(self.slots, key=lambda kept: common_prefix(tokens, kept), default=())
        shared = common_prefix(tokens, best)
        if shared >= 0.1 * len(tokens):
            self.slots.remove(best)
        self.slots = [*self.slots, tokens][-self.count :]
        return Answer(len(tokens), self.law.predict(len(tokens), shared))


@pytest.mark.parametrize("grain", [1, 16])
@pytest.mark.parametrize("slots", [1, 2, 4])
def test_a_server_that_keeps_the_last_prompts_only_has_a_law_too(grain, slots):
    found = learn_law(Slots(CacheLaw(grain), slots), max_prompt_tokens=8192)
    assert found.law == CacheLaw(grain, shared_start_tokens=24), found.reason
