"""A ratio that may be looked at after every block: intervals and verdicts that hold at every look at once.

An ordinary interval errs in 5 % of looks, and whoever looks until it says something finds something. Here nothing is
lost by looking (Ville 1939): for each value that the log ratio may have, one bets against it with factors that are, on
average, no gain if it is true. If the pairs' log ratios x are symmetric around m, given all before them, then

    exp(λ (x - m)) / cosh(λ (x - m))

has expectation 1 for every λ that was chosen beforehand, whatever the law of x: half of that is what the mirrored x gives
(a bound of it, with exp(λ² x² / 2) for cosh, is in de la Peña 1999). And x is symmetric, since which side is measured
first in a block is drawn at random. A product of
such factors above 2 / α on one side has a chance of at most α / 2 if m is true, over all looks together. λ is the one
that gains fastest where the truth is a margin away: margin / (variance + margin²), with the variance of the pairs seen
so far (predictable plug-in: Waudby-Smith & Ramdas 2024).
"""

import math
from dataclasses import dataclass, field

from kvlab.stats.intervals import Interval
from kvlab.stats.ratios import Outcome

METHOD = "anytime-valid bets on symmetric log ratios"
#: The spread of a pair's log ratio that the first bets count on, and for how many pairs that counts.
PRIOR_SPREAD = 0.15
PRIOR_PAIRS = 5
#: No log ratio lies farther from the pairs' mean: a factor of a million.
_FARTHEST = math.log(1e6)


@dataclass
class Bets:
    """The bets on one log ratio; `add` takes the next pair, everything else reads.

    Attributes:
        margin: Of the verdict, as of `kvlab.stats.ratios.outcome`.
        confidence: Over all looks together.
    """

    margin: float
    confidence: float = 0.95
    n: int = 0
    _sum: float = 0.0
    _squares: float = 0.0
    _pairs: list[tuple[float, float]] = field(default_factory=list)  # λ and x of each
    #: The gains against what decides, kept up to date: above -margin, below margin, above 0, below 0.
    _deciding: list[float] = field(default_factory=lambda: [0.0] * 4)
    _said: Outcome = "undecided"

    def add(self, log_ratio: float) -> Outcome:
        """Take one more pair. Returns what can be said now; once said, it stays."""
        wide = math.log1p(self.margin)
        bet = wide / (self._variance() + wide**2)
        self._pairs.append((bet, log_ratio))
        for k, off in enumerate((log_ratio + wide, wide - log_ratio, log_ratio, -log_ratio)):
            self._deciding[k] += _log_factor(bet * off)
        self.n += 1
        self._sum += log_ratio
        self._squares += log_ratio**2
        if self._said == "undecided":
            self._said = self._now()
        return self._said

    @property
    def outcome(self) -> Outcome:
        """What has been said; ``undecided``: nothing yet."""
        return self._said

    def _variance(self) -> float:
        """Return the variance of the pairs so far, drawn to the prior's: known before the next pair is."""
        prior = PRIOR_PAIRS * PRIOR_SPREAD**2
        if self.n == 0:
            return prior / PRIOR_PAIRS
        spread = max(0.0, self._squares - self._sum**2 / self.n)
        return (prior + spread) / (PRIOR_PAIRS + self.n - 1 if self.n > 1 else PRIOR_PAIRS)

    def gain(self, value: float, *, above: bool) -> float:
        """Return the logarithm of what the bets have made of 1 if the log ratio lies above (else below) ``value``."""
        sign = 1.0 if above else -1.0
        return sum(_log_factor(sign * bet * (x - value)) for bet, x in self._pairs)

    def _now(self) -> Outcome:
        enough = math.log(2 / (1 - self.confidence))
        not_less, not_more, more, less = (gain >= enough for gain in self._deciding)
        if not_less and not_more:
            return "equivalent"
        return "slower" if more else "faster" if less else "undecided"

    def interval(self) -> Interval:
        """Return the ratio with the interval that the bets leave around it, at this look.

        An end that is ``None`` is open: so few pairs rule out nothing on that side.
        """
        if self.n == 0:
            return Interval(None, None, None, 0, self.confidence, "no pairs", METHOD, "pairs")
        middle = math.exp(self._sum / self.n)
        low, high = self._end(above=True), self._end(above=False)
        sides = ["below"] * (low is None) + ["above"] * (high is None)
        reason = f"{self.n} pairs rule out no ratio {' or '.join(sides)}" if sides else None
        ends = [None if end is None else math.exp(end) for end in (low, high)]
        return Interval(middle, ends[0], ends[1], self.n, self.confidence, reason, METHOD, "pairs")

    def _end(self, *, above: bool) -> float | None:
        """Return the value nearest to the pairs that the bets rule out on one side; ``None``: none.

        The gain falls steadily as the value comes nearer, so what is ruled out ends in one place.
        """
        enough, middle = math.log(2 / (1 - self.confidence)), self._sum / self.n
        far = middle - _FARTHEST if above else middle + _FARTHEST
        if self.gain(far, above=above) < enough:
            return None
        near = middle + _FARTHEST if above else middle - _FARTHEST
        for _ in range(60):
            between = (far + near) / 2
            far, near = (between, near) if self.gain(between, above=above) >= enough else (far, between)
        return far


def _log_factor(y: float) -> float:
    """Return log(exp(y) / cosh(y)), which is at most log 2."""
    return math.log(2) - math.log1p(math.exp(-2 * y)) if y > -350 else math.log(2) + 2 * y
