"""What a vLLM server says is in use of the cache that it allocated up front."""

import time

from kvlab.serving.metrics import Metrics, Scrape
from kvlab.vram import Reading

#: A scrape costs the server some milliseconds, so it is asked far less often than the kernel.
PAUSE_S = 0.5


class CacheUsage:
    """``vllm:kv_cache_usage_perc`` of the cache's stated size, as a memory sampler.

    The share is of blocks that requests hold at that moment; blocks that are only kept for later
    hits count as free.
    """

    name = "vllm:kv_cache_usage_perc"

    def __init__(self, metrics: Metrics) -> None:
        self.reason: str | None = None
        self._metrics = metrics
        self._next_s = 0.0

    def read(self) -> list[Reading]:
        """Return one reading, ``server_kv_cache``, at most every half a second."""
        if time.monotonic() < self._next_s:
            return []
        self._next_s = time.monotonic() + PAUSE_S
        scrape = self._metrics.scrape()
        size = capacity(scrape)["bytes"]
        share = None if scrape is None else scrape.values.get("vllm:kv_cache_usage_perc")
        if size is None or share is None:
            self.reason = "the server does not say how much of its KV cache is in use"
            return []
        self.reason = None
        return [Reading("server_kv_cache", round(share * size), size)]

    def close(self) -> None:
        """Do nothing."""


def capacity(scrape: Scrape | None) -> dict[str, int | None]:
    """Return what the server says of its KV cache: ``tokens``, ``bytes``, ``blocks``; ``None``: unsaid."""
    config = scrape.cache_config if scrape is not None else {}

    def number(name: str) -> int | None:
        text = config.get(name, "")
        return int(text) if text.isdigit() else None

    blocks, block = number("num_gpu_blocks"), scrape.block_size() if scrape is not None else None
    tokens = number("kv_cache_size_tokens")
    if tokens is None and blocks is not None and block is not None:
        tokens = blocks * block
    return {"tokens": tokens, "bytes": number("kv_cache_memory_bytes"), "blocks": blocks}
