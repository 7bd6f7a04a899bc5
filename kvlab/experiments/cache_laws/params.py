"""Parameters of the cache laws."""

from typing import ClassVar, Literal

from pydantic import Field, field_validator

from kvlab.params import CompareMetric, Params

Part = Literal["law", "capacity", "lifetime", "sharing", "fidelity"]
#: In the order of measuring: whatever follows needs the law.
PARTS: tuple[Part, ...] = ("law", "capacity", "lifetime", "sharing", "fidelity")


class CacheLawsParams(Params):
    """Parameters of the cache laws.

    Attributes:
        parts: What to find out: ``law``, ``capacity``, ``lifetime``, ``sharing``, ``fidelity``.
        max_prompt_tokens: The longest prompt that may be sent; where the context is shorter, it counts.
        start_tokens: The shortest prompt, from which others grow until something is reused.
        max_requests: Most requests for the law.
        max_part_s: Seconds that one part may take in one session; a part that is cut off says so.
        capacity_tokens: Most prompt tokens to find the capacity; about 30 times the capacity is enough.
        embedded_cache_blocks: Blocks of the embedded server's cache while its capacity is looked for; a small cache is
            filled in minutes. ``None``: the cache that it has for every other run. Elsewhere it means nothing.
        lifetime_limit_s: The longest wait to find the lifetime.
        part_prompt_tokens: Length of the prompts of lifetime, sharing and fidelity.
        fidelity_prompts: Prompts whose answers are compared.
        fidelity_tokens: Generated tokens of each of these answers.
    """

    compare_metric: CompareMetric = "probe.ttft_ms"

    env_keys: ClassVar[dict[str, str]] = {"SCENARIO_ISOLATION_ID": "isolation_id"}

    parts: list[Part] = Field(default=["law"], min_length=1)
    max_prompt_tokens: int = Field(default=8192, ge=64, le=1_000_000)
    start_tokens: int = Field(default=64, ge=8, le=100_000)
    max_requests: int = Field(default=60, ge=8, le=200)
    max_part_s: float = Field(default=1800.0, gt=0, le=86_400)
    capacity_tokens: int = Field(default=2_000_000, ge=1000, le=10**9)
    embedded_cache_blocks: int | None = Field(default=96, ge=32, le=1_000_000)
    lifetime_limit_s: float = Field(default=600.0, ge=2, le=86_400)
    part_prompt_tokens: int = Field(default=512, ge=16, le=1_000_000)
    fidelity_prompts: int = Field(default=8, ge=1, le=200)
    fidelity_tokens: int = Field(default=16, ge=1, le=1000)

    @field_validator("parts")
    @classmethod
    def _check_parts(cls, parts: list[Part]) -> list[Part]:
        if len(set(parts)) < len(parts):
            raise ValueError("holds a part twice; name each once")
        return [part for part in PARTS if part in parts]

    @field_validator("start_tokens")
    @classmethod
    def _check_start(cls, start: int, info: object) -> int:
        longest = getattr(info, "data", {}).get("max_prompt_tokens")
        if longest is not None and start > longest:
            raise ValueError(f"is above max_prompt_tokens ({longest}); lower it")
        return start
