"""What readings on a staircase leave possible, and which probe says most.

A law is a staircase in each of its two arguments. Along P (how much is shared, with a long enough
prompt) it is ``floor((P + y) / g) * g`` where ``y = shared_start - off * g`` and P counts the content's
own tokens. So every reading is a multiple of g, and ``c - P <= y < c - P + g`` bounds y: g divides the
greatest common divisor of all readings and is larger than the spread of ``P - c``. Along L (a prompt
repeated whole) the tail binds. Both sets of hypotheses are small enough to be listed, so the next
probe can be the one whose answer splits them best (expected information, Lindley 1956).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

#: Units taken off that are thought possible.
MOST_OFF = 3


@dataclass(frozen=True)
class SharedSteps:
    """Hypotheses on the staircase along P: one (grain, y) each.

    Attributes:
        grain: Tokens, shape (n,).
        y: Tokens, shape (n,).
        weight: Prior weight, shape (n,), sum 1.
    """

    grain: Ints
    y: Ints
    weight: Floats

    def __len__(self) -> int:
        return len(self.grain)

    def predict(self, shared: Sequence[int]) -> Ints:
        """Return the reading that each hypothesis predicts, shape (hypotheses, len(shared))."""
        reach = np.asarray(shared)[None, :] + self.y[:, None]
        grain = self.grain[:, None]
        found: Ints = np.maximum(0, reach // grain * grain)
        return found

    @property
    def grains(self) -> list[int]:
        """The grains that are still possible."""
        return sorted({int(g) for g in self.grain})


def divisors(number: int) -> list[int]:
    """Return the divisors of ``number`` in ascending order."""
    small = [d for d in range(1, math.isqrt(number) + 1) if number % d == 0]
    return sorted({*small, *(number // d for d in small)})


def shared_steps(readings: Sequence[tuple[int, int]], overhead: int) -> SharedSteps:
    """Return the hypotheses that explain all readings along P.

    Args:
        readings: ``(shared own tokens, cached tokens)``; readings of 0 say nothing here and are left out.
        overhead: Tokens that the template adds to the content, before and after it together: the shared
            start is at most that long.
    """
    seen = [(shared, cached) for shared, cached in readings if cached > 0]
    if not seen:
        return SharedSteps(*_empty())
    common = math.gcd(*(cached for _, cached in seen))
    low = max(cached - shared for shared, cached in seen)
    high = min(cached - shared for shared, cached in seen)
    grains, ys, weights = [], [], []
    for grain in divisors(common):
        y = np.arange(low, high + grain)
        # A shared start of 0 to `overhead` tokens, less up to MOST_OFF units.
        y = y[(y <= overhead) & (y >= -MOST_OFF * grain) & (y % grain <= overhead)]
        if len(y):
            grains.append(np.full(len(y), grain))
            ys.append(y)
            likely = 1.0 + 4.0 * len(y) * (y % grain == 0)
            weights.append(likely / likely.sum())
    if not grains:
        return SharedSteps(*_empty())
    weight = np.concatenate(weights)
    return SharedSteps(np.concatenate(grains), np.concatenate(ys), weight / weight.sum())


@dataclass(frozen=True)
class TailSteps:
    """Hypotheses on a prompt that is repeated whole: one (tail grain, always computed, units off) each."""

    grain: int
    tail_grain: Ints
    computed: Ints
    off: Ints
    weight: Floats

    def __len__(self) -> int:
        return len(self.tail_grain)

    def predict(self, lengths: Sequence[int]) -> Ints:
        """Return the reading that each hypothesis predicts for prompts so long, in tokens."""
        length = np.asarray(lengths)[None, :]
        tail = self.tail_grain[:, None]
        reach = np.maximum(0, length - self.computed[:, None]) // tail * tail
        served = np.minimum(length // self.grain * self.grain, reach)
        found: Ints = np.maximum(0, served - self.off[:, None] * self.grain)
        return found

    def predict_tight(self, lengths: Sequence[int], reach: Sequence[int]) -> Ints:
        """Return the readings of prompts so long that share something.

        Args:
            lengths: Tokens of the prompts.
            reach: Own tokens that each shares plus y (`SharedSteps`).
        """
        shared = np.asarray(reach)[None, :] // self.grain * self.grain
        found: Ints = np.minimum(self.predict(lengths), np.maximum(0, shared))
        return found


def tail_steps(
    readings: Sequence[tuple[int, int]],
    grain: int,
    y: int,
    overhead: int,
    tight: Sequence[tuple[int, int, int]] = (),
) -> TailSteps:
    """Return the hypotheses that explain prompts repeated whole, or just longer than what they share.

    Args:
        readings: ``(prompt tokens, cached tokens)`` of repeats; readings of 0 are left out.
        tight: ``(prompt tokens, shared own tokens, cached tokens)`` of the others.
        grain: Tokens.
        y: Shared start less units off, in tokens (`SharedSteps`); it says which units off are possible.
        overhead: As in `shared_steps`.
    """
    seen = [(length, cached) for length, cached in readings if cached > 0]
    most = min((length - cached for length, cached in seen), default=0)
    parts = []
    for off in range(MOST_OFF + 1):
        if not 0 <= y + off * grain <= overhead:
            continue
        for tail in divisors(grain):
            # Any tail in whole grains; in a smaller unit only a short one, or the list would be endless.
            bound = most + grain if tail == grain else min(most + tail, 64)
            computed = np.arange(bound + 1)
            steps = TailSteps(
                grain,
                np.full(len(computed), tail),
                computed,
                np.full(len(computed), off),
                _tail_weight(computed, tail, grain, off),
            )
            keep = np.ones(len(computed), dtype=bool)
            if seen:
                lengths, cached = zip(*seen, strict=True)
                keep = (steps.predict(lengths) == np.asarray(cached)[None, :]).all(axis=1)
            for length, shared, read in tight:
                keep &= steps.predict_tight([length], [shared + y])[:, 0] == read
            parts.append((steps.tail_grain[keep], computed[keep], steps.off[keep], steps.weight[keep]))
    if not parts:
        nothing = np.empty(0, dtype=np.int64)
        return TailSteps(grain, nothing, nothing, nothing, np.empty(0))
    tails, computed, offs, weight = (np.concatenate(column) for column in zip(*parts, strict=True))
    total = weight.sum()
    return TailSteps(grain, tails, computed, offs, weight / total if total else weight)


def _tail_weight(computed: Ints, tail: int, grain: int, off: int) -> Floats:
    """One token is what must be computed, none what some APIs report; long tails are rare."""
    weight = 0.05 / (1.0 + computed) + 1.0 * (computed == 1) + 0.3 * (computed == 0)
    return np.asarray(weight * (1.0 if tail == grain else 0.05) / (1 + off), dtype=np.float64)


def most_telling(predicted: Ints, weight: Floats, cost: Floats, requests: Floats | None = None) -> int | None:
    """Return the column whose answer is expected to say most; ``None`` where no answer would say anything.

    Args:
        predicted: Readings by hypothesis and candidate probe, shape (hypotheses, candidates).
        weight: Of each hypothesis.
        cost: Of each candidate in bits, taken off what it says.
        requests: That each candidate takes; what it says is divided by it. Default: 1 each.
    """
    best, best_score = None, -math.inf
    for column in range(predicted.shape[1]):
        _, which = np.unique(predicted[:, column], return_inverse=True)
        share = np.bincount(which, weights=weight)
        if len(share) < 2:
            continue
        share = share[share > 0] / share.sum()
        bits = float(-(share * np.log2(share)).sum()) / (1.0 if requests is None else requests[column])
        if bits - cost[column] > best_score:
            best, best_score = column, bits - cost[column]
    return best


def _empty() -> tuple[Ints, Ints, Floats]:
    return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float64)
