"""What the parts of learning share while one law is learned."""

import random
from dataclasses import dataclass, field

from kvlab.laws.asking import Asker
from kvlab.laws.law import CacheLaw
from kvlab.laws.steps import SharedSteps, shared_steps

GROWTH = 4
#: A surprising reading is asked so often, all in all, before it counts.
ASKED_AT_MOST = 3


@dataclass
class Study:
    """One law being learned.

    Attributes:
        asker: Sends and remembers.
        start: Content tokens of the first prompt.
        verify_to: The law must hold for prompts so long; ``None``: four times what it took to find it.
        known_start: The shared start, where it is known.
        random: Chooses probes.
        base_tokens: How much of the base was sent: the most that a probe can share.
        tight: Largest reading of prompts that end just after what they share, by ``(L, P)``: where the
            tail is long enough it binds there, and one request tells what a repeat takes two for.
        tight_times: How often each was asked.
        cap: The most tokens that are served, once a plateau was seen.
        predicted: Held-out prompts that were predicted exactly.
        held_out: All held-out prompts.
        alternatives: Laws that nothing that can be asked tells apart.
    """

    asker: Asker
    start: int
    verify_to: int | None
    known_start: int | None
    random: random.Random
    base_tokens: int = 0
    tight: dict[tuple[int, int], int] = field(default_factory=dict)
    tight_times: dict[tuple[int, int], int] = field(default_factory=dict)
    cap: int | None = None
    predicted: int = 0
    held_out: int = 0
    alternatives: list[CacheLaw] = field(default_factory=list)

    @property
    def longest_own(self) -> int:
        """The longest content that may be sent."""
        return self.asker.max_prompt_tokens - self.asker.overhead

    @property
    def tail_most(self) -> int:
        """The tail is at most so long, in tokens: what the repeats left to compute."""
        return min((n - c for n, c in self.asker.whole.items() if c), default=1)

    def own(self, shared: int) -> int:
        """Return a content length at which the tail does not bind."""
        return max(shared + 1, min(shared + self.tail_most, self.longest_own))

    def served(self) -> dict[int, int]:
        """Return the readings along P above 0 and below the cap."""
        return {p: c for p, c in self.asker.shared.items() if c and (self.cap is None or c < self.cap)}

    def steps(self) -> SharedSteps:
        """Return what these readings leave possible."""
        return shared_steps(list(self.served().items()), self.asker.overhead)

    def described(self) -> str:
        """Return what was seen, in a few words."""
        points = sorted(self.asker.shared.items())
        shown = points if len(points) <= 6 else [*points[:3], *points[-3:]]
        seen = ", ".join(f"{c:,} at {p:,}" for p, c in shown)
        return f"{len(self.asker.asked)} requests; cached tokens at shared tokens: {seen or 'none'}"
