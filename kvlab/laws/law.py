"""The law of reuse: how many of a prompt's tokens a prefix cache serves.

The physics. The KV entries of a token depend on all tokens before it, so only a common *prefix* can
be reused. Three things make the reuse smaller than the prefix that is shared:

- **Grain.** Entries are kept in units: vLLM's blocks of 16 or 32 tokens, one token in llama.cpp,
  chunks of 256 in offload caches, 64 or 128 in hosted APIs, and 528 to 8,320 in hybrid models, whose
  recurrent state is kept at a few positions only. Only whole units are reused.
- **Tail.** The logits of the last token are needed to generate, and no cache stores logits: at least
  that token is always computed. With blocks of 32, a repeated prompt of 64 tokens reads 32.
- **Units taken off.** Speculative decoding with a draft head needs the last unit's hidden states, so
  vLLM drops one unit of every hit. Hosted APIs read nothing below a minimum (1,024).

``cached(L, P) = min(floor(P / grain) * grain, floor((L - tail) / tail_grain) * tail_grain) - off * grain``,
and 0 where that is below the minimum, and never above the cap. L: tokens of the prompt. P: leading
tokens shared with a prompt whose entries the cache holds. With whole blocks (tail 1, nothing off)
a full hit is ``floor((L - 1) / block) * block``: ``KVCacheManager.get_computed_blocks`` of vLLM.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

#: The fields under ``results.law`` of a ``summary.json`` of cache laws; others read that file, so their names stay.
REPORTED = (
    "grain_tokens",
    "minimum_tokens",
    "always_computed_tokens",
    "grains_off",
    "shared_start_tokens",
    "cap_tokens",
)


@dataclass(frozen=True)
class CacheLaw:
    """How many tokens of a prompt a cache serves.

    Attributes:
        grain_tokens: Tokens in a unit of reuse, at least 1.
        minimum_tokens: Fewest tokens that are served; what would be fewer is 0. 0: no minimum.
        always_computed_tokens: Tokens at the end of each prompt that are always computed.
        grains_off: Units taken off every hit (1 under speculative decoding with a draft head).
        shared_start_tokens: Leading tokens that every prompt shares (a chat template's own).
        cap_tokens: Most tokens that are served; ``None``: no cap was seen.
        tail_grain_tokens: The unit in which the always computed tail is cut off, where that is not
            the grain (a chunk store of 256 tokens above an engine with blocks of 16); ``None``: the grain.
    """

    grain_tokens: int
    minimum_tokens: int = 0
    always_computed_tokens: int = 1
    grains_off: int = 0
    shared_start_tokens: int = 0
    cap_tokens: int | None = None
    tail_grain_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.grain_tokens < 1:
            raise ValueError(f"grain_tokens must be at least 1, not {self.grain_tokens}")
        if self.tail_grain_tokens is not None and self.tail_grain_tokens < 1:
            raise ValueError(f"tail_grain_tokens must be at least 1, not {self.tail_grain_tokens}")
        rest = (self.minimum_tokens, self.always_computed_tokens, self.grains_off, self.shared_start_tokens)
        if min(*rest, self.cap_tokens or 0) < 0:
            raise ValueError("a law's numbers of tokens cannot be negative")

    @classmethod
    def whole_blocks(cls, block_size: int) -> Self:
        """Return vLLM's law: whole blocks, and the last token is always computed.

        >>> CacheLaw.whole_blocks(32).full_hit(65), CacheLaw.whole_blocks(32).full_hit(64)
        (64, 32)
        """
        return cls(block_size)

    @classmethod
    def by_token(cls, shared_start_tokens: int = 0) -> Self:
        """Return the law of llama.cpp, or of SGLang with pages of one token."""
        return cls(1, shared_start_tokens=shared_start_tokens)

    @classmethod
    def reported(cls, results: Mapping[str, Any]) -> Self | None:
        """Return the law that the ``results`` of a ``summary.json`` of cache laws hold; ``None``: they hold none."""
        law = results.get("law")
        if not isinstance(law, Mapping) or law.get("grain_tokens") is None:
            return None
        tail = (results.get("detail") or {}).get("tail_grain_tokens")
        return cls(**{name: law[name] for name in REPORTED}, tail_grain_tokens=tail)

    def predict(self, prompt_tokens: int, shared_prefix_tokens: int) -> int:
        """Return how many tokens are served.

        Args:
            prompt_tokens: The prompt's length L as the server counts it, template included.
            shared_prefix_tokens: P: how many leading tokens, the template's own start included, are
                shared with something that is cached. The whole prompt: L. What every prompt shares
                (`shared_start_tokens`) is taken as shared in any case.
        """
        shared = min(max(shared_prefix_tokens, self.shared_start_tokens), prompt_tokens)
        grain = self.grain_tokens
        tail = self.tail_grain_tokens or grain
        reach = max(0, prompt_tokens - self.always_computed_tokens) // tail * tail
        served = min(shared // grain * grain, reach) - self.grains_off * grain
        if self.cap_tokens is not None:
            served = min(served, self.cap_tokens)
        return served if served > 0 and served >= self.minimum_tokens else 0

    def full_hit(self, prompt_tokens: int) -> int:
        """Return what a prompt reads when all of it was cached before."""
        return self.predict(prompt_tokens, prompt_tokens)

    @property
    def chance_tokens(self) -> int:
        """How many tokens two unrelated prompts may share by chance beyond the template's start.

        Markers are hexadecimal digits, so two of them begin alike now and then, and a cache that
        reuses by the token shows it. Five digits or more in common are seen once in a million pairs.
        """
        return min(4, 4 // self.grain_tokens * self.grain_tokens)

    @property
    def words(self) -> str:
        """The law in a few words, for reports."""
        grain = "by the token" if self.grain_tokens == 1 else f"in steps of {self.grain_tokens} tokens"
        more = [f"from {self.minimum_tokens} tokens on"] * (self.minimum_tokens > 0)
        more += [f"{self.grains_off} steps fewer"] * (self.grains_off > 0)
        more += [f"at most {self.cap_tokens} tokens"] * (self.cap_tokens is not None)
        more += [f"the last {self.always_computed_tokens} always computed"]
        if self.tail_grain_tokens not in (None, self.grain_tokens):
            more += [f"cut off in steps of {self.tail_grain_tokens}"]
        return ", ".join([grain, *more])

    @property
    def formula(self) -> str:
        """The law as a line to read, with L and P as in `predict`."""
        grain, tail = self.grain_tokens, self.tail_grain_tokens or self.grain_tokens
        a = self.always_computed_tokens
        length = f"L − {a}" if a else "L"
        if grain == tail == 1:
            text = f"min(P, {length})"
        elif grain == tail:
            text = f"floor(min(P, {length}) / {grain}) · {grain}"
        else:
            end = f"({length})" if tail == 1 else f"floor(({length}) / {tail}) · {tail}"
            text = f"min(floor(P / {grain}) · {grain}, {end})"
        if self.grains_off:
            text += f" − {self.grains_off * grain}"
        if self.minimum_tokens > grain or (self.minimum_tokens and self.grains_off):
            text += f", 0 below {max(self.minimum_tokens, 1):,}"
        elif self.grains_off:
            text += ", at least 0"
        if self.cap_tokens is not None:
            text += f", at most {self.cap_tokens:,}"
        return f"cached(L, P) = {text}"
