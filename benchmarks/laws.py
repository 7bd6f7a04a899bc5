"""Are the laws that `kvlab.laws` claims the laws that are there?

Every world is drawn at random with a known truth, a server in memory. ``reuse``: hidden laws of reuse,
half of them with others' traffic that evicts our entries, or with entries that go for no visible reason;
a law that is claimed is held against the truth at thousands of points, also where no probe was. Some
servers follow no law of the family that is searched: there the right answer is "no law".
``capacity``, ``lifetime``, ``causes`` and ``sharing``: the same for what is held, how long, why something
was cold, and who shares it, by times alone.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import laws_causes
from kvlab.laws.capacity import learn_capacity
from kvlab.laws.law import CacheLaw
from kvlab.laws.learn import LearnedLaw, learn_law
from kvlab.laws.lifetime import learn_lifetime
from kvlab.laws.probe import Answer
from kvlab.laws.sharing import Block, by_times
from kvlab.laws.simulate import POLICIES, SimulatedCache
from kvlab.laws.simulated_server import SimulatedServer

GRAINS = (1, 1, 16, 16, 32, 64, 128, 256, 272, 400, 528, 544, 800, 1056, 2144, 4160, 8320)


@dataclass(frozen=True)
class PromptMinimum(CacheLaw):
    """Outside the family: the minimum is of the prompt's length, not of what is served."""

    def predict(self, prompt_tokens: int, shared_prefix_tokens: int) -> int:
        """Return nothing for short prompts."""
        return 0 if prompt_tokens < 1500 else super().predict(prompt_tokens, shared_prefix_tokens)


@dataclass(frozen=True)
class Growing(CacheLaw):
    """Outside the family: units of 64 tokens up to 1,024, and of 256 above."""

    def predict(self, prompt_tokens: int, shared_prefix_tokens: int) -> int:
        """Return whole units of two sizes."""
        reach = min(shared_prefix_tokens, prompt_tokens - 1)
        return reach // 64 * 64 if reach < 1024 else reach // 256 * 256


@dataclass(frozen=True)
class Share(CacheLaw):
    """Outside the family: nine tenths of the prefix."""

    def predict(self, prompt_tokens: int, shared_prefix_tokens: int) -> int:
        """Return a share of the prefix."""
        return min(shared_prefix_tokens, prompt_tokens - 1) * 9 // 10


@dataclass(frozen=True)
class ExactRepeat(CacheLaw):
    """Outside the family: only a whole prompt is reused."""

    def predict(self, prompt_tokens: int, shared_prefix_tokens: int) -> int:
        """Return all but the last token of a repeat."""
        return prompt_tokens - 1 if shared_prefix_tokens >= prompt_tokens else 0


OUTSIDE: tuple[Callable[[], CacheLaw], ...] = (
    lambda: PromptMinimum(64),
    lambda: Growing(64),
    lambda: Share(1),
    lambda: ExactRepeat(1),
)


@dataclass(frozen=True)
class World:
    """A server to be learned."""

    law: CacheLaw
    start: int
    end: int
    max_prompt_tokens: int
    foreign_rate: float = 0.0
    foreign_units: int = 0
    capacity_units: int | None = None
    policy: str = "lru"
    loss_rate: float = 0.0
    seed: int = 0

    def server(self) -> SimulatedServer:
        """Return a fresh one."""
        cache = SimulatedCache(self.law, self.capacity_units, self.policy, seed=self.seed)
        return SimulatedServer(
            [cache],
            self.start,
            self.end,
            foreign_rate=self.foreign_rate,
            foreign_units=self.foreign_units,
            loss_rate=self.loss_rate,
            seed=self.seed,
        )


