from dataclasses import replace

import pytest

from kvlab.laws.causes import Knowledge, MissCause, Request, common_prefix, explain
from kvlab.laws.law import CacheLaw

KNOWN = Knowledge(
    law=CacheLaw(16, shared_start_tokens=4), cache_on=True, capacity_low=1000, capacity_high=1100,
    ttl_low_s=55, ttl_high_s=65, tenants_share=False, others=False, by_use=True, renewed_by_use=True,
)  # fmt: skip
TEMPLATE = [1, 2, 3, 4]
TEXT = TEMPLATE + list(range(100, 300))


def request(number, tokens=TEXT, sent=0.0, cached=0, **more):
    return Request(f"r{number}", tokens, sent, cached, **more)


def junk(number, tokens=200, sent=1.0, **more):
    return request(number, TEMPLATE + [1000 * number + i for i in range(tokens)], sent, **more)


def cause(last, history, known=KNOWN):
    return explain(last, history, known)


def test_a_full_hit_is_no_miss():
    assert cause(request(2, sent=1, cached=192), [request(1)]).cause == MissCause.NONE


def test_cache_off():
    found = cause(request(2, sent=1), [request(1)], replace(KNOWN, cache_on=False))
    assert found.cause == MissCause.CACHE_OFF


def test_never_seen():
    assert cause(request(2, sent=2), [junk(5)]).cause == MissCause.NEVER_SEEN
    assert cause(request(2), []).cause == MissCause.NEVER_SEEN


def test_a_request_that_failed_stored_nothing():
    assert cause(request(2, sent=2), [request(1, failed=True)]).cause == MissCause.NEVER_SEEN


def test_it_differs_at_a_token_that_is_named():
    changed = [*TEXT[:60], 7, *TEXT[61:]]
    found = cause(request(2, changed, 1, cached=48), [request(1)])
    assert found.cause == MissCause.DIFFERS
    assert found.why == "token 61 of 204 is another one than in r1; 48 tokens before it were served"
    assert (found.earlier, found.shared_tokens, found.expected_tokens) == ("r1", 60, 48)


def test_below_one_grain_and_below_the_minimum():
    short = TEXT[:14]
    assert cause(request(2, short, 1), [request(1, short)]).cause == MissCause.BELOW_GRAIN
    known = replace(KNOWN, law=CacheLaw(16, 1024))
    assert cause(request(2, sent=1), [request(1)], known).cause == MissCause.BELOW_MINIMUM
    known = replace(KNOWN, law=CacheLaw(96, grains_off=1))
    assert cause(request(2, TEXT[:180], 1), [request(1, TEXT[:180])], known).cause == MissCause.BELOW_GRAIN


def test_other_tenant():
    history = [request(1, tenant="a")]
    assert cause(request(2, sent=1, tenant="b"), history).cause == MissCause.OTHER_TENANT
    known = replace(KNOWN, tenants_share=None)
    assert cause(request(2, sent=1, tenant="b"), history, known).cause == MissCause.UNKNOWN


def test_other_replica():
    history = [request(1, replica="x"), junk(9, replica="y")]
    assert cause(request(2, sent=2, replica="y"), history).cause == MissCause.OTHER_REPLICA
    assert cause(request(2, sent=2), history).cause == MissCause.UNKNOWN


def test_expired():
    assert cause(request(2, sent=70), [request(1)]).cause == MissCause.EXPIRED
    assert cause(request(2, sent=60), [request(1)]).cause == MissCause.UNKNOWN


def test_evicted_and_by_what():
    history = [request(1), *(junk(n, sent=n) for n in range(2, 8))]
    found = cause(request(9, sent=9), history)
    assert found.cause == MissCause.EVICTED
    assert found.why.startswith(
        "6 prompts, 1,344 tokens together with it, came after r1, the first of them r2"
    )


def test_between_held_and_gone_for_certain_nothing_is_named():
    history = [request(1), *(junk(n, sent=n) for n in range(2, 6)), junk(6, 20, 6)]
    found = cause(request(9, sent=9), history)
    assert found.cause == MissCause.UNKNOWN
    assert "evicted" in found.why


def test_two_possible_causes_are_no_answer():
    history = [request(1), *(junk(n, sent=n) for n in range(2, 8))]
    found = cause(request(9, sent=80), history)
    assert found.cause == MissCause.UNKNOWN
    assert "expired or evicted" in found.why


def test_others_may_have_taken_the_room():
    known = replace(KNOWN, others=True)
    assert cause(request(2, sent=10), [request(1)], known).cause == MissCause.UNKNOWN


def test_shared_parts_count_once():
    history = [request(1), *(request(n, [*TEXT, n], sent=n, cached=192) for n in range(2, 40))]
    found = cause(request(50, sent=41, cached=0), history, replace(KNOWN, ttl_high_s=None, ttl_low_s=None))
    assert found.cause == MissCause.UNKNOWN


@pytest.mark.parametrize("known", [Knowledge(), replace(KNOWN, law=None)])
def test_without_a_law_nothing_is_named(known):
    assert cause(request(2, sent=1), [request(1)], known).cause == MissCause.UNKNOWN


def test_without_evidence_nothing_is_named():
    assert cause(request(2, sent=1, cached=None), [request(1)]).cause == MissCause.UNKNOWN


def test_the_common_prefix_of_long_prompts():
    long = list(range(5000))
    for place in (0, 1, 255, 256, 257, 4999):
        other = [*long[:place], -1, *long[place + 1 :]]
        assert common_prefix(long, other) == place
    assert common_prefix(long, long[:1000]) == 1000
