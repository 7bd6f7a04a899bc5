"""How much a cache holds, and which entry goes first.

The physics. A cache of C units keeps the C that its policy likes best. After a prompt X of u units, D
units of other prompts arrive; X is served whole as long as ``u + D <= C``, whatever the policy, unless
that is random. Beyond it the policies part: by age since use, X is all gone if its head counts as older
than its tail, and loses unit after unit from its end if the tail counts as older; with "first in, first
out" it does not help X to be used in between. In vLLM the end of a prompt that fills no block takes one
unit of room while it runs.

So each pair (policy, C) is a simulated cache that is fed with the same prompts, and every one that
predicts a reading wrongly is out. The next prompts are those whose readings split the remaining pairs
best for their tokens. What is left at the end must predict a held-out sequence, n of n. Others' traffic
makes all of them wrong: then there is a lower bound, and nothing else is claimed.
"""

import math
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from kvlab.laws.by_age import look_by_age
from kvlab.laws.law import CacheLaw
from kvlab.laws.pool import DETERMINISTIC, OverBudgetError, Pool, Visit, others
from kvlab.laws.probe import Probe

#: So many pairs of policy and capacity are simulated at most.
MOST_CANDIDATES = 2_000
#: And so many units are stored in all of them together.
MOST_SIMULATED = 12_000_000
#: The limit is asked so often again before it is claimed.
LIMIT_AGAIN = 5


@dataclass(frozen=True)
class LearnedCapacity:
    """What was found out.

    Attributes:
        tokens_low: The cache holds at least so many tokens.
        tokens_high: And at most so many; ``None`` with a ``reason``.
        policy: One of `kvlab.laws.simulate.POLICIES`, or ``None``: unknown.
        possible_policies: Those that explain all readings; what is left when they predict the same.
        predicted: Held-out prompts that were predicted exactly.
        held_out: Of how many.
        wrong_at_most: Share of such prompts that may be predicted wrongly, at 95 % confidence
            (exact binomial); ``None`` where nothing was held out.
        reason: Why something is unknown.
        requests: How many were sent.
        prompt_tokens: Of all of them.
    """

    tokens_low: int
    tokens_high: int | None
    policy: str | None
    possible_policies: tuple[str, ...]
    predicted: int
    held_out: int
    wrong_at_most: float | None
    reason: str | None
    requests: int
    prompt_tokens: int


def learn_capacity(
    probe: Probe,
    law: CacheLaw,
    *,
    overhead_tokens: int = 0,
    prompt_units: int = 8,
    max_tokens: int,
    first_text: int = 0,
    held_out: int = 24,
    seed: int = 0,
) -> LearnedCapacity:
    """Find the capacity and the eviction policy.

    Args:
        probe: Sends one prompt; nobody else should use the server meanwhile.
        law: Its law of reuse (`kvlab.laws.learn.learn_law`).
        overhead_tokens: What the template adds to a prompt.
        prompt_units: Length of a prompt in units; more for a large cache.
        max_tokens: Of all prompts together; about 30 times the capacity is enough.
        first_text: Texts from this number on are used.
        held_out: Prompts that what was found must predict.
        seed: Of choices.
    """
    least = max(law.shared_start_tokens, overhead_tokens, law.minimum_tokens) // law.grain_tokens
    units = max(prompt_units, least + law.grains_off + 2)
    pool = Pool(probe, law, overhead_tokens, max_tokens, first_text)
    draw = random.Random(seed)  # noqa: S311 - a choice of probes
    n = 0
    try:
        _bracket(pool, units)
        _narrow(pool, units)
        pool.begin(range(max(1, pool.low - 1), pool.high + units + 2))
        _split(pool, units, draw)
        n = _hold_out(pool, units, held_out, draw) if pool.candidates else 0
    except OverBudgetError:
        n = 0
    return _result(pool, units, n, held_out, draw)


def _survives(pool: Pool, units: int, between: int) -> bool:
    """Whether a new prompt is served whole after so many units of others."""
    first = Visit(pool.text(), pool.length(units))
    pool.send(first)
    for visit in others(pool, units, between):
        pool.send(visit)
    return pool.send(first) == pool.law.full_hit(first.prompt_tokens)


def _bracket(pool: Pool, units: int) -> None:
    """Double what comes between until a prompt is lost."""
    between = units
    while _survives(pool, units, between):
        pool.low = units + between
        between *= 2
    pool.high = units + between


def _narrow(pool: Pool, units: int) -> None:
    """Halve the bracket until its pairs with a policy can all be simulated."""
    while pool.high - pool.low > units:
        pairs = (pool.high - pool.low) * len(DETERMINISTIC)
        stored = pool.spent // pool.law.grain_tokens
        if pairs <= MOST_CANDIDATES and pairs * stored <= MOST_SIMULATED:
            break
        middle = (pool.low + pool.high) // 2
        if _survives(pool, units, middle - units):
            pool.low = middle
        else:
            pool.high = middle


