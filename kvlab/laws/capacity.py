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
from dataclasses import dataclass, field

from scipy.stats import binomtest, mannwhitneyu

from kvlab.laws.law import CacheLaw
from kvlab.laws.pool import DETERMINISTIC, OverBudgetError, Pool, Visit
from kvlab.laws.probe import Probe

#: So many pairs of policy and capacity are simulated at most.
MOST_CANDIDATES = 2_000
#: The limit is asked so often again before it is claimed.
LIMIT_AGAIN = 4


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
        max_tokens: Of all prompts together; about 20 times the capacity is enough.
        first_text: Texts from this number on are used.
        held_out: Prompts that what was found must predict.
        seed: Of choices.
    """
    least = max(law.shared_start_tokens, overhead_tokens, law.minimum_tokens) // law.grain_tokens
    units = max(prompt_units, least + law.grains_off + 2)
    pool = Pool(probe, law, overhead_tokens, max_tokens, first_text)
    draw = random.Random(seed)  # noqa: S311 - a choice of probes
    low = high = 0
    try:
        low, high = _bracket(pool, units)
        low, high = _narrow(pool, units, low, high)
        pool.begin(range(max(1, low - 1), high + units + 2))
        _split(pool, units, draw)
        n = _hold_out(pool, units, held_out, draw) if pool.candidates else 0
    except OverBudgetError:
        n = 0
    return _told(pool, units, low, high, n, held_out)


def _survives(pool: Pool, units: int, between: int) -> bool:
    """Whether a new prompt is served whole after so many units of others."""
    first = Visit(pool.text(), pool.length(units))
    pool.send(first)
    for visit in _others(pool, units, between):
        pool.send(visit)
    return pool.send(first) == pool.law.full_hit(first.prompt_tokens)


def _others(pool: Pool, units: int, total: int, exact: bool = False) -> Iterator[Visit]:
    """Return new prompts that store so many units; those of the template's start are there already."""
    shared = pool.law.shared_start_tokens // pool.law.grain_tokens
    own = units - shared
    while total > 0:
        part = min(own, total)
        yield Visit(pool.text(), pool.length(part + shared, exact))
        total -= part


def _bracket(pool: Pool, units: int) -> tuple[int, int]:
    """Return two numbers of units: so many were held together, so many were not."""
    low, between = units, units
    while _survives(pool, units, between):
        low = units + between
        between *= 2
    return low, units + between


