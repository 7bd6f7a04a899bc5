"""vLLM's ``/metrics``: what the server counted and timed for one request, by difference.

A difference between two scrapes belongs to one request only if exactly one request finished in
between. Otherwise, or where a counter is missing, the figure is ``None`` and there is a reason.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import httpx
from prometheus_client.parser import text_string_to_metric_families

CACHED_SOURCES = ("local_cache_hit", "external_kv_transfer")
_TIMES = {
    "queue_ms": "vllm:request_queue_time_seconds",
    "prefill_ms": "vllm:request_prefill_time_seconds",
    "decode_ms": "vllm:request_decode_time_seconds",
    "server_ttft_ms": "vllm:time_to_first_token_seconds",
}


@dataclass(frozen=True)
class Scrape:
    """The samples of one scrape, summed over engines and models, and the cache configuration.

    ``values`` maps a sample name, with ``{source=…}`` where it has that label, to its value.
    """

    values: dict[str, float] = field(default_factory=dict)
    cache_config: dict[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> "Scrape":
        """Read the Prometheus text format.

        Raises:
            ValueError: The text is not in that format.
        """
        values: dict[str, float] = {}
        config: dict[str, str] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name == "vllm:cache_config_info":
                    config = dict(sample.labels)
                source = sample.labels.get("source")
                name = f"{sample.name}{{source={source}}}" if source else sample.name
                if not name.endswith("_bucket"):
                    values[name] = values.get(name, 0.0) + sample.value
        return cls(values, config)

    @property
    def finished(self) -> float | None:
        """How many requests have finished since the server started."""
        return self.values.get("vllm:e2e_request_latency_seconds_count")

    def cached_tokens(self) -> float | None:
        """Prompt tokens taken from a cache since the server started; ``None``: not counted."""
        name = "vllm:prompt_tokens_by_source_total"
        found = [self.values[key] for s in CACHED_SOURCES if (key := f"{name}{{source={s}}}") in self.values]
        return sum(found) if found else self.values.get("vllm:prefix_cache_hits_total")

    def block_size(self) -> int | None:
        """Tokens in one block of the prefix cache, as the server states it."""
        for key in ("hash_block_size", "effective_attention_block_size", "block_size"):
            if self.cache_config.get(key, "").isdigit():
                return int(self.cache_config[key])
        return None


@dataclass(frozen=True)
class ServerView:
    """One request as the server saw it; ``None`` where it does not say, with the ``reason``."""

    cached_tokens: int | None = None
    queue_ms: float | None = None
    prefill_ms: float | None = None
    decode_ms: float | None = None
    server_ttft_ms: float | None = None
    reason: str | None = None


class Metrics:
    """The ``/metrics`` page of one server."""

    def __init__(self, http: httpx.Client, url: str) -> None:
        self._http, self._url = http, url

    def scrape(self) -> Scrape | None:
        """Return what the page says now, or ``None`` where there is no such page."""
        try:
            answer = self._http.get(self._url)
            return Scrape.parse(answer.text) if answer.status_code == 200 else None
        except (httpx.HTTPError, ValueError):
            return None

    def view(
        self, before: Scrape | None, *, wait_s: float = 1.0, sleep: Callable[[float], None] = time.sleep
    ) -> ServerView:
        """Return the difference to ``before``, taken after a request has finished.

        The server counts a request a moment after its last byte, so this waits for that.
        """
        if before is None or before.finished is None:
            return ServerView(reason="the server has no vLLM metrics")
        deadline = time.monotonic() + wait_s
        while True:
            after = self.scrape()
            if after is None or after.finished is None:
                return ServerView(reason="the metrics went away during the request")
            if after.finished > before.finished or time.monotonic() >= deadline:
                return difference(before, after)
            sleep(0.02)


def difference(before: Scrape, after: Scrape) -> ServerView:
    """Return what the server counted between two scrapes, if that was exactly one request."""
    finished = (after.finished or 0) - (before.finished or 0)
    if finished != 1:
        return ServerView(reason=f"{finished:.0f} requests finished meanwhile, so none can be told apart")
    times = {name: _mean_ms(metric, before, after) for name, metric in _TIMES.items()}
    old, new = before.cached_tokens(), after.cached_tokens()
    cached = round(new - old) if old is not None and new is not None else None
    reason = None if cached is not None else "the server does not count cached prompt tokens"
    return ServerView(cached_tokens=cached, reason=reason, **times)


def _mean_ms(metric: str, before: Scrape, after: Scrape) -> float | None:
    total, count = f"{metric}_sum", f"{metric}_count"
    if total not in before.values or total not in after.values:
        return None
    if after.values.get(count, 0) - before.values.get(count, 0) != 1:
        return None
    return (after.values[total] - before.values[total]) * 1e3