def _split(pool: Pool, units: int, draw: random.Random) -> None:
    """Send the episodes that split the candidates best for their tokens, until none does."""
    while pool.candidates and len(pool.candidates) > 1:
        best, best_score, unused = None, 0.0, pool.first_text
        for episode in _menu(pool, units, draw):
            bits = _bits(pool.foretell(episode))
            score = bits / sum(visit.prompt_tokens for visit in episode)
            if bits > 0.01 and score > best_score:
                best, best_score = episode, score
        if best is None:
            pool.first_text = unused
            return
        pool.first_text = 1 + max(visit.text for visit in best)
        for visit in best:
            pool.send(visit)


def _bits(outcomes: Sequence[tuple[int, ...]]) -> float:
    counts = Counter(outcomes).values()
    total = sum(counts)
    return -sum(n / total * math.log2(n / total) for n in counts)


def _menu(pool: Pool, units: int, draw: random.Random) -> Iterator[list[Visit]]:
    """Yield episodes around the capacities that are still possible; all use the same, new texts."""
    sizes, start = sorted({size for _, size in pool.pairs}), pool.first_text
    for size in sorted({sizes[0], sizes[-1], sizes[len(sizes) // 2], draw.choice(sizes)}):
        for between in sorted({max(1, size - units + d) for d in (-1, 0, 1, units // 2)}):
            for exact in (False, True):  # whether the others' ends fill a block
                pool.first_text = start
                first = Visit(pool.text(), pool.length(units))
                yield [first, *others(pool, units, between, exact), first]
        if size > 2 * units:  # used in between: does it get younger?
            pool.first_text = start
            yield _used_between(pool, units, size)


def _used_between(pool: Pool, units: int, size: int) -> list[Visit]:
    """Return an episode after which a prompt is there only if to be used has made it younger."""
    first = Visit(pool.text(), pool.length(units))
    before, after = (list(others(pool, units, n)) for n in (size // 2, size - units - 2))
    return [first, *before, first, *after, first]


def _hold_out(pool: Pool, units: int, count: int, draw: random.Random) -> int:
    """Ask what must be predicted, and return how many prompts that were sent before were predicted.

    First the limit, five times: had others' prompts taken room, what was lost there once would be there
    another time. Then twice a prompt that is used in between. Then half as many texts again as fit, in
    random order.
    """
    size = max(size for _, size in pool.pairs)
    held: list[Visit] = []
    for _ in range(LIMIT_AGAIN):
        first = Visit(pool.text(), pool.length(units))
        held += [first, *others(pool, units, max(1, size - units + 1)), first]
    for _ in range(2 if size > 2 * units else 0):
        held += _used_between(pool, units, size)
    texts = [Visit(pool.text(), pool.length(units)) for _ in range(max(3, round(1.5 * size / units)))]
    held += [*texts, *(draw.choice(texts) for _ in range(max(count, len(texts))))]
    for visit in held:
        pool.send(visit)
        if not pool.candidates:
            return 0
    return LIMIT_AGAIN + max(count, len(texts))  # those whose answer was open


def _result(pool: Pool, units: int, predicted: int, held_out: int, draw: random.Random) -> LearnedCapacity:
    grain = pool.law.grain_tokens
    names = tuple(sorted({name for name, _ in pool.pairs}))
    # Without a policy that predicts, only what was served is certain.
    if pool.candidates and predicted:
        sizes = [size for _, size in pool.pairs]
        policy = names[0] if len(names) == 1 else None
        reason = None if policy else f"{', '.join(names)} predict the same"
        verdict = _Verdict(policy, reason, min(sizes), max(sizes))
    elif pool.candidates is None or pool.candidates:
        verdict = _Verdict(None, f"{pool.max_tokens:,} tokens did not suffice", pool.low, None)
    else:
        verdict = _random_or_unknown(pool, units, draw)
    return LearnedCapacity(
        tokens_low=verdict.low_units * grain,
        tokens_high=None if verdict.high_units is None else verdict.high_units * grain,
        policy=verdict.policy,
        possible_policies=names,
        predicted=predicted,
        held_out=predicted or held_out,
        wrong_at_most=1 - 0.05 ** (1 / predicted) if predicted else None,
        reason=verdict.reason,
        requests=len(pool.history),
        prompt_tokens=pool.spent,
    )


@dataclass(frozen=True)
class _Verdict:
    policy: str | None
    reason: str | None
    low_units: int
    high_units: int | None


def _random_or_unknown(pool: Pool, units: int, draw: random.Random) -> _Verdict:
    """No rule by age predicts all readings: is eviction random, or do others use the cache?"""
    reason = "no policy predicts all readings: others use the cache, or it has another rule"
    try:
        found = look_by_age(pool, units, draw)
    except OverBudgetError:
        return _Verdict(None, reason, pool.low, None)
    if not found.is_random:
        return _Verdict(None, reason, pool.low, None)
    counts = f"{found.out_of_order} of {found.texts} texts stayed or went against their age"
    reason = f"{counts}; size by the share that stays (likelihood ratio, 99 %)"
    return _Verdict("random", reason, found.low_units, found.high_units)
