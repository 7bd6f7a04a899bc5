"""Is a hit the same answer? Greedy continuations after a hit, after a cold start, and after a second one.

In exact arithmetic they are equal. In floating point they need not be: a hit computes the prompt's end in
another shape of batch, sums run in another order, and where two tokens are nearly tied the other one wins;
from there on the texts differ. Two cold answers differ too, on some engines, for the same reason: they are
the noise floor. So a difference after a hit says "wrong cache" only where it is more frequent than among
cold answers (exact McNemar test on pairs), or where it starts at a token that was no near tie.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from scipy.stats import binomtest


@dataclass(frozen=True)
class Continuation:
    """A greedy answer.

    Attributes:
        tokens: Token ids, or their texts.
        margins: For each, the log-probability of the best token less that of the second best (nats);
            ``None``: the server gives none.
    """

    tokens: tuple[int | str, ...]
    margins: tuple[float | None, ...] | None = None


@dataclass(frozen=True)
class Difference:
    """Where two answers part.

    Attributes:
        first: Index of the first token that differs; ``None``: equal as far as the shorter goes.
        margin: Of the cold answer there, in nats; ``None``: not given.
        near_tie: Whether that margin is below the bound; ``None``: not known.
    """

    first: int | None
    margin: float | None
    near_tie: bool | None


@dataclass(frozen=True)
class Fidelity:
    """What was found out.

    Attributes:
        verdict: ``same``, ``as different as cold answers``, ``different`` or ``unknown``.
        reason: One sentence.
        prompts: n.
        hit_differs: Prompts whose answer after a hit differs from the cold one.
        cold_differs: Prompts whose two cold answers differ: the noise floor.
        near_ties: Of `hit_differs`, how many part at a near tie; ``None``: no margins were given.
        p: That a hit differs no more often than a second cold answer (exact McNemar, one-sided).
        differences: Of hit and cold, by prompt.
    """

    verdict: str
    reason: str
    prompts: int
    hit_differs: int
    cold_differs: int
    near_ties: int | None
    p: float
    differences: tuple[Difference, ...]


def difference(cold: Continuation, other: Continuation, near_tie_nats: float = 0.1) -> Difference:
    """Return where two answers part; one that is the start of the other differs at its end."""
    alike = takewhile(lambda pair: pair[0] == pair[1], zip(cold.tokens, other.tokens, strict=False))
    place = sum(1 for _ in alike)
    if place == len(cold.tokens) == len(other.tokens):
        return Difference(None, None, None)
    margins = cold.margins
    margin = margins[place] if margins is not None and place < len(margins) else None
    return Difference(place, margin, None if margin is None else margin <= near_tie_nats)


def judge(
    triples: Sequence[tuple[Continuation, Continuation, Continuation]],
    near_tie_nats: float = 0.1,
    level: float = 0.01,
) -> Fidelity:
    """Compare answers after a hit with cold ones.

    Args:
        triples: For each prompt ``(after a hit, cold, cold again)``, all greedy and of proven cache state.
        near_tie_nats: A margin up to here can be turned by rounding; bfloat16 moves log-probabilities by
            some hundredths.
        level: Of the test.
    """
    hits = [difference(cold, hit, near_tie_nats) for hit, cold, _ in triples]
    colds = [difference(cold, again, near_tie_nats) for _, cold, again in triples]
    hit_differs = [one.first is not None for one in hits]
    cold_differs = [one.first is not None for one in colds]
    only_hit = sum(a and not b for a, b in zip(hit_differs, cold_differs, strict=True))
    only_cold = sum(b and not a for a, b in zip(hit_differs, cold_differs, strict=True))
    n, parted = len(triples), only_hit + only_cold
    p = float(binomtest(only_hit, parted, 0.5, alternative="greater").pvalue) if parted else 1.0
    known = [one.near_tie for one in hits if one.first is not None]
    ties = None if None in known else sum(bool(one) for one in known)
    clear = sum(one is False for one in known)
    counts = f"{sum(hit_differs)} of {n} answers after a hit differ from the cold one, {sum(cold_differs)} of {n} cold ones"
    if not n:
        verdict, reason = "unknown", "no prompts"
    elif not any(hit_differs):
        verdict, reason = "same", f"{counts}; up to {1 - 0.05 ** (1 / n):.0%} may (95 %, exact binomial)"
    elif clear and not any(cold_differs):
        verdict, reason = (
            "different",
            f"{counts}; {clear} of them part where no near tie is ({near_tie_nats:g} nats)",
        )
    elif p <= level:
        verdict, reason = "different", f"{counts}; more often than by noise (McNemar, p = {p:.2g})"
    elif ties == sum(hit_differs) or any(cold_differs):
        verdict, reason = "as different as cold answers", f"{counts} (McNemar, p = {p:.2g})"
    else:
        verdict, reason = "unknown", f"{counts}: too few to tell (McNemar, p = {p:.2g})"
    return Fidelity(verdict, reason, n, sum(hit_differs), sum(cold_differs), ties, p, tuple(hits))
