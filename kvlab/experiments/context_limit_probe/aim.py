"""Which size to try next on an endpoint, from what has been tried: the same before a run stops and after.

A maximum that the server states is not believed but tried; whatever is left is halved. Where nothing
failed, the size is doubled, up to a ceiling, and no further than one is willing to wait.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kvlab.endpoints.connect import Identity
from kvlab.experiments.context_limit_probe.ledger import Bracket, Probe, bracket, settled
from kvlab.experiments.context_limit_probe.scale import Scale, scale_of

if TYPE_CHECKING:
    from kvlab.experiments.context_limit_probe.params import ContextLimitProbeParams

STATED, DOUBLING, BISECTION = "stated maximum", "doubling", "bisection"
#: How far from a stated maximum a context is aimed whose tokens are only known by a scale.
_NEAR = 0.005


@dataclass(frozen=True)
class Aim:
    """What to try next.

    Attributes:
        size: In the unit that sizes are compared in (`Probe.size`); ``None``: nothing more.
        why: Why this size, or why none.
        left_out_tokens: What would have been tried but for a ceiling or a wait; ``None``: nothing.
    """

    size: int | None
    why: str
    left_out_tokens: int | None = None


def tolerance_tokens(low: int, params: "ContextLimitProbeParams", identity: Identity | None) -> int:
    """Return how close success and failure must be: as set, or one block or 1 %, whichever is more."""
    if params.resolution_tokens is not None:
        return params.resolution_tokens
    block = identity.block_size if identity is not None else None
    return max(block or 1, low // 100)


def next_aim(
    probes: Sequence[Probe],
    params: "ContextLimitProbeParams",
    identity: Identity | None,
    guess: Scale | None = None,
) -> Aim:
    """Return what to try next.

    Args:
        probes: The endpoint's, in the order of trying.
        params: Tolerance, ceiling, patience.
        identity: What the server states of itself.
        guess: Tokens of characters, while no context was held; ``None``: sizes are tokens.
    """
    known = settled(probes)
    found = bracket(known)
    by_characters = any("characters" in probe.detail for probe in probes) or guess is not None
    scale = scale_of(known, guess or Scale(((1, 1),))) if by_characters else None
    tried = sum(probe.chosen_by == STATED for probe in known)
    tolerance = tolerance_tokens(found.low, params, identity)
    ceiling = params.ceiling_tokens
    if scale is not None:
        tolerance = int(0.9 * scale.characters_a_token * tolerance)  # the scale still moves
        ceiling = scale.characters(ceiling)
    aim = next_size(found, candidates(found, _maximum(found, identity), scale, tried), tolerance, ceiling)
    return _affordable(aim, found, scale, params)


def candidates(found: Bracket, stated: int | None, scale: Scale | None, tried: int) -> list[int]:
    """Return the sizes around a stated maximum: itself, one less (room for a generated token), one more.

    Where nothing has failed, the one that should be held comes first. By a scale, none of them can be hit:
    then it is one size just below and one just above, each once.
    """
    if stated is None:
        return []
    if scale is not None:
        near = [scale.characters(stated * (1 - _NEAR)), scale.characters(stated * (1 + _NEAR))]
        return near[tried:]
    return [stated - 1, stated, stated + 1] if found.failed is None else [stated, stated - 1, stated + 1]


def next_size(found: Bracket, near_stated: Sequence[int], tolerance: int, ceiling: int) -> Aim:
    """Return the next size to try and why; sizes, tolerance and ceiling in one unit."""
    low, high = found.low_size, None if found.failed is None else found.failed.size
    for size in near_stated:
        if low < size and (high is None or size < high):
            return Aim(size, STATED)
    if high is None and low == 0:
        return Aim(None, "nothing was accepted")
    if high is None:
        return Aim(
            None if low >= ceiling else min(2 * low, ceiling), DOUBLING, None if low < ceiling else 2 * low
        )
    if high - low <= max(1, tolerance):
        return Aim(None, "near enough")
    return Aim((low + high) // 2, BISECTION)


def _maximum(found: Bracket, identity: Identity | None) -> int | None:
    """Return the maximum that the server states: in its refusals, else in its list of models."""
    stated = found.failed.detail.get("stated") if found.failed else None
    return int(stated) if stated else identity.max_model_len if identity is not None else None


def _affordable(aim: Aim, found: Bracket, scale: Scale | None, params: "ContextLimitProbeParams") -> Aim:
    """Return the aim, or why it is not tried: nothing has failed yet, and it is too far."""
    if found.failed is not None or found.held is None or (aim.size is None and aim.left_out_tokens is None):
        return aim
    size = aim.size or aim.left_out_tokens or 0
    tokens = size if scale is None else scale.tokens(size)
    if aim.size is None or tokens > params.ceiling_tokens:
        why = f"it is above ceiling_tokens={params.ceiling_tokens:,}"
        return Aim(None, why, tokens)
    wait_s = predicted_s(found.held, tokens)
    if wait_s is not None and wait_s > params.longest_wait_s:
        why = (
            f"its first token would take about {wait_s:,.0f} s, by those of the context before, and "
            f"longest_wait_s={params.longest_wait_s:g}"
        )
        return Aim(None, why, tokens)
    return aim


def predicted_s(held: Probe, tokens: int) -> float | None:
    """Return how long a context may take to its first token if none of it is cached: time grows with its square.

    ``None``: the held probe has no TTFT.
    """
    ttft_ms, computed = held.detail.get("ttft_ms"), held.tokens - (held.detail.get("cached_tokens") or 0)
    if ttft_ms is None or computed < 1:
        return None
    return float(ttft_ms / 1e3 / computed * tokens * max(1.0, tokens / held.tokens))
