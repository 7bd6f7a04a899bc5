"""An offline engine with a real prefix cache and no model: for what is done with an engine, not for its times."""

from types import SimpleNamespace

from benchmarks.servers.prefix_cache import PrefixCache
from kvlab.endpoints.connect import Identity
from kvlab.endpoints.counter import TokenizerCounter
from kvlab.endpoints.facts import Fact
from kvlab.endpoints.offline import OfflineEngine

BLOCK = 16


class Tokenizer:
    """One token a character."""

    def encode(self, text, add_special_tokens=True):
        return [ord(character) for character in text]


class FakeLLM:
    """Answers as vLLM's ``LLM`` does, as far as `OfflineEngine` looks.

    Args:
        reset_works: Whether ``reset_prefix_cache`` empties the cache; it says that it did either way.
        fail: Generations, counted from 1, that raise.
    """

    def __init__(self, reset_works=True, fail=()):
        self.cache, self.reset_works, self.fail = PrefixCache(BLOCK), reset_works, set(fail)
        self.prompts = []

    def get_tokenizer(self):
        return Tokenizer()

    def reset_prefix_cache(self):
        if self.reset_works:
            self.cache = PrefixCache(BLOCK)
        return True

    def generate(self, prompt, decoding):
        ids = prompt["prompt_token_ids"]
        self.prompts.append(tuple(ids))
        if len(self.prompts) in self.fail:
            raise RuntimeError("the engine stumbled")
        chain = self.cache.chain(ids, prompt.get("cache_salt"))
        cached = self.cache.match(chain, len(ids))
        self.cache.store(chain)
        tokens = [(sum(ids) + step) % 97 for step in range(decoding["max_tokens"])]
        times = SimpleNamespace(
            queued_ts=1.0,
            scheduled_ts=1.001,
            first_token_ts=1.004,
            last_token_ts=1.01,
            first_token_latency=0.005,
        )
        answer = SimpleNamespace(token_ids=tokens, text="words", finish_reason="length")
        return SimpleNamespace(
            prompt_token_ids=ids, num_cached_tokens=cached, outputs=[answer], metrics=times
        )


class FakeOffline(OfflineEngine):
    """`OfflineEngine` over a `FakeLLM`."""

    def __init__(self, llm=None):
        self.llm = llm or FakeLLM()
        facts = {"cached_tokens": Fact(holds=True, why="a fake")}
        identity = Identity(
            kind="vLLM offline", version="fake", url="in-process", model="fake", block_size=BLOCK, facts=facts
        )

        def job(prompt, decoding):
            return lambda: self.llm.generate(prompt, decoding)

        super().__init__(SimpleNamespace(llm=self.llm, job=job, close=lambda: None), identity)
        assert isinstance(self.counter, TokenizerCounter)
