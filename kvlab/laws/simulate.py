"""A prefix cache in memory with a known law, capacity, eviction policy, lifetime and tenants.

Learners are tested against it, capacities are fitted by it (the one that predicts every answer), and
traffic can be replayed through it before it is sent. It holds digests of prefixes, not tokens.

Policies, each after a real one:

- ``lru``: the unit that was used longest ago; within a prompt the head counts as used first.
- ``leaf_first``: the same, but a prompt's tail counts as used before its head, so that a chain loses
  its tail first (SGLang's radix tree, which evicts leaves).
- ``lru_unhashed_first``: vLLM (v1). As ``leaf_first``, and a block that holds no whole unit, the end
  of a prompt, takes room while its request runs and is reused before all others
  (``BlockPool.free_blocks``). A prompt of 33 tokens needs two blocks of 32.
- ``fifo``: the unit that was stored longest ago, used or not.
- ``random``: any unit.
"""

import copy
import random
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from kvlab.laws.law import CacheLaw

POLICIES = ("lru", "leaf_first", "lru_unhashed_first", "fifo", "random")


@dataclass(frozen=True)
class Reading:
    """What the cache did for one prompt, in tokens."""

    prompt_tokens: int
    cached_tokens: int


@dataclass
class SimulatedCache:
    """One replica's cache.

    Attributes:
        law: Its law; `CacheLaw.shared_start_tokens` is not used here: what prompts share, they share
            by their tokens.
        capacity_units: Most units of one grain it holds; ``None``: no bound.
        policy: One of `POLICIES`.
        ttl_s: A unit is lost so long after it was used last; ``None``: never.
        renewed_by_use: Whether a hit starts the time anew; if not, it counts from when it was stored.
        seed: Of the random policy.
    """

    law: CacheLaw
    capacity_units: int | None = None
    policy: str = "lru"
    ttl_s: float | None = None
    renewed_by_use: bool = True
    seed: int = 0
    _units: dict[Hashable, float] = field(default_factory=dict)  # → when its time began, oldest first

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise ValueError(f"policy: {self.policy!r} is none of {', '.join(POLICIES)}")
        self._law = replace(self.law, shared_start_tokens=0)
        self._random = random.Random(self.seed)  # noqa: S311 - a simulation

    def __len__(self) -> int:
        return len(self._units)

    def units(self, tokens: Sequence[int], root: Hashable = None) -> list[int]:
        """Return the keys of the whole units of a prompt; equal keys are equal prefixes."""
        grain, key = self.law.grain_tokens, hash(("root", root))
        found = []
        for end in range(grain, len(tokens) + 1, grain):
            key = hash((key, tuple(tokens[end - grain : end])))
            found.append(key)
        return found

    def ask(self, tokens: Sequence[int], root: Hashable = None, now_s: float = 0.0) -> Reading:
        """Serve a prompt of token ids, and store it. ``root``: other roots (salts) share nothing."""
        return self.ask_units(self.units(tokens, root), len(tokens), now_s)

    def ask_units(self, units: Sequence[Hashable], prompt_tokens: int, now_s: float = 0.0) -> Reading:
        """Serve a prompt of which only the units' keys are known (a trace), and store it."""
        held, cached = self.look_up(units, prompt_tokens, now_s)
        self.store(units, held, prompt_tokens, now_s)
        return Reading(prompt_tokens, cached)

    def look_up(self, units: Sequence[Hashable], prompt_tokens: int, now_s: float = 0.0) -> tuple[int, int]:
        """Return how many leading units are held, and how many tokens are served; what is held counts as used."""
        self._expire(now_s)
        held = 0
        while held < len(units) and units[held] in self._units:
            held += 1
        self._touch(units[:held], now_s)
        return held, self._law.predict(prompt_tokens, held * self.law.grain_tokens)

    def held(self) -> Iterable[Hashable]:
        """Return the units that are held, those that go first in front (unless they go at random)."""
        return self._units.keys()

    def drop(self, units: Sequence[Hashable]) -> None:
        """Lose these units, as foreign traffic would make them go."""
        for unit in units:
            self._units.pop(unit, None)

    def copy(self) -> "SimulatedCache":
        """Return one that goes on from the same state."""
        other = copy.copy(self)
        other._units = dict(self._units)
        other._random = copy.copy(self._random)
        return other

    def clear(self) -> None:
        """Lose everything."""
        self._units.clear()

    def _expire(self, now_s: float) -> None:
        if self.ttl_s is not None:
            gone = [unit for unit, since in self._units.items() if now_s - since >= self.ttl_s]
            self.drop(gone)

    def _in_order(self, units: Sequence[Hashable]) -> Sequence[Hashable]:
        tail_first = self.policy in ("leaf_first", "lru_unhashed_first")
        return units[::-1] if tail_first else units

    def _touch(self, units: Sequence[Hashable], now_s: float) -> None:
        for unit in self._in_order(units):
            since = self._units[unit]
            if self.policy not in ("fifo", "random"):
                del self._units[unit]
            self._units[unit] = now_s if self.renewed_by_use else since

    def store(self, units: Sequence[Hashable], held: int, prompt_tokens: int, now_s: float = 0.0) -> None:
        """Store a prompt's units of which so many are held already, and evict what has no room."""
        new = [unit for unit in dict.fromkeys(units[held:]) if unit not in self._units]
        if self.capacity_units is None:
            self._units.update(dict.fromkeys(self._in_order(new), now_s))
            return
        # vLLM allocates the last, partial block too; it takes its place back before any other.
        partial = self.policy == "lru_unhashed_first" and prompt_tokens % self.law.grain_tokens > 0
        in_use = set(units)
        self._evict(self.capacity_units - len(new) - partial, in_use)
        room = self.capacity_units - len(self._units)
        self._units.update(dict.fromkeys(self._in_order(new[: max(0, room)]), now_s))

    def _evict(self, keep: int, in_use: set[Hashable]) -> None:
        """Lose units until at most ``keep`` are left, none of them in use by this very prompt."""
        excess = len(self._units) - max(0, keep)
        if excess <= 0:
            return
        if self.policy == "random":
            others = [unit for unit in self._units if unit not in in_use]
            self.drop(self._random.sample(others, min(excess, len(others))))
            return
        gone: list[Hashable] = []
        for unit in self._units:
            if len(gone) == excess:
                break
            if unit not in in_use:
                gone.append(unit)
        self.drop(gone)
