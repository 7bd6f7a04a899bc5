"""The trials of prefix hit against miss, and their names."""

import random
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from kvlab.records import Trial

if TYPE_CHECKING:
    from kvlab.experiments.prefix_hit_miss.params import PrefixHitMissParams

AS_WRITTEN, VERIFIED = "as_written", "verified"
#: What a trial is meant to be. ``warmup`` is the one generation from [A, B] of the as-written arm.
WARMUP, HIT, MISS, SAME_LENGTH = "warmup", "hit", "miss", "miss_same_length"
CONDITIONS = {AS_WRITTEN: (HIT, MISS), VERIFIED: (HIT, MISS, SAME_LENGTH)}
#: The requests of a trial: both measurements, what prepares each, and the cold check of a hit's tokens.
TTFT, THROUGHPUT, REFERENCE = "ttft", "throughput", "reference"
PRIME, REWARM = "prime", "rewarm"


@dataclass(frozen=True)
class Planned:
    """What a trial measures.

    Attributes:
        size_a: Tokens of context A.
        size_b: Tokens of context B.
        procedure: ``as_written`` or ``verified``.
        condition: ``hit``, ``miss``, ``miss_same_length``, or ``warmup``.
        index: Its place among those of its condition, from 1, the discarded ones first.
        discarded: Whether it only warms up: measured, stored, and in no statistic.
    """

    size_a: int
    size_b: int
    procedure: str
    condition: str
    index: int
    discarded: bool

    @property
    def trial_id(self) -> str:
        """The name that it has on every run of the same parameters."""
        mark = "w" if self.discarded else "m"
        return (
            f"a{self.size_a:05d}-b{self.size_b:05d}.{self.procedure}.{self.condition}.{mark}{self.index:02d}"
        )


def arm(condition: str, kind: str) -> str:
    """Return the name of one request of a trial, as ``requests.csv`` has it."""
    return f"{condition}/{kind}"


def of(params: "PrefixHitMissParams") -> list[Trial]:
    """Return all trials in the order of measuring: each (A, B), as written first, then verified."""
    draw = random.Random(params.seed)  # noqa: S311 - an order, not a secret
    found: list[Planned] = []
    for size_a, size_b in params.configs:
        for procedure in sorted(params.procedures):
            order = _as_written(params) if procedure == AS_WRITTEN else _verified(params, draw)
            found += [
                Planned(size_a, size_b, procedure, condition, index, discarded)
                for condition, index, discarded in order
            ]
    return [
        Trial(
            item.trial_id,
            f"{item.size_a}+{item.size_b} {item.procedure} {item.condition}",
            item.index,
            asdict(item),
        )
        for item in found
    ]


def _indices(params: "PrefixHitMissParams") -> list[tuple[int, bool]]:
    total = params.warmup_trials + params.num_trials
    return [(index, index <= params.warmup_trials) for index in range(1, total + 1)]


def _as_written(params: "PrefixHitMissParams") -> list[tuple[str, int, bool]]:
    """One warm-up, then all hits, then all misses."""
    trials = [(condition, *item) for condition in CONDITIONS[AS_WRITTEN] for item in _indices(params)]
    return [(WARMUP, 1, False), *trials]


def _verified(params: "PrefixHitMissParams", draw: random.Random) -> list[tuple[str, int, bool]]:
    """One of each condition at a time, in a random order, so that drift falls on all alike."""
    found = []
    for item in _indices(params):
        conditions = list(CONDITIONS[VERIFIED])
        draw.shuffle(conditions)
        found += [(condition, *item) for condition in conditions]
    return found
