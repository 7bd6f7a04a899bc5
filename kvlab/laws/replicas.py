"""How many replicas answer, and whether routing is sticky: from the pattern of hits of one prompt.

Each replica has a cache of its own. A prompt that is sent n times is cold once on every replica that it
meets, and a hit from then on; so the cold answers among the n count the replicas that were met, for certain
from below. In turns (round robin), R replicas give R cold answers first, and only then hits. At random, a
replica that was not met in n requests is unlikely: ``1 - P(all R met)`` by inclusion and exclusion.
A router that sends equal prompts to equal places, or one tenant to one place, shows one replica only:
then other tenants show whether there are more.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from kvlab.laws.law import CacheLaw
from kvlab.laws.probe import Probe, PromptSpec


@dataclass(frozen=True)
class Replicas:
    """What was found out.

    Attributes:
        at_least: Replicas that were met.
        number: How many there are, where a further one is less likely than `more_at_most`; ``None``: unknown.
        routing: ``round_robin``, ``random``, ``sticky`` (by tenant or by prompt, or there is one replica
            only), or ``unknown``.
        more_at_most: Chance that one more replica went unseen, were routing random and even.
        reason: One sentence.
        patterns: For each prompt, ``.`` for a cold answer and ``#`` for a hit, in order.
        requests: How many were sent.
    """

    at_least: int
    number: int | None
    routing: str
    more_at_most: float
    reason: str
    patterns: tuple[str, ...]
    requests: int


def learn_replicas(
    probe: Probe,
    law: CacheLaw,
    *,
    prompt_tokens: int,
    overhead_tokens: int = 0,
    prompts: int = 4,
    times: int = 10,
    tenants: Sequence[str | None] = (None,),
    first_text: int = 0,
) -> Replicas:
    """Send a few prompts many times each.

    Args:
        probe: Sends one prompt; nobody else's prompts should come between.
        law: Says what a full hit serves.
        prompt_tokens: Length of each prompt.
        overhead_tokens: What the template adds.
        prompts: How many.
        times: How often each is sent, by the tenants in turn.
        tenants: Who sends; several show whether routing goes by tenant (they must share a cache).
        first_text: Texts from this number on are used.

    Raises:
        ValueError: The server does not say how many tokens were cached, or a full hit serves none.
    """
    full, own = law.full_hit(prompt_tokens), prompt_tokens - overhead_tokens
    if full <= law.predict(prompt_tokens, 0):
        raise ValueError(
            f"prompt_tokens: a prompt of {prompt_tokens} tokens is never served; use longer ones"
        )
    patterns = []
    for text in range(first_text, first_text + prompts):
        pattern = ""
        for turn in range(times):
            cached = probe(PromptSpec(own, own, text, tenant=tenants[turn % len(tenants)])).cached_tokens
            if cached is None:
                raise ValueError("the server does not say how many tokens were cached")
            pattern += "#" if cached >= full else "."
        patterns.append(pattern)
    return judge(patterns)


def judge(patterns: Sequence[str], level: float = 0.01) -> Replicas:
    """Return what patterns of cold (``.``) and hit (``#``) answers say; each is one prompt's."""
    met = [pattern.count(".") for pattern in patterns]
    at_least, times = max(met), min(map(len, patterns))
    requests = sum(map(len, patterns))
    unseen = math.prod(_missed(at_least + 1, len(pattern)) for pattern in patterns)
    late = max((len(pattern) - len(pattern.rstrip(".")) for pattern in patterns), default=0)
    if at_least > times // 2 or late:
        reason = f"up to {at_least} of {times} answers to one prompt were cold: evicted, never stored, or many replicas"
        return Replicas(
            at_least if at_least <= times // 2 else 1, None, "unknown", 1.0, reason, tuple(patterns), requests
        )
    in_turns = all(pattern == "." * at_least + "#" * (len(pattern) - at_least) for pattern in patterns)
    by_chance = _all_first(at_least) ** len(patterns)
    if at_least == 1:
        routing, reason = "sticky", "each prompt was cold once: one replica, or equal prompts go to one place"
        return Replicas(1, None, routing, unseen, reason, tuple(patterns), requests)
    if in_turns and by_chance <= level:
        reason = f"each prompt was cold {at_least} times first, then never (by chance: {by_chance:.2g})"
        return Replicas(at_least, at_least, "round_robin", 0.0, reason, tuple(patterns), requests)
    routing = "unknown" if in_turns else "random"
    number = at_least if unseen <= level else None
    reason = f"prompts were cold {min(met)} to {at_least} times; one more replica would be missed with {unseen:.2g}"
    return Replicas(at_least, number, routing, unseen, reason, tuple(patterns), requests)


def _missed(replicas: int, times: int) -> float:
    """Return the chance that not all of so many are met in so many even, random picks."""
    met = sum(
        math.pow(-1, k) * math.comb(replicas, k) * math.pow(1 - k / replicas, times)
        for k in range(replicas + 1)
    )
    return min(1.0, max(0.0, 1 - met))


def _all_first(replicas: int) -> float:
    """Return the chance that the first picks meet each replica once, were they random: R! / R ** R."""
    return math.factorial(replicas) / math.pow(replicas, replicas)
