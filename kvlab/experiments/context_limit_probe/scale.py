"""From characters to tokens, where a server takes no token ids and has no tokenizer to ask.

The growing context is always the same text, so its length in characters orders its versions, whatever
the server's tokenizer makes of them: that is the unit that is bisected in. What a version has in tokens
is read off the server's own counts of those that it held, and only guessed before there are any.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from kvlab.experiments.context_limit_probe.ledger import Probe
from kvlab.experiments.context_limit_probe.outcomes import Outcome

#: Of the tokens that a longer context must add, a whole one has at least this share: by one earlier count, by more.
_SHARE_BY_ONE, _SHARE = 0.6, 0.85
#: What two counts of the same text may differ by, in tokens.
_SLACK_TOKENS = 8


@dataclass(frozen=True)
class Scale:
    """A rising line through (characters, tokens), straight between its points and beyond them."""

    points: tuple[tuple[int, int], ...]

    def tokens(self, characters: float) -> int:
        """Return how many tokens so many characters of the growing context have."""
        return round(_along(self.points, characters))

    @property
    def characters_a_token(self) -> float:
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
    for size, counted in sorted((p.size, p.detail["counted"]) for p in probes if p.held and _is_counted(p)):
        if not found or (size > found[-1][0] and counted > found[-1][1]):
            found.append((size, counted))
    return tuple(found)


def _is_counted(probe: Probe) -> bool:
    return "characters" in probe.detail and probe.detail.get("counted") is not None


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
        probe.outcome is Outcome.TRUNCATED and probe.size > characters and probe.detail["counted"] <= counted
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
