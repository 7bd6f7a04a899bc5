"""What a vLLM server says of the cache that it allocated up front: its size, and how much is in use."""

import re
import time

import httpx

from kvlab.endpoints.metrics import Scrape
from kvlab.endpoints.pages import fetch
from kvlab.vram import Reading

#: A page of metrics costs the server some milliseconds, so it is asked far less often than the kernel.
PAUSE_S = 1.0
# Before version 0.10 it was called `gpu_cache_usage_perc`.
_USAGE = re.compile(r"^vllm:(?:kv|gpu)_cache_usage_perc(?:\{[^}]*\})? ([0-9.eE+-]+)$", re.MULTILINE)


class CacheUsage:
    """``vllm:kv_cache_usage_perc`` of the cache's stated size, as a memory sampler.

    The share is of blocks that requests hold at that moment; blocks that are only kept for later
    hits count as free. Only its line of the page is read: parsing all of it ten times per second would
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
        page = fetch(self._http, self._url, timeout_s=2.0, patience_s=0.0)
        if not page.ok:
            self.reason = f"/metrics does not answer ({page.why or f'HTTP {page.status}'})"
            return []
        shares = [share for text in _USAGE.findall(page.text) if (share := _share(text)) is not None]
        if not shares:
            self.reason = "the server does not say how much of its KV cache is in use"
            return []
        self.reason = None
        used = sum(shares) / len(shares) * self._size_bytes
        return [Reading("server_kv_cache", round(used), self._size_bytes)]

    def close(self) -> None:
        """Close the connection."""
        self._http.close()


def _share(text: str) -> float | None:
    try:
        share = float(text)
    except ValueError:
        return None
    return share if 0.0 <= share <= 1.0 else None


def capacity(scrape: Scrape | None) -> dict[str, int | None]:
    """Return what the server says of its KV cache: ``tokens``, ``bytes``, ``blocks``; ``None``: unsaid."""
    config = scrape.cache_config if scrape is not None else {}

    def number(name: str) -> int | None:
        text = config.get(name, "")
        return int(text) if text.isascii() and text.isdecimal() and len(text) < 19 else None

    blocks, block = number("num_gpu_blocks"), scrape.block_size() if scrape is not None else None
    tokens = number("kv_cache_size_tokens")
    if tokens is None and blocks is not None and block is not None:
        tokens = blocks * block
    return {"tokens": tokens, "bytes": number("kv_cache_memory_bytes"), "blocks": blocks}
