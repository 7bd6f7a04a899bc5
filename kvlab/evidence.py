"""From evidence to a label: cold, hit, partial, or unverified.

The label comes from what the server says, compared with what its block size predicts. Never from
what the code meant to do, and never from a time.

A prefix cache keeps whole blocks, and the last token of a prompt is always computed (its logits
are needed), so a full hit of a prompt of n tokens reads ``floor((n - 1) / block) * block`` tokens
(vLLM, ``KVCacheManager.get_computed_blocks``).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class CacheState(StrEnum):
    """What the cache held of a prompt when it was served."""

    COLD = "cold"
    HIT = "hit"
    PARTIAL = "partial"
    UNVERIFIED = "unverified"


@dataclass(frozen=True)
class Evidence:
    """What the server said about one request; ``None``: it said nothing there.

    Attributes:
        prompt_tokens: Length of the prompt as the server counted it, chat template included.
        usage_tokens: ``usage.prompt_tokens_details.cached_tokens``.
        metrics_tokens: Difference of the server's own counters over this request alone.
        field_tokens: The value of ``KV_METRIC_RESPONSE_FIELD``; it replaces the usage figure.
        reset: What the engine answered when it was told, just before, to empty its prefix cache;
            ``None``: it was not told to. It never makes a label, it only stands beside one.
    """

    prompt_tokens: int | None = None
    usage_tokens: int | None = None
    metrics_tokens: int | None = None
    field_tokens: int | None = None
    reset: bool | None = None


@dataclass(frozen=True)
class CacheLabel:
    """A label with its grounds.

    Attributes:
        state: The label.
        cached_tokens: Tokens read from the cache; ``None`` where nothing, or two things, were said.
        predicted_tokens: What a full hit reads; ``None`` without a block size.
        source: Which evidence the figure is from.
        reason: One sentence.
    """

    state: CacheState
    cached_tokens: int | None
    predicted_tokens: int | None
    source: str | None
    reason: str


def full_hit_tokens(prompt_tokens: int, block_size: int) -> int:
    """Return how many tokens a full hit reads: ``floor((prompt_tokens - 1) / block) * block``.

    >>> full_hit_tokens(65, 32), full_hit_tokens(64, 32)
    (64, 32)
    """
    return max(0, (prompt_tokens - 1) // block_size * block_size)


def classify(
    evidence: Evidence, block_size: int | None, shared_tokens: int = 0, prefix_tokens: int | None = None
) -> CacheLabel:
    """Label one request.

    Args:
        evidence: What the server said.
        block_size: Tokens a block; ``None`` where unknown.
        shared_tokens: Leading tokens that every prompt shares (the template's own), which may be
            in the cache of a request that is cold in all that is its own.
        prefix_tokens: How many leading tokens were put into the cache, where that is less than the
            prompt: then a hit reads their whole blocks, ``floor(prefix / block) * block``.
            ``None``: the whole prompt was.
    """
    full = predicted = None
    if evidence.prompt_tokens is not None and block_size is not None:
        full = predicted = full_hit_tokens(evidence.prompt_tokens, block_size)
        if prefix_tokens is not None:
            predicted = min(full, prefix_tokens // block_size * block_size)

    def label(state: CacheState, reason: str) -> CacheLabel:
        known = state is not CacheState.UNVERIFIED
        return CacheLabel(state, cached if known else None, predicted, source if known else None, reason)

    answer = evidence.usage_tokens if evidence.field_tokens is None else evidence.field_tokens
    source = "usage" if evidence.field_tokens is None else "response field"
    cached, counted = answer, evidence.metrics_tokens
    if answer is not None and counted is not None and answer != counted:
        return label(CacheState.UNVERIFIED, f"the answer says {answer} cached tokens, the counters {counted}")
    if cached is None:
        cached, source = counted, "metrics"
    if cached is None:
        return label(CacheState.UNVERIFIED, "the server says nothing about cached tokens")
    limit = evidence.prompt_tokens
    if cached < 0 or (limit is not None and cached > limit):
        return label(CacheState.UNVERIFIED, f"{cached} cached tokens of a prompt of {limit} is impossible")
    return label(*_state(cached, predicted, full, limit, block_size, shared_tokens))


def _state(
    cached: int,
    predicted: int | None,
    full: int | None,
    prompt_tokens: int | None,
    block_size: int | None,
    shared_tokens: int,
) -> tuple[CacheState, str]:
    shared = shared_tokens // block_size * block_size if block_size else 0
    if cached == 0:
        return CacheState.COLD, "0 cached tokens"
    if full is not None and cached > full:
        text = f"{cached} cached tokens, more than the {full} that whole blocks allow"
        return CacheState.UNVERIFIED, f"{text}: the block size is not {block_size}"
    if cached == predicted and predicted > shared:
        return CacheState.HIT, f"{cached} cached tokens, as predicted for a full hit"
    if predicted is not None and cached > predicted > shared:
        return CacheState.HIT, f"{cached} cached tokens, beyond the {predicted} of the prefix"
    if cached <= shared:
        return CacheState.COLD, f"{cached} cached tokens, the template's own shared blocks"
    if predicted is not None:
        return CacheState.PARTIAL, f"{cached} of {predicted} predicted tokens were cached"
    if prompt_tokens is not None and cached >= prompt_tokens - 1:
        return CacheState.HIT, f"{cached} cached tokens, all but the last"
    return (
        CacheState.PARTIAL,
        f"{cached} cached tokens; the block size is unknown, so a full hit is not shown",
    )


def as_tokens(value: Any) -> int | None:  # noqa: ANN401 - JSON
    """Return a token count out of a JSON value, or ``None`` if it is not a whole number ≥ 0."""
    if isinstance(value, bool):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, str) and len(value) < 20 and value.strip().isdecimal():
        value = int(value)
    return value if isinstance(value, int) and 0 <= value < 2**63 else None


def usage_evidence(usage: Mapping[str, Any] | None) -> tuple[int | None, int | None]:
    """Return ``(prompt_tokens, cached_tokens)`` of an OpenAI-style usage object."""
    if usage is None:
        return None, None
    details = usage.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else None
    return as_tokens(usage.get("prompt_tokens")), as_tokens(cached)
