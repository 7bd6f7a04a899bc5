"""How many tokens the server sees in a prompt, chat template included."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import httpx

from kvlab.errors import ServerError

#: A prompt as a request body carries it: ``{"messages": …}`` or ``{"prompt": …}``.
Prompt = Mapping[str, Any]


class Counter(Protocol):
    """Counts the tokens of a prompt.

    ``exact`` says whether the count is the server's own; if not, a run reports how far it was off.
    """

    exact: bool
    source: str

    def __call__(self, prompt: Prompt) -> int:
        """Return the number of tokens."""


@dataclass
class ServerCounter:
    """The server's own tokenizer, through ``/tokenize`` (vLLM)."""

    http: httpx.Client
    url: str
    model: str
    exact: bool = True
    source: str = "/tokenize of the server"

    def __call__(self, prompt: Prompt) -> int:
        """Return the number of tokens, chat template and generation prompt included."""
        return len(self.tokens(prompt))

    def tokens(self, prompt: Prompt) -> list[int]:
        """Return the token ids.

        Raises:
            ServerError: The server does not answer as expected.
        """
        try:
            answer = self.http.post(self.url, json={"model": self.model, **prompt})
            tokens = answer.raise_for_status().json()["tokens"]
        except (httpx.HTTPError, ValueError, KeyError) as error:
            raise ServerError(f"{self.url} did not count a prompt: {error}") from None
        return list(tokens)


@dataclass
class TokenizerCounter:
    """Counts with the engine's own tokenizer."""

    tokenizer: Any
    source: str
    exact: bool = True

    def __call__(self, prompt: Prompt) -> int:
        """Return the number of tokens of ``{"prompt_token_ids": …}`` or of ``{"prompt": text}``."""
        ids = prompt.get("prompt_token_ids")
        return len(self.encode(str(prompt["prompt"])) if ids is None else ids)

    def encode(self, text: str) -> list[int]:
        """Return the token ids of ``text``, without the special tokens that a whole prompt may get."""
        return list(self.tokenizer.encode(text, add_special_tokens=False))


def shared_prefix(counter: Counter, first: Prompt, second: Prompt) -> int:
    """Return how many leading tokens two prompts share; 0 where the tokens cannot be seen.

    0 is the strict answer: then no cached token of a cold request is excused as the template's.
    """
    if not isinstance(counter, ServerCounter):
        return 0
    pairs = zip(counter.tokens(first), counter.tokens(second), strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), 0)


@dataclass
class CalibratedCounter:
    """A straight line through two prompts whose length the server reported in ``usage``.

    Attributes:
        tokens_per_character: The slope.
        overhead_tokens: The intercept: the chat template's share.
    """

    tokens_per_character: float
    overhead_tokens: float
    exact: bool = False
    source: str = "calibrated on usage.prompt_tokens"

    @classmethod
    def fit(
        cls, prompts: tuple[Prompt, Prompt], usage: Callable[[Prompt], int | None]
    ) -> "CalibratedCounter":
        """Calibrate on a short and a longer prompt.

        Raises:
            ServerError: The server reports no prompt tokens, so no prompt can be sized.
        """
        sizes = [_characters(prompt) for prompt in prompts]
        counts = [usage(prompt) for prompt in prompts]
        if counts[0] is None or counts[1] is None or sizes[0] == sizes[1]:
            raise ServerError(
                "the server neither tokenizes nor reports usage.prompt_tokens: no prompt can be sized"
            )
        slope = (counts[1] - counts[0]) / (sizes[1] - sizes[0])
        if slope <= 0:
            raise ServerError("usage.prompt_tokens does not grow with the prompt: no prompt can be sized")
        return cls(slope, counts[0] - slope * sizes[0])

    def __call__(self, prompt: Prompt) -> int:
        """Return the expected number of tokens."""
        return round(self.overhead_tokens + self.tokens_per_character * _characters(prompt))


def _characters(prompt: Prompt) -> int:
    if "messages" in prompt:
        return sum(len(message["content"]) for message in prompt["messages"])
    return len(prompt["prompt"])
