"""How many tokens the server sees in a prompt, chat template included."""

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import httpx

from kvlab.endpoints.pages import fetch
from kvlab.errors import ServerError
from kvlab.evidence import as_tokens

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
    """The server's own tokenizer, through ``/tokenize`` (vLLM).

    Attributes:
        chat_offset: How many tokens more ``usage`` counts of a chat than the page does (some leave out
            the generation prompt).
        redact: Takes secrets out of what the server says, before it is cut.
    """

    http: httpx.Client
    url: str
    model: str
    exact: bool = True
    source: str = "/tokenize of the server"
    chat_offset: int = 0
    redact: Callable[[str], str] = str

    def __call__(self, prompt: Prompt) -> int:
        """Return the number of tokens, chat template and generation prompt included."""
        return len(self.tokens(prompt)) + (self.chat_offset if "messages" in prompt else 0)

    def tokens(self, prompt: Prompt) -> list[int]:
        """Return the token ids.

        Raises:
            ServerError: The server does not answer as expected.
        """
        page = fetch(
            self.http, self.url, body={"model": self.model, **prompt}, max_bytes=2**26, timeout_s=60.0
        )
        tokens = page.object().get("tokens")
        if not isinstance(tokens, list) or not all(type(token) is int for token in tokens):
            detail = "its answer has no list of token ids" if page.ok else self.redact(page.message())[:200]
            raise ServerError(f"{self.url} did not count a prompt: HTTP {page.status}: {detail}")
        return tokens


@dataclass
class InputTokensCounter:
    """The server's own count of a chat, through ``/v1/chat/completions/input_tokens`` (llama.cpp).

    Its tokens are listed by ``/apply-template`` and ``/tokenize``.
    """

    http: httpx.Client
    url: str
    model: str
    exact: bool = True
    source: str = "/v1/chat/completions/input_tokens of the server"
    redact: Callable[[str], str] = str

    def __call__(self, prompt: Prompt) -> int:
        """Return the number of tokens, chat template and generation prompt included.

        Raises:
            ServerError: The server does not answer as expected.
        """
        page = fetch(self.http, self.url, body={"model": self.model, **prompt}, timeout_s=60.0)
        tokens = as_tokens(page.object().get("input_tokens"))
        if not tokens:
            detail = self.redact(page.message())[:200]
            raise ServerError(f"{self.url} did not count a prompt: HTTP {page.status}: {detail}")
        return tokens

    def tokens(self, prompt: Prompt) -> list[int] | None:
        """Return a chat's token ids; ``None``: the server does not list them, or others than it counts."""
        root = self.url.partition("/v1/")[0]
        applied = fetch(self.http, f"{root}/apply-template", body=dict(prompt), timeout_s=60.0)
        text = applied.object().get("prompt")
        if not isinstance(text, str):
            return None
        body = {"content": text, "add_special": True, "parse_special": True}
        page = fetch(self.http, f"{root}/tokenize", body=body, max_bytes=2**26, timeout_s=60.0)
        tokens = page.object().get("tokens")
        if not isinstance(tokens, list) or not all(type(token) is int for token in tokens):
            return None
        return tokens if len(tokens) == self(prompt) else None


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
    if not isinstance(counter, ServerCounter | InputTokensCounter):
        return 0
    pairs = zip(counter.tokens(first) or (), counter.tokens(second) or (), strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), 0)


#: Asks for one token and returns ``(prompt_tokens, cached_tokens)`` of the answer's usage.
Ask = Callable[[Prompt], tuple[int | None, int | None]]


