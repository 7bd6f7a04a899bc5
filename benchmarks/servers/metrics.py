"""The counters behind GET /metrics, under vLLM's names. They always tell the truth."""

from __future__ import annotations

from dataclasses import dataclass, field

CONTENT_TYPE = "text/plain; version=1.0.0; charset=utf-8"
FINISHED_REASONS = ("stop", "length", "abort", "error", "repetition")


@dataclass
class Times:
    """Sum and count of a histogram, in seconds."""

    total_s: float = 0.0
    count: int = 0

    def add_ns(self, duration_ns: int) -> None:
        """One more observation."""
        self.total_s += duration_ns / 1e9
        self.count += 1


@dataclass
class Metrics:
    """Counts since the start of the server."""

    queries: int = 0
    hits: int = 0
    computed: int = 0
    cached: int = 0
    generated: int = 0
    running: int = 0
    waiting: int = 0
    finished: dict[str, int] = field(default_factory=lambda: dict.fromkeys(FINISHED_REASONS, 0))
    queue: Times = field(default_factory=Times)
    prefill: Times = field(default_factory=Times)
    decode: Times = field(default_factory=Times)
    ttft: Times = field(default_factory=Times)
    e2e: Times = field(default_factory=Times)

    def prefilled(self, prompt: int, cached: int) -> None:
        """A prompt has been processed."""
        self.computed += prompt - cached
        self.cached += cached

    def render(self, model: str, block_size: int, capacity_blocks: int) -> bytes:
        """Prometheus text."""
        labels = f'engine="0",model_name="{model}"'
        lines = [
            *_family("gauge", "num_requests_running", {labels: self.running}),
            *_family("gauge", "num_requests_waiting", {labels: self.waiting}),
            *_family("counter", "prefix_cache_queries", {labels: self.queries}),
            *_family("counter", "prefix_cache_hits", {labels: self.hits}),
            *_family("counter", "prompt_tokens", {labels: self.computed + self.cached}),
            *_family("counter", "prompt_tokens_by_source", self._by_source(labels)),
            *_family("counter", "prompt_tokens_cached", {labels: self.cached}),
            *_family("counter", "generation_tokens", {labels: self.generated}),
            *_family("counter", "request_success", self._by_reason(model)),
            *_histogram("request_queue_time_seconds", labels, self.queue),
            *_histogram("request_prefill_time_seconds", labels, self.prefill),
            *_histogram("request_decode_time_seconds", labels, self.decode),
            *_histogram("time_to_first_token_seconds", labels, self.ttft),
            *_histogram("e2e_request_latency_seconds", labels, self.e2e),
            *_family("gauge", "cache_config_info", {_config(block_size, capacity_blocks): 1}),
        ]
        return ("\n".join(lines) + "\n").encode()

    def _by_source(self, labels: str) -> dict[str, int]:
        sources = {"local_compute": self.computed, "local_cache_hit": self.cached, "external_kv_transfer": 0}
        return {f'{labels},source="{source}"': count for source, count in sources.items()}

    def _by_reason(self, model: str) -> dict[str, int]:
        return {
            f'engine="0",finished_reason="{reason}",model_name="{model}"': count
            for reason, count in self.finished.items()
        }


def _config(block_size: int, capacity_blocks: int) -> str:
    # Unlimited here; a real engine always has a number, so a large one stands for it.
    blocks = capacity_blocks or 1_000_000
    return (
        f'block_size="{block_size}",cache_dtype="auto",enable_prefix_caching="True",engine="0",'
        f'kv_cache_size_tokens="{blocks * block_size}",num_gpu_blocks="{blocks}"'
    )


def _family(kind: str, name: str, samples: dict[str, int]) -> list[str]:
    full = f"vllm:{name}" + ("_total" if kind == "counter" else "")
    values = [f"{full}{{{labels}}} {float(value)}" for labels, value in samples.items()]
    return [f"# HELP {full} {name.replace('_', ' ')}.", f"# TYPE {full} {kind}", *values]


def _histogram(name: str, labels: str, times: Times) -> list[str]:
    full = f"vllm:{name}"
    return [
        f"# HELP {full} Histogram of {name.replace('_', ' ')}.",
        f"# TYPE {full} histogram",
        f'{full}_bucket{{{labels},le="+Inf"}} {float(times.count)}',
        f"{full}_count{{{labels}}} {float(times.count)}",
        f"{full}_sum{{{labels}}} {times.total_s}",
    ]
