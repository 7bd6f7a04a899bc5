"""How many of the tokens that could be served are, over the size of the set that is visited.

In cycles, a cache that drops by age serves all of a set that fits and nothing of one that does not: each
text is dropped just before its turn. That is the cliff. In random order the share falls slowly. The two
curves together show what a server does under a load that is larger than its cache.

A share is a mean over fresh sets of the same size: visits of one set depend on each other, so only sets
are counted. Its interval is Hoeffding's (1963), which holds for any distribution on [0, 1] and any n:
wide, and never too narrow.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.stats import binomtest

from kvlab.laws.law import CacheLaw
from kvlab.laws.probe import Probe, PromptSpec


@dataclass(frozen=True)
class HitShare:
    """One point of the curve.

    Attributes:
        set_tokens: All texts of the set together.
        order: ``cycle`` or ``random``.
        share: Mean over sets of served tokens over those that the law allows on a full hit.
        low: Lower end of the 95 % interval (Hoeffding, n sets).
        high: Upper end.
        sets: n.
        visits: Of all sets, without each text's first.
    """

    set_tokens: int
    order: str
    share: float
    low: float
    high: float
    sets: int
    visits: int


def hit_share(
    probe: Probe,
    law: CacheLaw,
    *,
    prompt_tokens: int,
    texts: int,
    order: str,
    visits: int,
    sets: int,
    overhead_tokens: int = 0,
    first_text: int = 0,
    seed: int = 0,
) -> HitShare:
    """Visit fresh sets of texts, and return the share of tokens that were served.

    Args:
        probe: Sends one prompt.
        law: Says what a full hit serves.
        prompt_tokens: Length of each text's prompt.
        texts: In a set.
        order: ``cycle`` or ``random`` (uniform).
        visits: Of each set, after each text was sent once.
        sets: How many.
        overhead_tokens: What the template adds.
        first_text: Texts from this number on are used.
        seed: Of the random order.

    Raises:
        ValueError: The server does not say how many tokens were cached, or a full hit would serve none.
    """
    full = law.full_hit(prompt_tokens)
    if not full:
        raise ValueError(
            f"prompt_tokens: by the law a prompt of {prompt_tokens} tokens is never served; use longer ones"
        )
    draw = random.Random(f"{seed} {texts} {order}")  # noqa: S311 - an order of visits
    own, shares = prompt_tokens - overhead_tokens, []
    for number in range(sets):
        numbers = range(first_text + number * texts, first_text + (number + 1) * texts)
        specs = [PromptSpec(own, own, text) for text in numbers]
        later = [specs[i % texts] if order == "cycle" else draw.choice(specs) for i in range(visits)]
        for spec in specs:
            probe(spec)
        read = [probe(spec).cached_tokens for spec in later]
        known = [min(one, full) for one in read if one is not None]
        if len(known) < len(read):
            raise ValueError("the server does not say how many tokens were cached")
        shares.append(sum(known) / (full * visits))
    share, low, high = _hoeffding(shares)
    return HitShare(prompt_tokens * texts, order, share, low, high, sets, sets * visits)


def _hoeffding(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float, float]:
    mean = sum(values) / len(values)
    half = math.sqrt(math.log(2 / (1 - confidence)) / (2 * len(values)))
    return mean, max(0.0, mean - half), min(1.0, mean + half)


@dataclass(frozen=True)
class TokenSurvival:
    """Of ``n`` prompts after which so many tokens of other prompts came, ``kept`` were served whole."""

    tokens: int
    kept: int
    n: int
    low: float
    high: float


def survival_over_tokens(
    probe: Probe,
    law: CacheLaw,
    *,
    prompt_tokens: int,
    others: Sequence[int],
    repeats: int = 3,
    overhead_tokens: int = 0,
    first_text: int = 0,
) -> list[TokenSurvival]:
    """Ask for a prompt after other prompts came, and return the share that is still there, by their tokens.

    The interval is the exact binomial one (Clopper and Pearson, 95 %, n prompts).

    Args:
        probe: Sends one prompt.
        law: Says what a full hit serves.
        prompt_tokens: Length of every prompt.
        others: How many other prompts come between, for each point.
        repeats: Prompts at each point.
        overhead_tokens: What the template adds.
        first_text: Texts from this number on are used.

    Raises:
        ValueError: A full hit serves nothing, or the server says nothing.
    """
    full, own, text = law.full_hit(prompt_tokens), prompt_tokens - overhead_tokens, first_text
    if not full:
        raise ValueError(
            f"prompt_tokens: by the law a prompt of {prompt_tokens} tokens is never served; use longer ones"
        )
    found = []
    for count in others:
        kept = 0
        for _ in range(repeats):
            specs = [PromptSpec(own, own, text + i) for i in range(count + 1)]
            text += count + 1
            for spec in specs:
                probe(spec)
            cached = probe(specs[0]).cached_tokens
            if cached is None:
                raise ValueError("the server does not say how many tokens were cached")
            kept += cached >= full
        ends = binomtest(kept, repeats).proportion_ci(0.95)
        found.append(TokenSurvival(count * prompt_tokens, kept, repeats, float(ends.low), float(ends.high)))
    return found
