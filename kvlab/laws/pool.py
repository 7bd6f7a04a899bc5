"""A real cache as it is filled, and the simulated ones that still explain it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from kvlab.laws.law import CacheLaw
from kvlab.laws.probe import Probe, PromptSpec
from kvlab.laws.simulate import SimulatedCache

DETERMINISTIC = ("lru", "leaf_first", "lru_unhashed_first", "fifo")
#: So many candidates are asked what an episode would read; the others are only held against what was read.
MOST_FORETOLD = 60


@dataclass(frozen=True)
class Visit:
    """One prompt: which text, and its length in tokens."""

    text: int
    prompt_tokens: int


class OverBudgetError(Exception):
    """The tokens that may be sent are spent."""


@dataclass
class Pool:
    """A server's cache as it is filled, and the candidates that still explain it.

    Attributes:
        probe: Sends one prompt.
        law: The law of reuse.
        overhead_tokens: What the template adds.
        max_tokens: Of all prompts together.
        first_text: Number of the next text that was never sent.
        candidates: Simulated caches that predicted all readings; ``None``: not begun.
        history: What was sent and read.
        low: So many units were held together, for certain.
        high: So many were not, as far as was seen; 0: no limit was met.
    """

    probe: Probe
    law: CacheLaw
    overhead_tokens: int
    max_tokens: int
    first_text: int = 0
    candidates: list[SimulatedCache] | None = None
    history: list[tuple[Visit, int]] = field(default_factory=list)
    spent: int = 0
    low: int = 0
    high: int = 0

    def text(self) -> int:
        """Return the number of a text that was never sent."""
        self.first_text += 1
        return self.first_text - 1

    def length(self, units: int, exact: bool = False) -> int:
        """Return a prompt's tokens for so many whole units; ``exact``: not one token more."""
        computed = self.law.always_computed_tokens % self.law.grain_tokens
        return units * self.law.grain_tokens + (
            0 if exact else max(1, computed) if self.law.grain_tokens > 1 else 1
        )

    def units(self, visit: Visit) -> list[tuple[int, int]]:
        """Return the keys of a prompt's units; those of the template's start are everybody's."""
        shared = self.law.shared_start_tokens // self.law.grain_tokens
        whole = visit.prompt_tokens // self.law.grain_tokens
        return [(-1 if i < shared else visit.text, i) for i in range(whole)]

    def send(self, visit: Visit) -> int:
        """Send a prompt, drop the candidates that were wrong, and return its cached tokens.

        Raises:
            OverBudgetError: The tokens are spent.
            ValueError: The server did not say what it must.
        """
        if self.spent + visit.prompt_tokens > self.max_tokens:
            raise OverBudgetError
        own = visit.prompt_tokens - self.overhead_tokens
        answer = self.probe(PromptSpec(own, own, visit.text))
        if answer.cached_tokens is None:
            raise ValueError(f"no cached tokens were said: {answer.note or 'the server is silent'}")
        self.spent += visit.prompt_tokens
        self.history.append((visit, answer.cached_tokens))
        if self.candidates is not None:
            self.candidates = [c for c in self.candidates if self._predicts(c, visit) == answer.cached_tokens]
        return answer.cached_tokens

    def _predicts(self, cache: SimulatedCache, visit: Visit) -> int:
        return cache.ask_units(self.units(visit), visit.prompt_tokens).cached_tokens

    def begin(self, capacities: Sequence[int], policies: Sequence[str] = DETERMINISTIC) -> None:
        """Keep the pairs of policy and capacity that explain all that was sent so far."""
        law = replace(self.law, shared_start_tokens=0)
        self.candidates = []
        for policy in policies:
            for units in capacities:
                cache = SimulatedCache(law, units, policy)
                if all(self._predicts(cache, visit) == read for visit, read in self.history):
                    self.candidates.append(cache)

    def foretell(self, episode: Sequence[Visit]) -> list[tuple[int, ...]]:
        """Return what some candidates say an episode's prompts would read; candidates stay as they are."""
        alive = self.candidates or []
        some = alive if len(alive) <= MOST_FORETOLD else alive[:: -(-len(alive) // MOST_FORETOLD)]
        found = []
        for cache in some:
            trial = cache.copy()
            found.append(tuple(self._predicts(trial, visit) for visit in episode))
        return found

    @property
    def pairs(self) -> list[tuple[str, int]]:
        """The candidates' policies and capacities in units."""
        return [(c.policy, c.capacity_units or 0) for c in self.candidates or []]


def others(pool: Pool, units: int, total: int, exact: bool = False) -> Iterator[Visit]:
    """Return new prompts that store so many units, or a few more where a prompt can't be that short.

    Those of the template's start are there already.
    """
    shared = pool.law.shared_start_tokens // pool.law.grain_tokens
    least = (pool.overhead_tokens + 1) // pool.law.grain_tokens + 1 - shared
    count = -(-total // (units - shared))
    for number in range(count):
        part = max(least, total // count + (number < total % count))
        yield Visit(pool.text(), pool.length(part + shared, exact))
