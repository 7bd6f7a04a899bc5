"""What can be set about a context-limit probe."""

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from kvlab.params import CompareMetric, Params

Dtype = Literal["float32", "bfloat16", "float16"]


class ContextLimitProbeParams(Params):
    """Parameters of ``context_limit_probe``.

    Attributes:
        growth: What the context is made of: short exchanges, or exchanges around a document each.
        exchanges: How many exchanges the growing context has, point by point, rising.
        cold_tokens: Prompt lengths whose TTFT is also taken with nothing in the cache.
        decode_tokens: Generated at each point, for the decode speed.
        resolution_tokens: Bisection ends when success and failure are this close; ``None``: 1 % of the
            success or one cache block, whichever is more. A maximum that the server states is tried
            exactly in any case.
        cut_steps: Bisection steps at most, on the endpoint and in each child.
        ceiling_tokens: Where nothing fails, the context is doubled up to this, and no further.
        longest_wait_s: Nor is a context tried whose first token would probably take longer than this.
        needles: Facts at the start of the context that are asked for at every point; 0: none.
        needle_min_share: Quality holds where at least this share of the answers is right.
        quality_steps: Bisection steps between the last point where quality held and the first where not.
        dtypes: Precisions in which the model is loaded in a child process; empty: none is.
        in_process_model: A model folder or hub name for that; ``None``: what the embedded server serves.
        headroom_mib: Memory that the child may take beyond the loaded model.
        chunk_tokens: The child's context grows by so many tokens at a time.
        fit_from_tokens: Memory below this length is not fitted: the allocator rounds small tensors.
        in_process_tokens: The child's context never exceeds this.
        growth_margin: How far the measured bytes per token may be from the theoretical, as a fraction.
        min_r_squared: Below this, growth is not predictable.
        max_residual_fraction: Largest residual of the fit, as a share of the growth, that is predictable.
        safe_fraction: MAX_CONTEXT_TOKENS stays below this share of the measured maximum.
        trim_threshold_fraction: CONTEXT_TRIM_THRESHOLD as a share of MAX_CONTEXT_TOKENS.
        trim_target_fraction: What is left after a trim, as a share of CONTEXT_TRIM_THRESHOLD.
        replay_exchanges: Length of each replayed conversation; 0: no trimming check.
        interval_factors: Intervals that are compared, as shares of TRIM_INTERVAL.
        replay_tokens: Generated at each replayed turn.
        cards_free_gib: Free memory of the cards in the table of what fits.
        memory_interval_ms: Pause between two looks at memory.
        recover_s: How long a server that stopped answering is waited for.
        text_seed: Of the texts.
    """

    compare_metric: CompareMetric = "cold.ttft_ms"

    growth: Literal["conversation", "documents"] = "conversation"
    exchanges: list[int] = Field(default=[10, 25, 50, 100, 200, 300, 400, 500], min_length=1, max_length=50)
    cold_tokens: list[int] = Field(default=[], max_length=20)
    decode_tokens: int = Field(default=16, ge=2, le=4096)
    resolution_tokens: int | None = Field(default=None, ge=1, le=100_000)
    cut_steps: int = Field(default=16, ge=1, le=30)
    ceiling_tokens: int = Field(default=262_144, ge=64, le=100_000_000)
    longest_wait_s: float = Field(default=600, gt=0, le=86_400)
    needles: int = Field(default=3, ge=0, le=8)
    needle_min_share: float = Field(default=0.5, gt=0, le=1)
    quality_steps: int = Field(default=4, ge=0, le=12)
    dtypes: list[Dtype] = Field(default=["float32", "bfloat16"], max_length=3)
    in_process_model: str | None = Field(default=None, min_length=1)
    headroom_mib: int = Field(default=512, ge=16, le=1_000_000)
    chunk_tokens: int = Field(default=128, ge=8, le=65_536)
    fit_from_tokens: int = Field(default=256, ge=0, le=1_000_000)
    in_process_tokens: int = Field(default=8192, ge=64, le=10_000_000)
    growth_margin: float = Field(default=0.1, gt=0, le=1)
    min_r_squared: float = Field(default=0.99, gt=0, le=1)
    max_residual_fraction: float = Field(default=0.05, gt=0, le=1)
    safe_fraction: float = Field(default=0.8, gt=0, le=0.8)
    trim_threshold_fraction: float = Field(default=0.85, gt=0, lt=1)
    trim_target_fraction: float = Field(default=0.5, gt=0, lt=1)
    replay_exchanges: int = Field(default=150, ge=0, le=100_000)
    interval_factors: list[float] = Field(default=[0.5, 0.75, 1.0], max_length=10)
    replay_tokens: int = Field(default=4, ge=1, le=4096)
    cards_free_gib: list[float] = Field(default=[4.0, 8.0, 16.0, 24.0, 48.0, 80.0], max_length=30)
    memory_interval_ms: int = Field(default=100, ge=10, le=60_000)
    recover_s: float = Field(default=60, ge=0, le=3600)
    confidence: float = Field(default=0.95, ge=0.5, le=0.999)
    text_seed: int = Field(default=29, ge=0, lt=2**32)

    @field_validator("exchanges")
    @classmethod
    def _rising(cls, values: list[int]) -> list[int]:
        if values != sorted(set(values)) or values[0] < 1 or values[-1] > 100_000:
            raise ValueError("must rise from 1 or more to 100,000 at most, each count once")
        return values

    @field_validator("cold_tokens")
    @classmethod
    def _lengths(cls, values: list[int]) -> list[int]:
        if values != sorted(set(values)) or any(value < 128 for value in values):
            raise ValueError("must rise, each length once, from 128 tokens")
        return values

    @field_validator("dtypes")
    @classmethod
    def _once(cls, values: list[Dtype]) -> list[Dtype]:
        if len(set(values)) != len(values):
            raise ValueError("names a precision twice")
        return values

    @field_validator("interval_factors")
    @classmethod
    def _factors(cls, values: list[float]) -> list[float]:
        if len(set(values)) != len(values) or any(not 0 < value <= 1 for value in values):
            raise ValueError("must be shares of TRIM_INTERVAL above 0 and up to 1, each once")
        return values

    @field_validator("cards_free_gib")
    @classmethod
    def _cards(cls, values: list[float]) -> list[float]:
        if any(value <= 0 for value in values):
            raise ValueError("must be above 0 GiB")
        return values

    @model_validator(mode="after")
    def _points(self) -> Self:
        if self.dtypes and self.in_process_tokens < self.fit_from_tokens + 4 * self.chunk_tokens:
            raise ValueError(
                "in_process_tokens leaves fewer than four chunks to fit; raise it, or lower chunk_tokens"
            )
        if self.replay_exchanges and not self.interval_factors:
            raise ValueError("interval_factors is empty; name one, or set replay_exchanges to 0")
        return self
