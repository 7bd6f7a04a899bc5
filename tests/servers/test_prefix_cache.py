"""The cache against something simpler: the fake server is the known truth of other tests."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.servers.prefix_cache import PrefixCache
from benchmarks.servers.tokenizer import Tokenizer


class Oracle:
    """Keeps whole prefixes as tuples, and scans them all: slow, and obviously right."""

    def __init__(self, block, capacity):
        self.block, self.capacity = block, capacity
        self.used = {}  # (salt, prefix) -> (time of use, -length): the smallest goes first
        self.now = 0

    def prefixes(self, tokens, salt):
        return [(salt, tuple(tokens[:n])) for n in range(self.block, len(tokens) + 1, self.block)]

    def touch(self, prefixes):
        self.now += 1
        for key in prefixes:
            self.used[key] = (self.now, -len(key[1]))

    def match(self, tokens, salt):
        found = []
        for key in self.prefixes(tokens[:-1], salt):
            if key not in self.used:
                break
            found.append(key)
        self.touch(found)
        return len(found) * self.block

    def store(self, tokens, salt):
        self.touch(self.prefixes(tokens, salt))
        while self.capacity is not None and len(self.used) > self.capacity:
            del self.used[min(self.used, key=self.used.get)]


# Few distinct tokens and salts, so that prefixes are shared often.
prompts = st.lists(st.integers(0, 1), min_size=1, max_size=14)
requests = st.lists(st.tuples(prompts, st.sampled_from([None, "a", "b"])), max_size=25)


@given(requests, st.integers(1, 4), st.none() | st.integers(1, 8))
@settings(max_examples=300, deadline=None)
def test_cache_agrees_with_brute_force(sequence, block, capacity):
    cache, oracle = PrefixCache(block, capacity), Oracle(block, capacity)
    for tokens, salt in sequence:
        chain = cache.chain(tokens, salt)
        assert cache.match(chain, len(tokens)) == oracle.match(tokens, salt)
        cache.store(chain)
        oracle.store(tokens, salt)
        assert len(cache) == len(oracle.used)


@given(prompts, prompts, st.integers(1, 4))
def test_a_chain_can_be_extended(head, tail, block):
    cache = PrefixCache(block)
    whole = cache.chain(head + tail, "salt")
    assert cache.chain(head + tail, "salt", known=cache.chain(head, "salt")) == whole


@given(st.text(max_size=60))
def test_tokenizer_is_lossless(text):
    tokenizer = Tokenizer()
    assert tokenizer.decode(tokenizer.encode(text)) == text
