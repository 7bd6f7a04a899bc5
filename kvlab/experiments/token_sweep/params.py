"""Parameters of the token sweep; the tuning keys and their defaults are the scenario's."""

from typing import ClassVar, Literal

from pydantic import Field, field_validator

from kvlab.params import Params


class TokenSweepParams(Params):
    """Parameters of the token sweep.

    Attributes:
        token_targets: Prompt lengths in tokens, chat template included.
        repeats: Pairs at each length.
        position_controls: Control pairs over the whole run: two cold prompts one after the other, to see what
            being the second request is worth without a cache. An interval at 95 % needs 6, and some may be lost; 0: none.
        order: ``ascending`` goes through the lengths one repeat after the other, as the scenario
            says; ``random`` shuffles each repeat, so that drift does not look like length.
        max_tokens: Generated tokens per request.
        manual_seed: Of the document's text.
        manual_sections: How long a document the prompts are cut from.
        ttft_min_reduction_fraction: The margin of the verdict.
        min_valid_fraction: Below this share of pairs with proven states there is no verdict.
        api: ``chat`` or ``completions``.
        marker_role: Which message carries the marker; ``user`` for templates without a system one.
    """

    env_keys: ClassVar[dict[str, str]] = {
        "SCENARIO_TOKEN_TARGETS": "token_targets",
        "MAX_TOKENS": "max_tokens",
        "TEMPERATURE": "temperature",
        "MANUAL_SEED": "manual_seed",
        "MANUAL_SECTIONS": "manual_sections",
        "TTFT_MIN_REDUCTION_FRACTION": "ttft_min_reduction_fraction",
        "SCENARIO_ISOLATION_ID": "isolation_id",
    }

    token_targets: list[int] = Field(min_length=1, max_length=200)
    repeats: int = Field(default=1, ge=1, le=1000)
    position_controls: int = Field(default=8, ge=0, le=1000)
    order: Literal["ascending", "random"] = "ascending"
    max_tokens: int = Field(default=64, ge=1, le=100_000)
    temperature: float = Field(default=0.0, ge=0, le=2)
    manual_seed: int = Field(default=17, ge=0)
    manual_sections: int = Field(default=1200, ge=1, le=100_000)
    ttft_min_reduction_fraction: float = Field(default=0.10, gt=0, lt=1)
    min_valid_fraction: float = Field(default=0.8, gt=0, le=1)
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    api: Literal["chat", "completions"] = "chat"
    marker_role: Literal["system", "user"] = "system"

    @field_validator("token_targets")
    @classmethod
    def _check_targets(cls, targets: list[int]) -> list[int]:
        if min(targets) < 1:
            raise ValueError(f"{min(targets)} is not a prompt length; use whole numbers of tokens above 0")
        if len(set(targets)) < len(targets):
            raise ValueError("holds a length twice; to measure it more often, raise repeats")
        return sorted(targets)
