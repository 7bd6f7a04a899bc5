"""A server in memory with a known law: it answers probes as a real one would, and knows the truth.

In front of the content stands a template that every prompt shares, and after it one more piece; other
people's prompts may arrive between two of ours, and entries may go for no reason that we can see.
"""

import random
from collections.abc import Hashable
from dataclasses import dataclass, field

from kvlab.laws.probe import Answer, PromptSpec, token_ids
from kvlab.laws.simulate import SimulatedCache

_TEMPLATE, _END = 40_000, 50_000  # token ids that no content has


@dataclass
class SimulatedServer:
    """Answers probes.

    Attributes:
        caches: A cache for each replica.
        start_tokens: Of the template before the content.
        end_tokens: Of the template after it.
        isolated: Whether tenants share nothing (a salt is the root of a chain of units).
        routing: ``round_robin``, ``random``, or ``sticky`` (by tenant); which replica answers.
        foreign_rate: Chance, before each of our prompts, that others' prompts arrived.
        foreign_units: Units that they store each time.
        loss_rate: Chance, before each of our prompts, that entries of ours are gone: all of a prompt's,
            or only its tail.
        seed: Of all that is random here.
        now_s: The server's clock; a test moves it.
        says_cached: Whether answers carry cached tokens.
    """

    caches: list[SimulatedCache]
    start_tokens: int = 0
    end_tokens: int = 0
    isolated: bool = False
    routing: str = "round_robin"
    foreign_rate: float = 0.0
    foreign_units: int = 0
    loss_rate: float = 0.0
    seed: int = 0
    now_s: float = 0.0
    says_cached: bool = True
    log: list[tuple[PromptSpec, Answer]] = field(default_factory=list)
    losses: int = 0

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)  # noqa: S311 - a simulation
        self._seen: list[list[tuple[int, list[int]]]] = [[] for _ in self.caches]
        self._turn = 0

    def __call__(self, spec: PromptSpec) -> Answer:
        """Serve one prompt."""
        replica = self._route(spec.tenant)
        cache = self.caches[replica]
        self._others(replica)
        tokens = self.tokens(spec)
        root: Hashable = spec.tenant if self.isolated else None
        reading = cache.ask(tokens, root, self.now_s)
        self._seen[replica].append((len(tokens), cache.units(tokens, root)))
        cached = reading.cached_tokens if self.says_cached else None
        answer = Answer(reading.prompt_tokens, cached)
        self.log.append((spec, answer))
        return answer

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.now_s += seconds

    def tokens(self, spec: PromptSpec) -> list[int]:
        """Return the whole prompt, template included."""
        start = [_TEMPLATE + i for i in range(self.start_tokens)]
        return start + token_ids(spec) + [_END + i for i in range(self.end_tokens)]

    def _route(self, tenant: str | None) -> int:
        count = len(self.caches)
        if self.routing == "sticky":
            return random.Random(f"{self.seed} {tenant}").randrange(count)  # noqa: S311 - a simulation
        if self.routing == "random":
            return self._random.randrange(count)
        self._turn += 1
        return (self._turn - 1) % count

    def _others(self, replica: int) -> None:
        cache = self.caches[replica]
        if self._random.random() < self.foreign_rate:
            keys = [("foreign", self._random.random(), i) for i in range(self.foreign_units)]
            cache.ask_units(keys, len(keys) * cache.law.grain_tokens, self.now_s)
        if self._seen[replica] and self._random.random() < self.loss_rate:
            self.losses += 1
            _, units = self._random.choice(self._seen[replica])
            # Down to the template at most: its units are in use by everybody, all the time.
            first = self.start_tokens // cache.law.grain_tokens
            cache.drop(units[max(first, int(self._random.random() * len(units))) :])
