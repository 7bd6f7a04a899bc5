"""The parameters of a prefix lifetime run."""

from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from kvlab.params import Params


class LifetimeParams(Params):
    """What is waited for, of how long a prompt, and how often.

    Attributes:
        idle_s: Seconds without a request between the cold request and the same prompt again.
        foreign_tokens: Tokens of other prompts that the server reads in between, at least. They come in
            prompts of ``prompt_tokens``.
        prompt_tokens: Length of every prompt, chat template included.
        repeats: Prefixes for each wait; each is a document of its own.
        max_tokens: Tokens to generate, at most, for every request.
        confidence: Of the two-sided intervals.
    """

    analysis_fields: ClassVar[tuple[str, ...]] = ("confidence", "max_failed_fraction")

    idle_s: list[Annotated[float, Field(ge=0, le=86_400)]] = Field(max_length=50)
    foreign_tokens: list[Annotated[int, Field(ge=0, le=100_000_000)]] = Field(max_length=50)
    prompt_tokens: int = Field(ge=1, le=10_000_000)
    repeats: int = Field(ge=1, le=1000)
    max_tokens: int = Field(default=8, ge=1, le=100_000)
    confidence: float = Field(default=0.95, gt=0.5, lt=1)

    @model_validator(mode="after")
    def _waits_differ(self) -> Self:
        for name, values in (("idle_s", self.idle_s), ("foreign_tokens", self.foreign_tokens)):
            if len(set(values)) < len(values):
                raise ValueError(f"{name} names a wait twice: {values}; name each once")
        if not self.idle_s and not self.foreign_tokens:
            raise ValueError("idle_s and foreign_tokens are both empty; name a wait")
        return self