@dataclass
class CalibratedCounter:
    """A straight line through prompts whose length the server reported in ``usage``.

    It starts from two prompts of its own; once real documents were counted (`measure`, `observe`), they
    take the place of those: a token of a manual has fewer characters than one of plain prose.

    Attributes:
        tokens_per_character: The slope.
        overhead_tokens: The intercept: the chat template's share.
        ask: Makes a request.
        seen: Characters and tokens of the real documents so far, the last ones.
    """

    tokens_per_character: float
    overhead_tokens: float
    ask: Ask | None = None
    seen: list[tuple[int, int]] = field(default_factory=list)
    exact: bool = False
    source: str = "calibrated on usage.prompt_tokens"

    @classmethod
    def fit(cls, prompts: tuple[Prompt, Prompt], ask: Ask) -> "CalibratedCounter":
        """Calibrate on a short and a longer prompt.

        Raises:
            ServerError: The server reports no prompt tokens, so no prompt can be sized.
        """
        sizes = [_characters(prompt) for prompt in prompts]
        short, long = (ask(prompt)[0] for prompt in prompts)
        if short is None or long is None or sizes[0] == sizes[1]:
            raise ServerError(
                "the server neither tokenizes nor reports usage.prompt_tokens: no prompt can be sized"
            )
        slope = (long - short) / (sizes[1] - sizes[0])
        if slope <= 0:
            detail = f"{short}, then {long} for a prompt four times as long"
            raise ServerError(
                f"usage.prompt_tokens does not grow with the prompt ({detail}): no prompt can be sized"
            )
        return cls(slope, short - slope * sizes[0], ask)

    def __call__(self, prompt: Prompt) -> int:
        """Return the expected number of tokens."""
        slope, overhead = self._line()
        return max(0, round(overhead + slope * _characters(prompt)))

    def observe(self, prompt: Prompt, tokens: int | None) -> bool:
        """Take what the server counted of a real document. Returns whether it was taken.

        A count far from the expected one is none of the whole prompt: some servers report only what
        they computed, others cut.
        """
        if tokens is None or not 0.5 < tokens / max(1, self(prompt)) < 2.0:
            return False
        self.seen = [*self.seen[-63:], (_characters(prompt), tokens)]
        return True

    def measure(self, prompt: Prompt) -> int | None:
        """Ask the server to read a prompt, and learn from its count; ``None``: it gave none that can be right.

        What is asked is in the server's cache then: it must not be a prompt that is measured later.
        """
        tokens = None if self.ask is None else self.ask(prompt)[0]
        return tokens if self.observe(prompt, tokens) else None

    def _line(self) -> tuple[float, float]:
        """Return slope and intercept: least squares of relative errors, once the documents differ in length."""
        line = self.tokens_per_character, self.overhead_tokens
        if not self.seen:
            return line
        weights = [1 / tokens**2 for _, tokens in self.seen]
        total = sum(weights)
        x = sum(w * c for w, (c, _) in zip(weights, self.seen, strict=True)) / total
        y = sum(w * t for w, (_, t) in zip(weights, self.seen, strict=True)) / total
        spread = sum(w * (c - x) ** 2 for w, (c, _) in zip(weights, self.seen, strict=True))
        # Below a tenth of a difference in length, the slope would be made of noise.
        if max(c for c, _ in self.seen) > 1.1 * min(c for c, _ in self.seen):
            slope = sum(w * (c - x) * (t - y) for w, (c, t) in zip(weights, self.seen, strict=True)) / spread
            return (slope, y - slope * x) if slope > 0 else line
        overhead = min(self.overhead_tokens, y / 2)
        return (y - overhead) / x, overhead


def shared_start(counter: Counter, first: Prompt, second: Prompt) -> int:
    """Return how many leading tokens all prompts of a kind share: the chat template's own.

    Where the tokens cannot be listed, it is found by evidence: prompts that share nothing but what the two
    samples share are asked for, and what the later ones read from the cache is their start.

    Args:
        counter: Of the endpoint.
        first: A prompt of the kind.
        second: Another, of another marker.
    """
    if not isinstance(counter, CalibratedCounter) or counter.ask is None:
        return shared_prefix(counter, first, second)
    fresh = [unrelated(first, second) for _ in range(4)]
    if None in fresh:
        return 0
    read = [counter.ask(prompt)[1] for prompt in fresh if prompt is not None]
    # The least of what was read: two random markers may begin alike.
    return min((tokens for tokens in read[1:] if tokens), default=0)


def unrelated(first: Prompt, second: Prompt) -> Prompt | None:
    """Return a prompt like two samples, that shares with others of its kind only what these two share.

    ``None``: they are bare text that shares nothing.
    """
    if "messages" not in first:
        return None
    messages = [dict(message) for message in first["messages"]]
    for mine, other in zip(messages, second["messages"], strict=False):
        if mine["content"] == other["content"]:
            continue
        pairs = zip(mine["content"], other["content"], strict=False)
        same = next((i for i, (a, b) in enumerate(pairs) if a != b), 0)
        # As many characters as its marker has, and then some: a fresh prompt for whatever law there is.
        mine["content"] = mine["content"][:same] + secrets.token_hex(16) + mine["content"][same + 16 :]
        return {"messages": messages}
    return None


def _characters(prompt: Prompt) -> int:
    if "messages" in prompt:
        return sum(len(message["content"]) for message in prompt["messages"])
    return len(prompt["prompt"])
