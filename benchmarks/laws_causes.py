"""Are the causes that `kvlab.laws.causes` names the causes that were there?

A run is simulated with tenants, replicas, a capacity and a lifetime. Beside it run worlds in which one thing
is otherwise: no bound on the room, no lifetime, one tenant, one replica. A cause is right where its world
alone would have served more.
"""

import random
from collections import Counter
from typing import Any

from kvlab.laws.causes import Knowledge, MissCause, Request, common_prefix, explain
from kvlab.laws.law import CacheLaw
from kvlab.laws.simulate import SimulatedCache

PROMPT_CAUSES = {MissCause.NEVER_SEEN, MissCause.DIFFERS, MissCause.BELOW_GRAIN, MissCause.BELOW_MINIMUM}


def run(worlds: int = 100, requests: int = 60) -> list[dict[str, Any]]:
    """Return a row for each named cause: how often it was named, and how often wrongly."""
    named: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    for seed in range(worlds):
        for cause, is_right in _world(seed, requests):
            named[cause] += 1
            wrong[cause] += not is_right
    return [{"cause": cause, "named": named[cause], "wrong": wrong[cause]} for cause in sorted(named)]


def _world(seed: int, requests: int) -> list[tuple[str, bool]]:
    rng = random.Random(seed)
    grain = rng.choice((1, 16, 64))
    law = CacheLaw(
        grain, rng.choice((0, 0, 128)), rng.choice((0, 1)), rng.choice((0, 0, 1)) if grain > 1 else 0
    )
    units, ttl = rng.randint(10, 60) * 64 // grain, rng.uniform(20, 200)
    policy, renewed = rng.choice(("lru", "leaf_first", "fifo")), rng.random() < 0.7
    replicas, tenants = rng.choice((1, 1, 2)), rng.choice((1, 2))
    other = [
        (units, ttl, True, True),  # what is there: capacity, lifetime, replicas and tenants apart
        (None, ttl, True, True),
        (units, None, True, True),
        (None, None, True, True),
        (None, None, False, True),
        (None, None, True, False),
    ]
    caches = [
        [SimulatedCache(law, room, policy, life, renewed, seed) for _ in range(replicas)]
        for room, life, _, _ in other
    ]
    slack = rng.choice((1.0, 1.1))
    known = Knowledge(
        law, True, int(units * grain / slack), int(units * grain * slack), ttl / slack, ttl * slack, False,
        policy != "fifo", renewed, others=False,
    )  # fmt: skip
    texts = [[rng.randrange(100_000) for _ in range(rng.randint(20, 700))] for _ in range(12)]
    now, history, found = 0.0, [], []
    for number in range(requests):
        now += rng.expovariate(1 / 8)
        tokens = _prompt(texts, rng)
        replica, tenant = rng.randrange(replicas), f"t{rng.randrange(tenants)}"
        read = [
            caches[i][replica if apart else 0].ask(tokens, tenant if alone else None, now).cached_tokens
            for i, (_, _, apart, alone) in enumerate(other)
        ]
        request = Request(f"r{number}", tokens, now, read[0], tenant, f"replica {replica}")
        told = explain(request, history, known).cause
        found.append((str(told), _is_right(told, request, read, history, law)))
        history.append(request)
    return found


def _prompt(texts: list[list[int]], rng: random.Random) -> list[int]:
    text = rng.choice(texts)
    kind = rng.random()
    if kind < 0.6:
        return list(text)
    place = rng.randrange(len(text))
    if kind < 0.8:
        return text[:place] + [rng.randrange(100_000) for _ in range(rng.randint(1, 100))]
    return text[: max(1, place)]


def _is_right(
    told: MissCause, request: Request, read: list[int], history: list[Request], law: CacheLaw
) -> bool:
    here, roomy, lasting, kept, one_replica, one_tenant = read
    if told == MissCause.UNKNOWN:
        return True
    if told == MissCause.NONE:
        return here == law.full_hit(len(request.tokens))
    if told == MissCause.EVICTED:
        return roomy > here
    if told == MissCause.EXPIRED:
        return lasting > here
    if told == MissCause.OTHER_REPLICA:
        return one_replica > here and kept == here
    if told == MissCause.OTHER_TENANT:
        return one_tenant > here and kept == here
    shared = max((common_prefix(request.tokens, one.tokens) for one in history), default=0)
    return told in PROMPT_CAUSES and law.predict(len(request.tokens), shared) == here


def known_but_unknown(worlds: int) -> float:
    """Return the share of misses for which no cause was named, where all is known exactly."""
    rows = run(worlds)
    misses = sum(row["named"] for row in rows if row["cause"] != MissCause.NONE)
    unknown = sum(row["named"] for row in rows if row["cause"] == MissCause.UNKNOWN)
    return unknown / misses


__all__ = ["known_but_unknown", "run"]
