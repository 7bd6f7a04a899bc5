"""What is asked of a server, and what it answers: the only border between this room and any engine.

A probe's prompt is described, not written: how long it is, and how many leading tokens it shares with
a *base*, an endless text of its own. Whoever sends it makes the tokens (`token_ids` for token-id
prompts; a list of one-token words elsewhere). Equal descriptions are equal prompts.
"""

import random
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class PromptSpec:
    """A prompt to be made.

    Attributes:
        own_tokens: Tokens of the content, without what the chat template adds.
        shared_tokens: How many of them, from the first, are those of the base; the others are the
            tail's, and the first of these differs from the base and from every other tail.
        base: Which base; two bases differ from the first token on.
        tail: Which tail.
        tenant: Under which salt, key, user or session it is sent; ``None``: the default one.
    """

    own_tokens: int
    shared_tokens: int = 0
    base: int = 0
    tail: int = 0
    tenant: str | None = None


@dataclass(frozen=True)
class Answer:
    """What came back.

    Attributes:
        prompt_tokens: Length of the prompt as the server counted it; ``None``: it does not say.
        cached_tokens: Tokens served from the cache; ``None``: it does not say, or the request failed.
        own_tokens: The content's tokens as they were really sent, where that is not what was asked for.
        shared_tokens: The same for the shared part.
        ttft_ms: Time to first token, where it was measured.
        note: Why there is no answer, in the server's own words.
    """

    prompt_tokens: int | None
    cached_tokens: int | None
    own_tokens: int | None = None
    shared_tokens: int | None = None
    ttft_ms: float | None = None
    note: str | None = None


class Probe(Protocol):
    """Sends one prompt, alone, and waits for its answer."""

    def __call__(self, spec: PromptSpec) -> Answer:
        """Return what the server said."""
        ...


def token_ids(spec: PromptSpec, low: int = 1000, high: int = 31000) -> list[int]:
    """Return the content of ``spec`` as token ids in ``[low, high)``.

    Bases use the lower half of the range, tails the upper half, so that they always differ where one
    ends; the first token tells bases, and tails, apart.

    Raises:
        ValueError: A base or a tail has a number for which the range has no first token left.
    """
    half = (high - low) // 2
    if max(spec.base, spec.tail) >= half:
        raise ValueError(f"a range of {high - low} token ids tells {half} bases and tails apart, not more")
    start = _stream(spec.base, spec.shared_tokens, low, half, "base")
    rest = _stream(spec.tail, spec.own_tokens - spec.shared_tokens, low + half, half, "tail")
    return start + rest


def _stream(number: int, length: int, low: int, size: int, kind: str) -> list[int]:
    if length <= 0:
        return []
    draw = random.Random(f"{kind} {number}")  # noqa: S311 - text, not a secret
    return [low + number, *(low + int(draw.random() * size) for _ in range(length - 1))]