def draw_world(seed: int) -> World:
    """Return a hidden law with its surroundings."""
    rng = random.Random(seed)
    grain = rng.choice(GRAINS)
    minimum = rng.choice((0, 0, 0, 1024, 2048, 500)) if grain <= 128 else 0
    tail = rng.choice((1, 1, 1, 0, rng.randint(2, 40)))
    unit = rng.choice((1, 16)) if grain == 256 and rng.random() < 0.5 else None
    off = 1 if unit is None and grain > 1 and rng.random() < 0.3 else 0
    cap = rng.choice((None, None, None, None, 24 * grain)) if 16 <= grain <= 128 and not minimum else None
    start, end = rng.choice(((0, 0), (rng.randint(0, 60), rng.randint(0, 12)), (rng.randint(60, 300), 6)))
    longest = 6 * grain + start + end if grain > 1000 else 8192
    law = CacheLaw(grain, minimum, tail if unit is None else 1, off, 0, cap, unit)
    noise = rng.random()
    if noise < 0.5:
        return World(law, start, end, longest, seed=seed)
    if noise < 0.75:
        return World(law, start, end, longest, loss_rate=rng.choice((0.02, 0.05, 0.1)), seed=seed)
    # Others' prompts, in a cache that holds what is asked here two or three times over.
    units = rng.randint(2, 3) * (longest // grain + 2)
    policy = rng.choice(("lru", "leaf_first", "lru_unhashed_first", "fifo", "random"))
    return World(law, start, end, longest, rng.choice((0.1, 0.3)), units // 4, units, policy, seed=seed)


def is_right(world: World, found: LearnedLaw, points: int = 4000) -> bool:
    """Whether the law says what the truth says at random points up to the longest prompt that was asked."""
    law = found.law
    if law is None:
        return False
    rng = random.Random(world.seed + 1)
    overhead = world.start + world.end
    for _ in range(points):
        length = rng.randint(overhead + 1, found.held_to_tokens)
        own = length - overhead
        whole = rng.random() < 0.2
        shared = own if whole else rng.randint(0, own - 1)
        if rng.random() < 0.5:  # near a step, where wrong laws go wrong
            grain = world.law.grain_tokens
            shared = max(0, min(own - 1, shared // grain * grain - world.start + rng.randint(-1, 1)))
        at = length if whole else shared
        truth = world.law.predict(length, at if whole else world.start + shared)
        if law.predict(length, at if whole else law.shared_start_tokens + shared) != truth:
            return False
    return True


def reuse(worlds: int = 200, outside: int = 40) -> list[dict[str, Any]]:
    """Return a row for quiet servers, for busy ones, and for those outside the family."""
    kinds: dict[str, list[dict[str, Any]]] = {
        "quiet": [],
        "traffic or losses": [],
        "no law of the family": [],
    }
    for seed in range(worlds):
        world = draw_world(seed)
        busy = bool(world.foreign_rate or world.loss_rate)
        kinds["traffic or losses" if busy else "quiet"].append(_one(world))
    for seed in range(outside):
        law = OUTSIDE[seed % len(OUTSIDE)]()
        world = World(law, 12, 5, 8192, loss_rate=0.05 * (seed % 2), seed=seed)
        kinds["no law of the family"].append(_one(world))
    return [_row(kind, ones) for kind, ones in kinds.items() if ones]


def _one(world: World) -> dict[str, Any]:
    found = learn_law(world.server(), max_prompt_tokens=world.max_prompt_tokens, seed=world.seed)
    claimed = found.law is not None
    right = is_right(world, found)
    return {
        "world": world,
        "found": found,
        "claimed": claimed,
        "wrong": claimed and not right,
        "right": right,
    }


def _row(kind: str, ones: list[dict[str, Any]]) -> dict[str, Any]:
    requests = sorted(one["found"].requests for one in ones)
    return {
        "servers": kind,
        "n": len(ones),
        "identified": sum(one["right"] for one in ones),
        "wrong_laws": sum(one["wrong"] for one in ones),
        "no_law": sum(not one["claimed"] for one in ones),
        "requests_p50": requests[len(requests) // 2],
        "requests_max": requests[-1],
        "evictions_seen": sum(one["found"].evicted for one in ones),
    }


def capacity(worlds: int = 60) -> list[dict[str, Any]]:
    """Return a row a policy: capacity and policy found, in caches of 20 to 200 units; a third of them with traffic."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for seed in range(worlds):
        rng = random.Random(seed)
        policy = POLICIES[seed % len(POLICIES)]
        busy = rng.random() < 0.33
        units, grain = rng.randint(20, 200), rng.choice((16, 32, 128))
        start = rng.choice((0, 0, rng.randint(0, 40)))
        cache = SimulatedCache(CacheLaw(grain), units, policy, seed=seed)
        rate, size = (0.05, rng.randint(1, 10)) if busy else (0.0, 0)
        server = SimulatedServer(
            [cache], start, 4 if start else 0, foreign_rate=rate, foreign_units=size, seed=seed
        )
        law = CacheLaw(grain, shared_start_tokens=start)
        found = learn_capacity(
            server, law, overhead_tokens=start + (4 if start else 0), max_tokens=40 * units * grain, seed=seed
        )
        high = found.tokens_high
        one = {
            "exact": found.tokens_low == high == units * grain,
            "holds": found.tokens_low <= units * grain and (high is None or units * grain <= high),
            "right": found.policy == policy,
            "unknown": found.policy is None,
            "tokens": found.prompt_tokens / (units * grain),
        }
        rows.setdefault(policy + (", others' traffic" if busy else ""), []).append(one)
    return [
        {
            "policy": name,
            "n": len(ones),
            "policy_right": sum(one["right"] for one in ones),
            "policy_unknown": sum(one["unknown"] for one in ones),
            "policy_wrong": sum(not one["right"] and not one["unknown"] for one in ones),
            "capacity_exact": sum(one["exact"] for one in ones),
            "range_holds": sum(one["holds"] for one in ones),
            "tokens_by_capacity_p50": sorted(one["tokens"] for one in ones)[len(ones) // 2],
        }
        for name, ones in sorted(rows.items())
    ]


def lifetime(worlds: int = 200) -> list[dict[str, Any]]:
    """Return a row for servers whose entries expire, with and without losses, and for those that keep them."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for seed in range(worlds):
        rng = random.Random(seed)
        ttl = None if seed % 8 == 0 else rng.uniform(5, 1800)
        loss = rng.choice((0.0, 0.02))
        renewed = rng.random() < 0.7
        cache = SimulatedCache(CacheLaw(64), None, "lru", ttl, renewed, seed)
        server = SimulatedServer([cache], loss_rate=loss, seed=seed)
        found = learn_lifetime(
            server,
            CacheLaw(64),
            prompt_tokens=257,
            limit_s=3600,
            now=partial(getattr, server, "now_s"),
            sleep=server.sleep,
        )
        high = found.ttl_s_high
        one = {
            "inside": (high is None) if ttl is None else high is not None and found.ttl_s_low <= ttl <= high,
            "renewed": ttl is None or found.renewed_by_use in (renewed, None),
            "requests": found.requests,
        }
        kind = ("no expiry" if ttl is None else "expiry") + (", losses" if loss else "")
        rows.setdefault(kind, []).append(one)
    return [
        {
            "servers": kind,
            "n": len(ones),
            "inside": sum(one["inside"] for one in ones),
            "renewal_right_or_unknown": sum(one["renewed"] for one in ones),
            "requests_p50": sorted(one["requests"] for one in ones)[len(ones) // 2],
        }
        for kind, ones in sorted(rows.items())
    ]


def sharing(simulations: int = 400) -> list[dict[str, Any]]:
    """Return a row for each effect: how often times alone say what is true, and how often the opposite."""
    rows = []
    for effect, spread, heavy in ((4.5, 0.1, False), (1.5, 0.2, False), (1.3, 0.2, True), (1.0, 0.2, False)):
        for shared in (True, False):
            rng = np.random.default_rng(len(rows))
            found = [by_times(_timed(rng, shared, effect, spread, heavy)).verdict for _ in range(simulations)]
            truth, other = ("shared", "isolated") if shared else ("isolated", "shared")
            rows.append(
                {
                    "truth": truth,
                    "cold_by_served": effect,
                    "spread": spread,
                    "tails": "t, 2 degrees" if heavy else "normal",
                    "requests": 60,
                    "n": simulations,
                    "found": found.count(truth) / simulations,
                    "false": found.count(other) / simulations,
                }
            )
    return rows


def _timed(rng: Any, shared: bool, effect: float, spread: float, heavy: bool) -> list[Block]:
    """Draw 12 blocks of times whose level drifts from block to block."""

    def answer(mean: float, drift: float) -> Answer:
        noise = rng.standard_t(2) if heavy else rng.normal()
        return Answer(None, None, ttft_ms=float(drift * mean * np.exp(noise * spread)))

    drifts = np.exp(rng.normal(0, 0.3, 12))
    return [Block(answer(1 if shared else effect, d), answer(1, d), answer(effect, d)) for d in drifts]


def part(quick: bool = False) -> dict[str, list[dict[str, Any]]]:
    """Run all of it, print the tables, and return their rows."""
    sizes = (20, 8, 10, 16, 10, 40) if quick else (200, 40, 60, 200, 100, 400)
    found = {
        "reuse": reuse(*sizes[:2]),
        "capacity": capacity(sizes[2]),
        "lifetime": lifetime(sizes[3]),
        "causes": laws_causes.run(sizes[4]),
        "sharing": sharing(sizes[5]),
    }
    for name, rows in found.items():
        table = Table(*(key.replace("_", " ") for key in rows[0]), title=name)
        for row in rows:
            table.add_row(
                *(f"{value:.3g}" if isinstance(value, float) else str(value) for value in row.values())
            )
        Console(width=160).print(table)
    return found
