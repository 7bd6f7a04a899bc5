"""How alike neighbours in time are, and for how many values a series of them counts.

A slow spell of the machine covers several trials in a row: then they are no independent witnesses, and an
interval that takes them as such covers half of what it says. With few values likeness can hardly be told from
luck, so an interval over fewer than `ENOUGH` says that it takes them as independent.
"""

import math
from collections.abc import Sequence

import numpy as np

#: From so many values on their likeness is estimated well enough to be corrected without a condition.
ENOUGH = 60
#: Below it only a likeness beyond luck is corrected: else luck alone would take away half of the values.
FEW = 15
#: Below it none is: a test of so few sees one likeness in five and refuses one honest series in twelve.
TOO_FEW = 8
_CERTAIN = 1.6449  # one-sided 5 %


def lag1(values: Sequence[float]) -> float:
    """Return the correlation of the ranks of neighbours (Wald & Wolfowitz 1943, on ranks); 0 for fewer than 4.

    Ranks, since one outlier among raw values hides all likeness of the others.
    """
    known = np.asarray(values, dtype=float)
    if len(known) < 4 or np.ptp(known) == 0:
        return 0.0
    ranks = _ranks(known)
    off = ranks - ranks.mean()
    return float((off[1:] * off[:-1]).sum() / (off**2).sum())


def effective_n(values: Sequence[float], *, corrected: bool = False) -> float:
    """Return for how many independent values a series counts: n (1 - r) / (1 + r) (Bayley & Hammersley 1946).

    r is `lag1`; where it is negative, or (below `FEW` values) no larger than luck makes it, or there are fewer than
    `TOO_FEW`, it counts as 0.

    Args:
        values: In the order of time.
        corrected: Whether r is raised by what n values show it too small: (n r + 1) / (n - 3) (Kendall 1954). A mean's
            interval needs it; that between order statistics has room.
    """
    n, r = len(values), lag1(values)
    if n < TOO_FEW or r <= 0 or (n < FEW and not beyond_luck(r, n)):
        return float(n)
    if corrected:
        r = min(0.95, (n * r + 1) / (n - 3))
    return n * (1 - r) / (1 + r)


def beyond_luck(r: float, n: int) -> bool:
    """Whether neighbours of n independent values are so alike in at most 5 % (normal approximation)."""
    return n >= 4 and (r + 1 / n) / ((n - 2) / (n * math.sqrt(n - 1))) > _CERTAIN


def _ranks(values: "np.typing.NDArray[np.float64]") -> "np.typing.NDArray[np.float64]":
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return np.asarray((ends - (counts - 1) / 2)[inverse], dtype=float)  # ties share their mean rank
