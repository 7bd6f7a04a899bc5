"""What a plan asks of a server: requests and tokens, at most."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Demand:
    """What a plan sends at most, the failed attempts that are repeated apart.

    Attributes:
        requests: How many requests.
        prompt_tokens: Tokens of all their prompts, those that a cache will serve too.
        completion_tokens: Generated tokens.
        why: Why a number is ``None``: unknown, and so without a bound.
    """

    requests: int | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    why: str = "this experiment does not say"

    @property
    def tokens(self) -> int | None:
        """Prompt and completion tokens together; ``None``: one of them has no bound."""
        if self.prompt_tokens is None or self.completion_tokens is None:
            return None
        return self.prompt_tokens + self.completion_tokens

    def __add__(self, other: "Demand") -> "Demand":
        """Return both together; unknown where one of them is."""
        why = self.why if None in (self.requests, self.tokens) else other.why
        return Demand(
            _sum(self.requests, other.requests),
            _sum(self.prompt_tokens, other.prompt_tokens),
            _sum(self.completion_tokens, other.completion_tokens),
            why,
        )


def _sum(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else one + other
