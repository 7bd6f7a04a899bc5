"""A ratio that may be looked at after every block: intervals and verdicts that hold at every look at once.

An ordinary interval errs in 5 % of looks, and whoever looks until it says something finds something. Here nothing is
lost by looking (Ville 1939): for each value that the log ratio may have, one bets against it with factors that are, on
average, no gain if it is true. If the pairs' log ratios x are symmetric around m, given all before them, then

    exp(λ (x - m) - λ² (x - m)² / 2)

has expectation at most 1 for every λ that was chosen beforehand (de la Peña 1999; Howard et al. 2021, lemma 3), whatever
the law of x: and x is symmetric, since which side is measured first in a block is drawn at random. A product of
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
    #: Σ λ x, Σ λ, Σ λ² x², Σ λ² x, Σ λ²: from these the bets against any value follow.
    _bets: list[float] = field(default_factory=lambda: [0.0] * 5)
    _said: Outcome = "undecided"

    def add(self, log_ratio: float) -> Outcome:
        """Take one more pair. Returns what can be said now; once said, it stays."""
        wide = math.log1p(self.margin)
        bet = wide / (self._variance() + wide**2)
        x, bets = log_ratio, self._bets
        for k, term in enumerate((bet * x, bet, bet**2 * x**2, bet**2 * x, bet**2)):
            bets[k] += term
        self.n += 1
        self._sum += x
        self._squares += x**2
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
        lx, l1, llxx, llx, ll = self._bets
        drift = lx - l1 * value
        return (drift if above else -drift) - (llxx - 2 * llx * value + ll * value**2) / 2

    def _now(self) -> Outcome:
        enough, wide = math.log(2 / (1 - self.confidence)), math.log1p(self.margin)
        inside = self.gain(-wide, above=True) >= enough and self.gain(wide, above=False) >= enough
        if inside:
            return "equivalent"
        if self.gain(0.0, above=True) >= enough:
            return "slower"
        return "faster" if self.gain(0.0, above=False) >= enough else "undecided"

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
        """Return the nearest value on one side that the bets rule out; ``None``: none.

        The gain is a quadratic of the value: what is ruled out lies between its two roots.
        """
        lx, l1, llxx, llx, ll = self._bets
        enough = math.log(2 / (1 - self.confidence))
        sign = 1.0 if above else -1.0
        a, b, c = ll / 2, sign * l1 - llx, enough - sign * lx + llxx / 2
        inner = b**2 - 4 * a * c
        if inner < 0 or a == 0:
            return None
        return (-b + sign * math.sqrt(inner)) / (2 * a)
