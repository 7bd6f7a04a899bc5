"""Does what stays depend on its age? That tells random eviction from others' traffic.

Texts are stored one after the other with other prompts between them, and then asked for. Whatever drops by
age keeps the youngest: there is one age at which all is cut, also when others' prompts came between. Random
eviction leaves older texts and loses younger ones. So the texts that would have to be otherwise for one
cut to explain all are counted. At random, a text is there with ``s = (1 - 1 / C) ** D`` after D units
of others, which gives the capacity C by maximum likelihood, with a likelihood-ratio interval of 99 %; what
others store unseen makes it come out too small.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.optimize import brentq, minimize_scalar

from kvlab.laws.pool import Pool, Visit, others

TEXTS = 16
GROUPS = 3
#: So many texts, of all groups, must be out of order. A cut by age leaves one a group at most: what is asked
#: for and gone is stored again, and that moves the cut by a text.
OUT_OF_ORDER = 6
#: Half the 99 % quantile of chi-squared with one degree of freedom.
_HALF_CHI2 = 3.317


@dataclass(frozen=True)
class Kept:
    """One text: units of others that came after it, and whether it was there."""

    units_after: int
    there: bool


@dataclass(frozen=True)
class ByAge:
    """What was found out.

    Attributes:
        out_of_order: Texts that no cut by age explains.
        texts: Of how many.
        low_units: Lower end of the capacity's interval, were eviction random.
        high_units: Upper end.
    """

    out_of_order: int
    texts: int
    low_units: int
    high_units: int

    @property
    def is_random(self) -> bool:
        """Whether no rule by age is possible."""
        return self.out_of_order >= OUT_OF_ORDER


def look_by_age(pool: Pool, units: int, draw: random.Random) -> ByAge:
    """Store and ask groups of texts.

    Args:
        pool: The server's cache.
        units: Length of others' prompts.
        draw: Chooses the order in which texts are asked for.

    Raises:
        OverBudgetError: The tokens are spent.
    """
    groups: list[list[Kept]] = []
    between = max(1, units // 2)
    while len(groups) < GROUPS:
        group = _group(pool, units, between, draw)
        there = sum(one.there for one in group)
        if not groups and there > 0.7 * TEXTS:
            between *= 2
        elif not groups and there < 0.3 * TEXTS and between > 1:
            between //= 2
            groups.append(group)  # so that the search ends: a group that is mostly gone counts too
        else:
            groups.append(group)
    every = [one for group in groups for one in group]
    low, high = capacity_interval(every)
    return ByAge(sum(map(out_of_order, groups)), len(every), low, high)


def _group(pool: Pool, units: int, between: int, draw: random.Random) -> list[Kept]:
    shared = pool.law.shared_start_tokens // pool.law.grain_tokens
    least = (pool.overhead_tokens + 1) // pool.law.grain_tokens + 1 + pool.law.grains_off
    least = max(least, -(-pool.law.minimum_tokens // pool.law.grain_tokens) + pool.law.grains_off)
    length, own = pool.length(least), max(1, least - shared)
    texts: list[Visit] = []
    stored: list[int] = []  # units stored before each text, and with it
    total = 0
    for _ in range(TEXTS):
        texts.append(Visit(pool.text(), length))
        pool.send(texts[-1])
        total += own
        stored.append(total)
        for visit in others(pool, units, between):
            pool.send(visit)
            total += len(pool.units(visit)) - shared
    found: dict[int, Kept] = {}
    for number in draw.sample(range(TEXTS), TEXTS):
        there = pool.send(texts[number]) >= pool.law.full_hit(length)
        found[number] = Kept(total - stored[number], there)
        total += 0 if there else own
    return [found[number] for number in range(TEXTS)]


def out_of_order(group: Sequence[Kept]) -> int:
    """Return how many texts, oldest first, no single cut explains: gone before it, there after it.

    >>> out_of_order([Kept(3, False), Kept(2, True), Kept(1, True)])
    0
    >>> out_of_order([Kept(4, True), Kept(3, False), Kept(2, True), Kept(1, False)])
    2
    """
    there = [one.there for one in group]
    cuts = range(len(there) + 1)
    return min(sum(there[:cut]) + there[cut:].count(False) for cut in cuts)


def capacity_interval(texts: Sequence[Kept]) -> tuple[int, int]:
    """Return a 99 % likelihood-ratio interval of the capacity in units, were eviction random.

    Up to the most that was stored; one end is open where all texts, or none, were there.
    """
    most = 100.0 * max(one.units_after for one in texts) + 100

    def loss(log_units: float) -> float:
        rate = math.log1p(-1 / max(1.0001, math.exp(log_units)))
        total = 0.0
        for one in texts:
            stays = min(1 - 1e-12, max(1e-12, math.exp(rate * one.units_after)))
            total -= math.log(stays if one.there else 1 - stays)
        return total

    ends = (math.log(1.001), math.log(most))
    best = minimize_scalar(loss, bounds=ends, method="bounded")

    def above(log_units: float) -> float:
        return loss(log_units) - float(best.fun) - _HALF_CHI2

    low = brentq(above, ends[0], best.x) if above(ends[0]) > 0 else ends[0]
    high = brentq(above, best.x, ends[1]) if above(ends[1]) > 0 else ends[1]
    return math.floor(math.exp(low)), math.ceil(math.exp(high))
