"""Hosted APIs reuse nothing of short prompts: the probe's must be long enough to see that they reuse at all."""

import kvlab as kv
from benchmarks.servers.process import FakeServer

HOSTED = {"grain_tokens": 128, "minimum_tokens": 1024}


def test_a_minimum_of_1024_tokens_does_not_hide_the_cache(monkeypatch):
    monkeypatch.setenv("KV_BLOCK_SIZE_TOKENS", "128")
    silent = {"persona": "other", "metrics": False, "tokenize": False}
    with (
        FakeServer(base_ms=1, itl_ms=1, law=HOSTED, **silent) as fake,
        kv.connect(fake.base_url, model="fake", api_key="EMPTY") as server,
    ):
        assert server.identity.facts["cache_states"].holds
        prompt = server.prompt(2000)
        assert [server.ask(prompt).state for _ in range(2)] == ["cold", "hit"]
