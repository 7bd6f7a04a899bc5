"""Which size to try next, from what has been tried: the same before a run stops and after.

A maximum that the server states is not believed but tried; whatever is left is halved. Where nothing
failed, the size is doubled, up to a ceiling, and no further than one is willing to wait.

Where a server takes no token ids and has no tokenizer to ask, sizes are characters. The growing context
is always the same text, so its length in characters orders its versions, whatever the server's tokenizer
makes of them. What a version has in tokens is read off the server's own counts of those that it held, and
only guessed before there are any (`Scale`).
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

from kvlab.endpoints.connect import Identity
from kvlab.experiments.context_limit_probe.ledger import Probe
from kvlab.experiments.context_limit_probe.outcomes import ProbeOutcome

if TYPE_CHECKING:
    from kvlab.experiments.context_limit_probe.params import ContextLimitProbeParams

STATED, DOUBLING, BISECTION = "stated maximum", "doubling", "bisection"
#: How far from a stated maximum a context is aimed whose tokens are only known by a scale.
_NEAR = 0.005
#: Outcomes that bound nothing unless they come twice at one size.
_WITHOUT_A_CAUSE = (ProbeOutcome.RUN_ENDED, ProbeOutcome.SERVER_ERROR)
#: Of the tokens that a longer context must add, a whole one has at least this share: by one earlier count, by more.
_SHARE_BY_ONE, _SHARE = 0.6, 0.85
#: What two counts of the same text may differ by, in tokens.
_SLACK_TOKENS = 8


# Between which sizes a limit lies ---------------------------------------------------------------------


@dataclass(frozen=True)
class Bracket:
    """Between which two sizes a limit lies.

    Attributes:
        held: The largest that was held; ``None``: none was.
        failed: The smallest larger one that was not; ``None``: none failed.
    """

    held: Probe | None
    failed: Probe | None

    @property
    def low(self) -> int:
        """Tokens that are known to be held; 0: none."""
        return self.held.tokens if self.held else 0

    @property
    def low_size(self) -> int:
        """Size (`Probe.size`) that is known to be held; 0: none."""
        return self.held.size if self.held else 0


def bracket(probes: Sequence[Probe]) -> Bracket:
    """Return the bracket of one target's probes.

    A failure below a size that was held later does not bound it (a timeout on a busy machine, a run
    that somebody killed). Of two failures of the same size, one with a cause counts.
    """
    held = max((probe for probe in probes if probe.held), key=lambda probe: probe.size, default=None)
    low = held.size if held else 0
    failed = [
        probe for probe in probes if probe.outcome not in (None, ProbeOutcome.HELD) and probe.size > low
    ]
    smallest = min(failed, key=lambda p: (p.size, p.outcome in _WITHOUT_A_CAUSE), default=None)
    return Bracket(held, smallest)


def first_loss(probes: Sequence[Probe]) -> Bracket:
    """Return between which sizes quality was lost first.

    An answer that is right beyond a loss is luck, or a loss that was: neither moves the limit up.
    """
    lost = min(
        (p for p in probes if p.outcome not in (None, ProbeOutcome.HELD)), key=lambda p: p.size, default=None
    )
    below = [p for p in probes if p.held and (lost is None or p.size < lost.size)]
    return Bracket(max(below, key=lambda probe: probe.size, default=None), lost)


def confirmed(probes: Sequence[Probe]) -> list[Probe]:
    """Return an endpoint's probes without the failures that name no cause, unless there are two at that size.

    A server does not die with the run, and whoever stops a run does not say that its context is too
    long; nor does a plain HTTP 500. So the size is tried once more.
    """
    unclear = Counter(probe.size for probe in probes if probe.outcome in _WITHOUT_A_CAUSE)
    return [probe for probe in probes if probe.outcome not in _WITHOUT_A_CAUSE or unclear[probe.size] > 1]


# From characters to tokens ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Scale:
    """A rising line through (characters, tokens), straight between its points and beyond them."""

    points: tuple[tuple[int, int], ...]

    def tokens(self, characters: float) -> int:
        """Return how many tokens so many characters of the growing context have."""
        return round(_along(self.points, characters))

    @property
    def characters_per_token(self) -> float:
        """Return how many characters more have one token more."""
        (x0, y0), (x1, y1) = self.points[0] if len(self.points) > 1 else (0, 0), self.points[-1]
        return (x1 - x0) / (y1 - y0)

    def characters(self, tokens: float) -> int:
        """Return how many characters of the growing context have so many tokens."""
        return round(_along(tuple((y, x) for x, y in self.points), tokens))


def _along(points: Sequence[tuple[int, int]], x: float) -> float:
    if len(points) == 1:
        return points[0][1] * x / points[0][0]
    for (x0, y0), (x1, y1) in pairwise(points):
        if x0 <= x <= x1:
            return y0 + (y1 - y0) * (x - x0) / (x1 - x0)
    (x0, y0), (x1, y1) = points[0], points[-1]
    near = points[0] if x < x0 else points[-1]
    return near[1] + (y1 - y0) / (x1 - x0) * (x - near[0])


def held_points(probes: Sequence[Probe]) -> tuple[tuple[int, int], ...]:
    """Return characters and the server's count of every context that was held, both rising."""
    found: list[tuple[int, int]] = []
    counted = [
        p for p in probes if p.held and "characters" in p.detail and p.detail.get("counted") is not None
    ]
    for size, tokens in sorted((p.size, p.detail["counted"]) for p in counted):
        if not found or (size > found[-1][0] and tokens > found[-1][1]):
            found.append((size, tokens))
    return tuple(found)


