import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvlab.evidence import (
    CacheLaw,
    CacheState,
    Evidence,
    as_tokens,
    classify,
    full_hit_tokens,
    usage_evidence,
)


def law(block):
    return None if block is None else CacheLaw.whole_blocks(block)


COLD, HIT, PARTIAL, UNVERIFIED = CacheState.COLD, CacheState.HIT, CacheState.PARTIAL, CacheState.UNVERIFIED


@pytest.mark.parametrize(
    ("prompt", "block", "full"),
    [(65, 32, 64), (64, 32, 32), (33, 32, 32), (32, 32, 0), (1, 16, 0), (2335, 128, 2304)],
)
def test_a_full_hit_reads_whole_blocks_and_never_the_last_token(prompt, block, full):
    assert full_hit_tokens(prompt, block) == full


@pytest.mark.parametrize(
    ("evidence", "block", "shared", "state"),
    [
        (Evidence(100, 0), 16, 0, COLD),
        (Evidence(100, 96), 16, 0, HIT),
        (Evidence(100, 48), 16, 0, PARTIAL),
        (Evidence(100, None), 16, 0, UNVERIFIED),
        (Evidence(None, None), None, 0, UNVERIFIED),
        (Evidence(100, None, 96), 16, 0, HIT),  # the counters alone are evidence too
        (Evidence(100, 0, 96), 16, 0, UNVERIFIED),  # the answer lies
        (Evidence(100, 96, 0), 16, 0, UNVERIFIED),
        (Evidence(100, 96, 96), 16, 0, HIT),
        (Evidence(100, None, 48, 48), 16, 0, PARTIAL),  # the server's own field, where usage is silent
        (Evidence(100, 48, 48, 48), 16, 0, PARTIAL),
        (Evidence(100, 0, 48, 48), 16, 0, UNVERIFIED),  # the field contradicts usage
        (Evidence(100, 96, None, 0), 16, 0, UNVERIFIED),
        (Evidence(100, 96, contradiction="'b' answered"), 16, 0, UNVERIFIED),
        (Evidence(100, 16), 16, 20, COLD),  # the template's own shared block
        (Evidence(100, 32), 16, 20, PARTIAL),
        (Evidence(100, 112), 16, 0, UNVERIFIED),  # more than there is
        (Evidence(130, 128), 32, 0, HIT),
        (Evidence(128, 128), 32, 0, UNVERIFIED),  # whole blocks, but then the block size is another
        (Evidence(100, 99), None, 0, HIT),  # token granularity: the most that any server can reuse
        (Evidence(100, 96), None, 0, PARTIAL),  # perhaps a full hit; not shown
        (Evidence(10, 0), 16, 0, COLD),
    ],
)
def test_labels(evidence, block, shared, state):
    label = classify(evidence, law(block), shared)
    assert label.state is state, label
    assert label.reason
    assert (label.cached_tokens is None) == (state is UNVERIFIED)


@pytest.mark.parametrize(
    ("evidence", "prefix", "state", "predicted"),
    [
        (Evidence(100, 64), 70, HIT, 64),  # the prefix's whole blocks
        (Evidence(100, 48), 70, PARTIAL, 64),
        (Evidence(100, 80), 70, HIT, 64),  # and some of what follows, which was not primed
        (Evidence(100, 112), 70, UNVERIFIED, 64),  # more than the prompt has
        (Evidence(100, 0), 70, COLD, 64),
        (Evidence(100, 0), 10, COLD, 0),  # a prefix of less than a block cannot be hit
        (Evidence(64, 48), 64, HIT, 48),  # a prefix that is the whole prompt: its last token is computed
        (Evidence(100, None), 70, UNVERIFIED, 64),
    ],
)
def test_a_prefix_that_ends_before_the_prompt_is_a_hit_by_its_own_blocks(evidence, prefix, state, predicted):
    label = classify(evidence, law(16), prefix_tokens=prefix)
    assert (label.state, label.predicted_tokens) == (state, predicted), label


@given(
    st.integers(1, 5000), st.one_of(st.none(), st.integers(0, 6000)), st.sampled_from([None, 1, 16, 32, 128])
)
def test_silence_is_never_cold_and_a_hit_is_never_short(prompt, cached, block):
    label = classify(Evidence(prompt, cached), law(block))
    if cached is None:
        assert label.state is UNVERIFIED
    if label.state is HIT and block is not None:
        assert cached == full_hit_tokens(prompt, block)
    if label.state is COLD:  # a cache that reuses by the token shows what two markers share by chance
        assert cached <= (0 if block is None else law(block).chance_tokens)


@pytest.mark.parametrize(
    ("value", "tokens"),
    [
        (3, 3),
        (3.0, 3),
        ("48", 48),
        (0, 0),
        (-1, None),
        (True, None),
        (0.5, None),
        ("x", None),
        (None, None),
        ({}, None),
    ],
)
def test_a_count_is_a_whole_number(value, tokens):
    assert as_tokens(value) == tokens


@pytest.mark.parametrize(
    ("usage", "found"),
    [
        (None, (None, None)),
        ({"prompt_tokens": 7}, (7, None)),
        ({"prompt_tokens": 7, "prompt_tokens_details": None}, (7, None)),
        ({"prompt_tokens": 7, "prompt_tokens_details": {"cached_tokens": 0}}, (7, 0)),
    ],
)
def test_usage(usage, found):
    assert usage_evidence(usage) == found


@pytest.mark.parametrize(
    ("law", "prompt", "known", "cached"),
    [
        (CacheLaw.whole_blocks(16), 100, 70, 64),
        (CacheLaw.whole_blocks(16), 64, 64, 48),
        (CacheLaw.by_token(), 100, 100, 99),
        (CacheLaw.by_token(30), 100, 0, 30),  # the template's start is there for everyone
        (CacheLaw(128, minimum_tokens=1024), 1500, 1023, 0),
        (CacheLaw(128, minimum_tokens=1024), 1500, 1200, 1152),
        (CacheLaw(2144, grains_off=1), 4289, 4289, 2144),  # speculative decoding takes one
        (CacheLaw(2144, grains_off=1), 2145, 2145, 0),
        (CacheLaw(64, cap_tokens=256), 1000, 1000, 256),
        (CacheLaw(16, always_computed_tokens=0), 64, 64, 64),
        (CacheLaw(16), 1, 1, 0),
    ],
)
def test_a_law_predicts_what_is_read(law, prompt, known, cached):
    assert law.predict(prompt, known) == cached


@pytest.mark.parametrize(
    "values",
    [{"grain_tokens": 0}, {"grain_tokens": 1, "minimum_tokens": -1}, {"grain_tokens": 1, "cap_tokens": -1}],
)
def test_a_law_refuses_what_no_cache_does(values):
    with pytest.raises(ValueError, match=r"must|cannot"):
        CacheLaw(**values)


@pytest.mark.parametrize(
    ("cached", "state"),
    [(0, COLD), (30, COLD), (33, COLD), (60, PARTIAL), (98, PARTIAL), (99, HIT), (100, UNVERIFIED)],
)
def test_a_cache_that_reuses_by_the_token_has_cold_requests_and_hits(cached, state):
    assert classify(Evidence(100, cached), CacheLaw.by_token(30)).state is state
    assert classify(Evidence(100, cached), CacheLaw.by_token(), shared_tokens=30).state is state


def test_why_the_counters_are_silent_is_in_the_label():
    label = classify(Evidence(100, metrics_reason="2 requests finished meanwhile"), law(16))
    assert "2 requests finished meanwhile" in label.reason