def _narrow(pool: Pool, units: int, low: int, high: int) -> tuple[int, int]:
    """Halve the bracket until its pairs with a policy can all be simulated."""
    stored = sum(visit.prompt_tokens for visit, _ in pool.history) // pool.law.grain_tokens
    while high - low > units and (
        (high - low) * len(DETERMINISTIC) > MOST_CANDIDATES or (high - low) * stored > 3_000_000
    ):
        middle = (low + high) // 2
        if _survives(pool, units, middle - units):
            low = middle
        else:
            high = middle
        stored = sum(visit.prompt_tokens for visit, _ in pool.history) // pool.law.grain_tokens
    return low, high


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
                yield [first, *_others(pool, units, between, exact), first]
        if size > 2 * units:  # used in between: does it get younger?
            pool.first_text = start
            first = Visit(pool.text(), pool.length(units))
            before, after = (list(_others(pool, units, n)) for n in (size // 2, size - units - 2))
            yield [first, *before, first, *after, first]


def _hold_out(pool: Pool, units: int, count: int, draw: random.Random) -> int:
    """Ask what must be predicted, and return how many prompts that were sent before were predicted.

    First the limit, four times: had others' prompts taken room, what was lost there once would be there
    another time. Then half as many texts again as fit, in random order.
    """
    size = max(size for _, size in pool.pairs)
    held: list[Visit] = []
    for _ in range(LIMIT_AGAIN):
        first = Visit(pool.text(), pool.length(units))
        held += [first, *_others(pool, units, max(1, size - units + 1)), first]
    texts = [Visit(pool.text(), pool.length(units)) for _ in range(max(3, round(1.5 * size / units)))]
    held += [*texts, *(draw.choice(texts) for _ in range(max(count, len(texts))))]
    for visit in held:
        pool.send(visit)
        if not pool.candidates:
            return 0
    return LIMIT_AGAIN + max(count, len(texts))  # those whose answer was open


def _told(pool: Pool, units: int, low: int, high: int, predicted: int, held_out: int) -> LearnedCapacity:
    grain, reason, policy = pool.law.grain_tokens, None, None
    names = tuple(sorted({name for name, _ in pool.pairs}))
    tokens_high: int | None = high * grain if high else None
    tokens_low = low * grain
    if pool.candidates:
        sizes = [size for _, size in pool.pairs]
        tokens_low, tokens_high = min(sizes) * grain, max(sizes) * grain
        policy = names[0] if len(names) == 1 and predicted else None
        if policy is None:
            reason = f"{', '.join(names)} predict the same" if predicted else "nothing could be held out"
    elif pool.candidates is None:
        reason = f"{pool.max_tokens:,} tokens did not suffice to find the limit"
        tokens_low, tokens_high = max(tokens_low, 0), None
    else:
        verdict = _random_or_unknown(pool, units)
        policy, reason = verdict.policy, verdict.reason
        tokens_low = verdict.low_units * grain if policy else tokens_low
        tokens_high = verdict.high_units * grain if verdict.high_units else None
    n = predicted if pool.candidates else 0
    return LearnedCapacity(
        tokens_low=tokens_low,
        tokens_high=tokens_high,
        policy=policy,
        possible_policies=names,
        predicted=predicted,
        held_out=n or held_out,
        wrong_at_most=1 - 0.05 ** (1 / n) if n else None,
        reason=reason,
        requests=len(pool.history),
        prompt_tokens=pool.spent,
    )


@dataclass
class _Ages:
    """Texts of one age group after the other: which are there after so many units of others."""

    held: list[bool] = field(default_factory=list)
    ages: list[int] = field(default_factory=list)
    least_between: int = 0
    most_between: int = 0


@dataclass(frozen=True)
class _Verdict:
    policy: str | None
    reason: str
    low_units: int = 0
    high_units: int | None = None


def _random_or_unknown(pool: Pool, units: int) -> _Verdict:
    """Tell random eviction from others' traffic, by age.

    Whatever goes by age leaves the youngest: of texts stored one after the other, those that are still
    there are the last ones, also when others' prompts came between. Random eviction leaves any. Random is
    claimed where at least eight of 48 texts are there and eight not, in no order of age (rank test of Mann
    and Whitney, p > 0.05; were age the rule, p would be below 1e-6), in a cache that no rule by age explains.
    Its size follows from the share s that is left after D units: ``s = (1 - 1 / C) ** D``.
    """
    unknown = _Verdict(None, "no policy predicts all readings: others use the cache, or it has another rule")
    try:
        found = _by_age(pool, units)
    except OverBudgetError:
        return unknown
    there, n = sum(found.held), len(found.held)
    if min(there, n - there) < 8:
        return unknown
    young = [age for age, there in zip(found.ages, found.held, strict=True) if there]
    old = [age for age, there in zip(found.ages, found.held, strict=True) if not there]
    p = float(mannwhitneyu(young, old, alternative="two-sided").pvalue)
    if p <= 0.05:
        return unknown
    share = binomtest(there, n).proportion_ci(0.99)
    low = round(-found.least_between / math.log(share.low))
    high = round(-found.most_between / math.log(share.high))
    reason = (
        f"what stays does not depend on age (rank test, p = {p:.2f}, n = {n}); size by the share that stays"
    )
    return _Verdict("random", reason, low, high)


def _by_age(pool: Pool, units: int) -> _Ages:
    """Store 16 texts, then others, then ask for the 16 from the youngest; until half of them stay, then twice more."""
    shared = pool.law.shared_start_tokens // pool.law.grain_tokens
    least = max(shared + 1, -(-pool.law.minimum_tokens // pool.law.grain_tokens)) + pool.law.grains_off
    length, own = pool.length(least), least - shared
    between, found = units, _Ages()
    while len(found.held) < 48:
        texts = [Visit(pool.text(), length) for _ in range(16)]
        for visit in texts:
            pool.send(visit)
        for visit in _others(pool, units, between):
            pool.send(visit)
        held = [pool.send(visit) >= pool.law.full_hit(length) for visit in reversed(texts)]
        if not found.held and sum(held) > 10:
            between *= 2
            continue
        if not found.held and sum(held) < 4 and between > 1:
            between //= 2
            continue
        found.held += held
        found.ages += range(16)
        found.least_between, found.most_between = between, between + 32 * own
    return found
