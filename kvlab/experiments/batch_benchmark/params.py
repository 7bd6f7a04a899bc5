"""Parameters of the batch benchmark."""

from typing import Any, ClassVar, Literal, Self, get_args

from pydantic import Field, field_validator, model_validator

from kvlab.experiments.batch_benchmark.trimming import trimming_of
from kvlab.params import CompareMetric, Params

Strategy = Literal["shared_prefix", "isolated", "conversation", "concurrent_start", "batch_api"]
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)


class BatchBenchmarkParams(Params):
    """Parameters of the batch benchmark. ``max_attempts`` is each request's.

    Attributes:
        sizes: Requests of one trial; the largest is predicted from the smaller ones before it counts.
        strategies: How the requests of a trial are put; see the notebook.
        repeats: Trials of each strategy and size.
        prompt_tokens: Length of a request's prompt, system prompt and chat template included.
        handbook_sections: How long a text the system prompt is cut from.
        mode: ``closed`` keeps ``concurrency`` requests in flight; ``constant``, ``poisson`` and ``ramp``
            send at ``rate_per_s`` whatever the answers do.
        ramp_from_per_s, ramp_s: Where a ramp begins, and how long it takes to reach ``rate_per_s``.
        max_connections: At most so many connections; null: as many as requests are in flight.
        concurrent_start_at_most: Requests that ``concurrent_start`` sends at once, at most.
        conversations: How many grow side by side; null: ``concurrency``.
        trim_interval, keep_messages: After so many exchanges a conversation keeps its last so many messages.
        context_limit_summary: A context-limit run's ``summary.json``, whose trimming constants replace them;
            they are read when a run is started, and the run keeps them, not the file's name.
        retry_wait_s, retry_max_wait_s: Before a request is sent again; doubles, with jitter.
        outage_limit_s: How long to wait for a server that accepts no connection.
        batch_poll_s: Between two looks at a batch job.
        batch_limit_s: How long a batch job may take.
        target_requests: What the extrapolation is for.
        price_per_million_prompt_tokens, price_per_million_cached_tokens,
        price_per_million_completion_tokens: In any currency; null: no cost is given.
        memory_interval_s: Between two looks at the server's memory.
        memory_limit_bytes: The most that the server may take; null: nothing but the device's own size.
        min_savings_match: Measured over predicted savings, at least.
        max_empty_share: The most answers that may hold no token.
        max_rate_change: The most that the rate may fall from a smaller to a larger size.
        max_held_out_miss: The most that the prediction of the largest size may be off, for an extrapolation.
        max_memory_rise: The most that memory may go on rising within a trial, and over the trials of the largest
            size, as a share.
    """

    compare_metric: CompareMetric = "shared_prefix.s_per_request"

    env_keys: ClassVar[dict[str, str]] = {
        "MAX_TOKENS": "max_tokens",
        "TEMPERATURE": "temperature",
        "SCENARIO_ISOLATION_ID": "isolation_id",
    }

    sizes: list[int] = Field(min_length=1, max_length=20)
    strategies: list[Strategy] = Field(default=list(STRATEGIES), min_length=1)
    repeats: int = Field(default=1, ge=1, le=100)
    prompt_tokens: int = Field(default=600, ge=16, le=1_000_000)
    handbook_sections: int = Field(default=200, ge=1, le=100_000)
    max_tokens: int = Field(default=64, ge=1, le=100_000)
    temperature: float = Field(default=0.0, ge=0, le=2)
    mode: Literal["closed", "constant", "poisson", "ramp"] = "closed"
    concurrency: int = Field(default=32, ge=1, le=10_000)
    rate_per_s: float = Field(default=10.0, gt=0, le=100_000)
    ramp_from_per_s: float = Field(default=0.0, ge=0, le=100_000)
    ramp_s: float = Field(default=60.0, gt=0, le=86_400)
    max_connections: int | None = Field(default=None, ge=1, le=60_000)
    concurrent_start_at_most: int = Field(default=1000, ge=2, le=10_000)
    conversations: int | None = Field(default=None, ge=1, le=10_000)
    trim_interval: int = Field(default=50, ge=1, le=1_000_000)
    keep_messages: int = Field(default=40, ge=0, le=1_000_000)
    context_limit_summary: str | None = None
    max_attempts: int = Field(default=6, ge=1, le=20)
    retry_wait_s: float = Field(default=0.5, gt=0, le=300)
    retry_max_wait_s: float = Field(default=30.0, gt=0, le=3600)
    outage_limit_s: float = Field(default=300.0, gt=0, le=86_400)
    batch_poll_s: float = Field(default=5.0, gt=0, le=3600)
    batch_limit_s: float = Field(default=86_400.0, gt=0, le=10_000_000)
    target_requests: int = Field(default=170_000, ge=1, le=10**12)
    price_per_million_prompt_tokens: float | None = Field(default=None, ge=0)
    price_per_million_cached_tokens: float | None = Field(default=None, ge=0)
    price_per_million_completion_tokens: float | None = Field(default=None, ge=0)
    memory_interval_s: float = Field(default=0.5, gt=0, le=60)
    memory_limit_bytes: int | None = Field(default=None, ge=1)
    min_savings_match: float = Field(default=0.9, gt=0, le=1)
    max_empty_share: float = Field(default=0.05, ge=0, le=1)
    max_rate_change: float = Field(default=0.2, gt=0, lt=1)
    max_held_out_miss: float = Field(default=0.2, gt=0, lt=1)
    max_memory_rise: float = Field(default=0.05, gt=0, lt=1)
    confidence: float = Field(default=0.95, gt=0.5, lt=1)

    @classmethod
    def inline_files(cls, values: dict[str, Any], sources: dict[str, str]) -> None:
        """Replace ``context_limit_summary`` by the trimming constants that it holds."""
        path = values.get("context_limit_summary")
        if not isinstance(path, str):
            return
        found = trimming_of(path)
        values |= {**found, "context_limit_summary": None}
        sources |= dict.fromkeys(found, f"context_limit_summary {path}")

    @field_validator("sizes")
    @classmethod
    def _check_sizes(cls, sizes: list[int]) -> list[int]:
        if not all(1 <= size <= 10_000_000 for size in sizes):
            raise ValueError("holds a size outside 1 to 10,000,000 requests")
        if len(set(sizes)) < len(sizes):
            raise ValueError("holds a size twice; to measure it more often, raise repeats")
        return sorted(sizes)

    @field_validator("strategies")
    @classmethod
    def _check_strategies(cls, strategies: list[Strategy]) -> list[Strategy]:
        if len(set(strategies)) < len(strategies):
            raise ValueError("holds a strategy twice")
        return strategies

    @model_validator(mode="after")
    def _check_target(self) -> Self:
        if self.target_requests < max(self.sizes):
            raise ValueError(
                f"target_requests: {self.target_requests} is less than the largest of sizes ({max(self.sizes)}), "
                "which is measured anyway; raise it, or lower sizes"
            )
        return self
