"""From evidence to a label: cold, hit, partial, or unverified.

The label comes from what the server says, compared with what the law of its cache predicts. Never
from what the code meant to do, and never from a time.

A law says how many tokens of a prompt are read from the cache when so many of its leading tokens are
known there. vLLM's keeps whole blocks, and always computes the last token of a prompt (its logits are
needed), so a full hit of n tokens reads ``floor((n - 1) / block) * block`` of them
(``KVCacheManager.get_computed_blocks``). llama.cpp reuses by the token, hosted APIs from a minimum on.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from kvlab.laws.law import CacheLaw as CacheLaw


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
        field_tokens: The value of ``KV_METRIC_RESPONSE_FIELD``; it stands in where usage says nothing.
        reset: What the engine answered when it was told, just before, to empty its prefix cache;
            ``None``: it was not told to. It never makes a label, it only stands beside one.
        metrics_reason: Why the counters say nothing of this request.
        contradiction: Why nothing that the answer says can be believed: another model gave it, or its
            usage does not fit its own stream.
    """

    prompt_tokens: int | None = None
    usage_tokens: int | None = None
    metrics_tokens: int | None = None
    field_tokens: int | None = None
    reset: bool | None = None
    metrics_reason: str | None = None
    contradiction: str | None = None


@dataclass(frozen=True)
class CacheLabel:
    """A label with its grounds.

    Attributes:
        state: The label.
        cached_tokens: Tokens read from the cache; ``None`` where nothing, or two things, were said.
        predicted_tokens: What a full hit reads; ``None`` without a law.
        source: Which evidence the figure is from.
        reason: One sentence.
    """

    state: CacheState
    cached_tokens: int | None
    predicted_tokens: int | None
    source: str | None
    reason: str


def full_hit_tokens(prompt_tokens: int, block_size: int) -> int:
    """Return how many tokens a full hit reads of whole blocks: ``floor((prompt_tokens - 1) / block) * block``.

    >>> full_hit_tokens(65, 32), full_hit_tokens(64, 32)
    (64, 32)
    """
    return CacheLaw.whole_blocks(block_size).full_hit(prompt_tokens)


def classify(
    evidence: Evidence, law: CacheLaw | None, shared_tokens: int = 0, prefix_tokens: int | None = None
) -> CacheLabel:
    """Label one request.

    Args:
        evidence: What the server said.
        law: What its cache reuses; ``None`` where that is unknown.
        shared_tokens: Leading tokens that every prompt of the run shares (the template's own), which
            may be in the cache of a request that is cold in all that is its own.
        prefix_tokens: How many leading tokens were put into the cache, where that is less than the
            prompt: then a hit reads what the law makes of those. ``None``: the whole prompt was.
    """
    full = predicted = None
    if evidence.prompt_tokens is not None and law is not None:
        full = predicted = law.full_hit(evidence.prompt_tokens)
        if prefix_tokens is not None:
            predicted = law.predict(evidence.prompt_tokens, prefix_tokens)

    def label(state: CacheState, reason: str) -> CacheLabel:
        known = state is not CacheState.UNVERIFIED
        return CacheLabel(state, cached if known else None, predicted, source if known else None, reason)

    answer, counted = evidence.usage_tokens, evidence.metrics_tokens
    source, cached = "usage", answer
    if evidence.contradiction is not None:
        return label(CacheState.UNVERIFIED, evidence.contradiction)
    if evidence.field_tokens is not None:
        if answer is not None and answer != evidence.field_tokens:
            text = f"the response field says {evidence.field_tokens} cached tokens, usage {answer}"
            return label(CacheState.UNVERIFIED, text)
        source, answer = "response field", evidence.field_tokens
        cached = answer
    if answer is not None and counted is not None and answer != counted:
        return label(CacheState.UNVERIFIED, f"the answer says {answer} cached tokens, the counters {counted}")
    if cached is None:
        cached, source = counted, "metrics"
    if cached is None:
        more = f" (counters: {evidence.metrics_reason})" if evidence.metrics_reason else ""
        return label(CacheState.UNVERIFIED, f"the server says nothing about cached tokens{more}")
    limit = evidence.prompt_tokens
    if cached < 0 or (limit is not None and cached > limit):
        return label(CacheState.UNVERIFIED, f"{cached} cached tokens of a prompt of {limit} is impossible")
    if law is None:
        return label(*_state_without_law(cached, limit))
    return label(*_state(cached, predicted, full, law, shared_tokens))


def _state(
    cached: int, predicted: int | None, full: int | None, law: CacheLaw, shared_tokens: int
) -> tuple[CacheState, str]:
    start = max(shared_tokens, law.shared_start_tokens)
    shared = start // law.grain_tokens * law.grain_tokens
    mine = shared + law.chance_tokens  # what a request may read that is cold in all that is its own
    if cached == 0:
        return CacheState.COLD, "0 cached tokens"
    if full is not None and cached > full:
        text = f"{cached} cached tokens, more than the {full} that its cache can reuse"
        return CacheState.UNVERIFIED, f"{text} ({law.words}): that law is not this server's"
    if predicted is not None and cached == predicted > mine:
        return CacheState.HIT, f"{cached} cached tokens, as predicted for a full hit"
    if predicted is not None and cached > predicted > mine:
        return CacheState.HIT, f"{cached} cached tokens, beyond the {predicted} of the prefix"
    if cached <= shared:
        return CacheState.COLD, f"{cached} cached tokens, the template's own shared start"
    if cached <= mine:
        return (
            CacheState.COLD,
            f"{cached} cached tokens, the template's {shared} and a digit or two in common",
        )
    if predicted is not None:
        return CacheState.PARTIAL, f"{cached} of {predicted} predicted tokens were cached"
    return CacheState.PARTIAL, f"{cached} cached tokens of a prompt of unknown length"


def _state_without_law(cached: int, prompt_tokens: int | None) -> tuple[CacheState, str]:
    if cached == 0:
        return CacheState.COLD, "0 cached tokens"
    if prompt_tokens is not None and cached >= prompt_tokens - 1:
        return CacheState.HIT, f"{cached} cached tokens, all but the last"
    text = "what its cache reuses is unknown, so a full hit is not shown"
    return CacheState.PARTIAL, f"{cached} cached tokens; {text}"


def zero_judged(evidence: Evidence, nothing_reused: str | None) -> Evidence:
    """Return the evidence for a server whose 0 proves nothing: such a 0 is a contradiction.

    Args:
        evidence: What it said.
        nothing_reused: Why a 0 proves nothing there; ``None``: it proves a cold request.
    """
    reported = (evidence.usage_tokens, evidence.field_tokens, evidence.metrics_tokens)
    if (
        nothing_reused is None
        or evidence.contradiction is not None
        or any(reported)
        or reported == (None,) * 3
    ):
        return evidence
    return replace(evidence, contradiction=nothing_reused)


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
