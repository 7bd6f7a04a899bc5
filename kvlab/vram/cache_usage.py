"""What a vLLM server says of the cache that it allocated up front: its size, and how much is in use."""

import re
import time

import httpx

from kvlab.endpoints.metrics import Scrape
from kvlab.vram import Reading

#: A page of metrics costs the server some milliseconds, so it is asked far less often than the kernel.
PAUSE_S = 1.0
_USAGE = re.compile(r"^vllm:kv_cache_usage_perc(?:\{[^}]*\})? (\S+)$", re.MULTILINE)


class CacheUsage:
    """``vllm:kv_cache_usage_perc`` of the cache's stated size, as a memory sampler.

    The share is of blocks that requests hold at that moment; blocks that are only kept for later
    hits count as free. Only its line of the page is read: parsing all of it ten times a second would
    take a tenth of a core from what is measured.

    Args:
        http: A client of its own, which gives up early.
        url: Of the metrics.
        size_bytes: The cache's size, as the server states it.
    """

    name = "vllm:kv_cache_usage_perc"

    def __init__(self, http: httpx.Client, url: str, size_bytes: int | None) -> None:
        self._http, self._url, self._size_bytes = http, url, size_bytes
        self.reason = None if size_bytes else "the server does not say how large its KV cache is"
        self._next_s = 0.0

    reason: str | None

    def read(self) -> list[Reading]:
        """Return one reading, ``server_kv_cache``, at most once a second."""
        if not self._size_bytes or time.monotonic() < self._next_s:
            return []
        self._next_s = time.monotonic() + PAUSE_S
        try:
            shares = _USAGE.findall(self._http.get(self._url).text)
        except httpx.HTTPError as error:
            self.reason = f"/metrics does not answer ({type(error).__name__})"
            return []
        if not shares:
            self.reason = "the server does not say how much of its KV cache is in use"
            return []
        self.reason = None
        used = sum(float(share) for share in shares) / len(shares) * self._size_bytes
        return [Reading("server_kv_cache", round(used), self._size_bytes)]

    def close(self) -> None:
        """Close the connection."""
        self._http.close()


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
