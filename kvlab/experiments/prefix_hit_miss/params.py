"""Parameters of prefix hit against miss; the defaults are those of the experiment as it was written."""

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from kvlab.params import CompareMetric, Params

#: The shortest context: the marker that makes it new must find room in it.
SHORTEST = 32

Size = Annotated[int, Field(ge=SHORTEST, le=1_000_000)]
Procedure = Literal["as_written", "verified"]


class PrefixHitMissParams(Params):
    """Parameters of prefix hit against miss.

    Attributes:
        sizes: Pairs of context sizes [A, B] in tokens, each measured on its own.
        size_a: With ``size_b``: one pair in place of ``sizes``.
        size_b: The other of the two.
        num_trials: Measured trials per condition.
        warmup_trials: Discarded trials before them; stored, and in no statistic.
        max_output_tokens: Length of the generation that throughput is taken from.
        warmup_tokens: Tokens generated when [A, B] is put into the cache.
        settle_ms: Pause after a warm-up, and between the TTFT and the throughput of a trial.
        procedures: Which arms: the experiment as it was written, the one that proves its states.
        min_valid_fraction: Below this share of verified trials with proven states there is no verdict.
        confidence: Of all intervals.
        text_seed: Of the contexts' text.
    """

    compare_metric: CompareMetric = "hit/ttft.ttft_ms"

    sizes: list[Annotated[list[Size], Field(min_length=2, max_length=2)]] = Field(
        default=[[512, 256]], min_length=1, max_length=50
    )
    size_a: Size | None = None
    size_b: Size | None = Field(default=None, validate_default=True)
    num_trials: int = Field(default=10, ge=1, le=1000)
    warmup_trials: int = Field(default=1, ge=0, le=100)
    max_output_tokens: int = Field(default=50, ge=1, le=100_000)
    warmup_tokens: int = Field(default=6, ge=1, le=10_000)
    settle_ms: int = Field(default=500, ge=0, le=600_000)
    procedures: list[Procedure] = Field(default=["as_written", "verified"], min_length=1)
    min_valid_fraction: float = Field(default=0.8, gt=0, le=1)
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    text_seed: int = Field(default=17, ge=0)

    @field_validator("sizes", "procedures")
    @classmethod
    def _check_once(cls, values: list[object]) -> list[object]:
        if any(values.count(value) > 1 for value in values):
            raise ValueError("holds an entry twice; to measure it more often, raise num_trials")
        return values

    @field_validator("size_b")
    @classmethod
    def _check_both(cls, size_b: int | None, info: ValidationInfo) -> int | None:
        if "size_a" not in info.data:  # refused already
            return size_b
        size_a = info.data["size_a"]
        if (size_a is None) != (size_b is None):
            missing, given = ("size_a", "size_b") if size_a is None else ("size_b", "size_a")
            raise ValueError(f"{given} is set without {missing}; give both, or neither to use sizes")
        return size_b

    @property
    def configs(self) -> list[tuple[int, int]]:
        """The (A, B) pairs to measure, in tokens."""
        if self.size_a is not None and self.size_b is not None:
            return [(self.size_a, self.size_b)]
        return [(a, b) for a, b in self.sizes]