def scale_of(probes: Sequence[Probe], guess: Scale) -> Scale:
    """Return the scale of an endpoint's probes; ``guess`` while none was held."""
    points = held_points(probes)
    return Scale(points) if points else guess


def least_tokens(probes: Sequence[Probe], characters: int, guess: Scale) -> float:
    """Return the fewest tokens that a server counts where it has read so many characters whole.

    A server that cuts silently goes on counting what it keeps: its count stops rising with the prompt.
    """
    points = held_points(probes)
    below = [point for point in points if point[0] <= characters]
    if not below:
        return guess.tokens(characters) / 2
    known = below[-1][1]
    rise = (Scale(tuple(below)) if len(below) > 1 else Scale(points)).tokens(characters) - known
    return known + (_SHARE if len(below) > 1 else _SHARE_BY_ONE) * rise - _SLACK_TOKENS


def is_on_the_plateau(probes: Sequence[Probe], characters: int, counted: int) -> bool:
    """Whether a longer prompt, known to be cut, was counted as no more than this one."""
    return any(
        probe.outcome is ProbeOutcome.TRUNCATED
        and probe.size > characters
        and probe.detail["counted"] <= counted
        for probe in probes
    )


def in_tokens(probes: Sequence[Probe]) -> list[Probe]:
    """Return the probes with the tokens that those without a count probably had, by what was held."""
    points = held_points(probes)
    if not points:
        return list(probes)
    scale = Scale(points)
    return [
        replace(probe, tokens=scale.tokens(probe.size))
        if "characters" in probe.detail and not probe.held
        else probe
        for probe in probes
    ]


# The next size ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NextSize:
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


def next_size(
    probes: Sequence[Probe],
    params: "ContextLimitProbeParams",
    identity: Identity | None,
    guess: Scale | None = None,
) -> NextSize:
    """Return what to try next.

    Args:
        probes: The endpoint's, in the order of trying.
        params: Tolerance, ceiling, patience.
        identity: What the server states of itself.
        guess: Tokens of characters, while no context was held; ``None``: sizes are tokens.
    """
    known = confirmed(probes)
    found = bracket(known)
    by_characters = any("characters" in probe.detail for probe in probes) or guess is not None
    scale = scale_of(known, guess or Scale(((1, 1),))) if by_characters else None
    tried = sum(probe.chosen_by == STATED for probe in known)
    tolerance = tolerance_tokens(found.low, params, identity)
    ceiling = params.ceiling_tokens
    if scale is not None:
        tolerance = int(0.9 * scale.characters_per_token * tolerance)  # the scale still moves
        ceiling = scale.characters(ceiling)
    near_stated = _near_stated(found, _stated(found, identity), scale, tried)
    return _affordable(_choose(found, near_stated, tolerance, ceiling), found, scale, params)


def _stated(found: Bracket, identity: Identity | None) -> int | None:
    """Return the maximum that the server states: in its refusals, else in its list of models."""
    stated = found.failed.detail.get("stated") if found.failed else None
    return int(stated) if stated else identity.max_model_len if identity is not None else None


def _near_stated(found: Bracket, stated: int | None, scale: Scale | None, tried: int) -> list[int]:
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


def _choose(found: Bracket, near_stated: Sequence[int], tolerance: int, ceiling: int) -> NextSize:
    """Return the next size and why; sizes, tolerance and ceiling in one unit."""
    low, high = found.low_size, None if found.failed is None else found.failed.size
    for size in near_stated:
        if low < size and (high is None or size < high):
            return NextSize(size, STATED)
    if high is None and low == 0:
        return NextSize(None, "nothing was accepted")
    if high is None and low >= ceiling:
        return NextSize(None, DOUBLING, 2 * low)
    if high is None:
        return NextSize(min(2 * low, ceiling), DOUBLING)
    if high - low <= max(1, tolerance):
        return NextSize(None, "near enough")
    return NextSize((low + high) // 2, BISECTION)


def _affordable(
    chosen: NextSize, found: Bracket, scale: Scale | None, params: "ContextLimitProbeParams"
) -> NextSize:
    """Return the size, or why it is not tried: nothing has failed yet, and it is too far."""
    nothing_more = chosen.size is None and chosen.left_out_tokens is None
    if found.failed is not None or found.held is None or nothing_more:
        return chosen
    size = chosen.size or chosen.left_out_tokens or 0
    tokens = size if scale is None else scale.tokens(size)
    if chosen.size is None or tokens > params.ceiling_tokens:
        return NextSize(None, f"it is above ceiling_tokens={params.ceiling_tokens:,}", tokens)
    wait_s = predicted_s(found.held, tokens)
    if wait_s is not None and wait_s > params.longest_wait_s:
        why = (
            f"its first token would take about {wait_s:,.0f} s, by those of the context before, and "
            f"longest_wait_s={params.longest_wait_s:g}"
        )
        return NextSize(None, why, tokens)
    return chosen


def predicted_s(held: Probe, tokens: int) -> float | None:
    """Return how long a context may take to its first token if none of it is cached: time grows with its square.

    ``None``: the held probe has no TTFT.
    """
    ttft_ms, computed = held.detail.get("ttft_ms"), held.tokens - (held.detail.get("cached_tokens") or 0)
    if ttft_ms is None or computed < 1:
        return None
    return float(ttft_ms / 1e3 / computed * tokens * max(1.0, tokens / held.tokens))
