"""The claims of `benchmarks.coverage`: how often each is made where it is wrong, and where it is right."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from benchmarks import coverage_memory
from benchmarks.coverage_worlds import MARGIN, SCORES, SIZES, VALUES, Floats, alike, second_is_faster
from kvlab.compression.transition.drop import p_exceeds, p_holds
from kvlab.compression.transition.power import minimum_detectable
from kvlab.stats import decide
from kvlab.stats.extrapolate import trend
from kvlab.stats.medians import median_interval
from kvlab.stats.position import corrected_reduction

#: What a verdict's error is at most, in every world.
MOST_WRONG = 0.025


class Rate(NamedTuple):
    """A claim in a world: ``draw`` says of some runs at once whether it was made."""

    claim: str
    world: str
    n: int
    draw: Callable[[np.random.Generator, int], Floats]
    at_most: float | None
    simulations: float = 1.0


def rates() -> Iterator[Rate]:
    """Wrong claims and right ones, of the transition, the sweeps and the batch."""
    for sized, sizes in SIZES.items():
        for world, (draw, mean) in SCORES.items():
            for groups in (12, 40, 100):
                if mean != MARGIN:
                    continue
                yield Rate("transition, the drop being the margin", f"{world}; {sized}", groups,
                           called(draw, sizes(groups), p_exceeds), MOST_WRONG)  # fmt: skip
                yield Rate("no transition, the drop being the margin", f"{world}; {sized}", groups,
                           called(draw, sizes(groups), p_holds), MOST_WRONG)  # fmt: skip
    for groups in (40, 100, 200):
        yield Rate(
            "transition, as failing answers are the right ones",
            "every tenth fails",
            groups,
            lost(False),
            MOST_WRONG,
        )
        yield Rate(
            "no transition, as failing answers are the wrong ones",
            "every tenth fails",
            groups,
            lost(True),
            MOST_WRONG,
        )
    for contexts, sd in ((6, None), (10, None), (40, None), (100, None), (100, 0.3)):
        world = "right and wrong answers" if sd is None else f"normal noise, SD {sd:g}"
        yield Rate(
            "called at the minimum detectable drop", world, contexts, at_the_limit(sd, contexts), None, 0.5
        )
    for n in (6, 10, 20):
        for world in ("normal", "exponential", "alike, r = 0.5"):
            # Of few pairs the interval says that it takes them as independent: what follows if they are not is shown.
            bound = None if "alike" in world else MOST_WRONG
            yield Rate(
                "FAIL, the saving being the margin",
                world,
                n,
                decided(world, n, "below"),
                bound,
            )
            yield Rate(
                "PASS, the saving being the margin",
                world,
                n,
                decided(world, n, "above"),
                bound,
            )
        yield Rate(
            "PASS, the second request being 12 % faster, with controls",
            "no saving",
            n,
            positioned(n, True),
            MOST_WRONG,
        )
        yield Rate(
            "PASS, the second request being 12 % faster, without controls",
            "no saving",
            n,
            positioned(n, False),
            None,
        )
    for n in (8, 20, 60):
        for r in (0.0, 0.5, 0.8, 0.9):
            yield Rate("trend", f"none; alike, r = {r:g}", n, wanders(n, r), 0.1)
    for rise in (0.02, 0.04, 0.08):
        yield Rate("trend", f"rises by {rise:.0%}, noise of 1 %", 19, rising(rise), None)
    for claim in coverage_memory.claims():
        yield Rate(*claim)


def called(draw: Any, sizes: Floats, test: Any) -> Callable[[np.random.Generator, int], Floats]:
    """Return whether a test rejects at 2.5 %, where drops are drawn by context."""
    contexts = np.repeat(np.arange(len(sizes)), sizes)
    return lambda rng, runs: (
        test(draw(rng, (runs, len(sizes)))[:, contexts], contexts, MARGIN, seed=1, draws=999) <= MOST_WRONG
    )


def lost(wrong: bool) -> Callable[[np.random.Generator, int], Floats]:
    """Return whether the call is made although the drop is the margin, where a tenth of the answers fails.

    Those that fail are wrong ones, so that what is left looks good; or right ones, so that it looks bad.
    """

    def draw(rng: np.random.Generator, runs: int) -> Floats:
        falls = rng.random((runs, 100)) < (0.15 if wrong else MARGIN)
        fails = (
            falls & (rng.random((runs, 100)) < 2 / 3) if wrong else ~falls & (rng.random((runs, 100)) < 0.1)
        )
        if wrong:  # a missing answer counts as wrong where a loss is to be denied
            return p_holds(np.where(fails, 1.0, falls), np.arange(100), 0.15, seed=1, draws=999) <= MOST_WRONG
        return p_exceeds(np.where(fails, 0.0, falls), np.arange(100), MARGIN, seed=1, draws=999) <= MOST_WRONG

    return draw


def at_the_limit(sd: float | None, contexts: int) -> Callable[[np.random.Generator, int], Floats]:
    """Return whether a drop of the printed minimum is called: four in five, if that is what it says."""

    def draw(rng: np.random.Generator, runs: int) -> Floats:
        before = np.zeros((contexts, 1)) if sd is None else rng.normal(0, sd, (contexts, 1))
        least = minimum_detectable(before, np.arange(contexts), margin=MARGIN, level=MOST_WRONG).drop
        if least is None:
            return np.array([], dtype=bool)
        if sd is None:
            drops = (rng.random((runs, contexts)) < least).astype(float)
        else:
            drops = np.clip(rng.normal(least, float(before.std(ddof=1)), (runs, contexts)), -1, 1)
        return p_exceeds(drops, np.arange(contexts), MARGIN, seed=1) <= MOST_WRONG

    return draw


def decided(world: str, n: int, answer: str) -> Callable[[np.random.Generator, int], Floats]:
    """Return whether a median is decided to lie on one side of a margin at which it lies."""
    draw, middle, _ = VALUES[world]
    return lambda rng, runs: np.array(
        [decide(median_interval(draw(rng, n)), middle) == answer for _ in range(runs)]
    )


def positioned(n: int, controlled: bool) -> Callable[[np.random.Generator, int], Floats]:
    """Return whether a saving above 0 is claimed where only the place in the pair saves anything."""

    def one(rng: np.random.Generator) -> bool:
        cold, hit, first, second = second_is_faster(rng, n, n, 0.0)
        made = (
            corrected_reduction(cold, hit, first, second) if controlled else median_interval(1 - hit / cold)
        )
        return decide(made, 0.0) == "above"

    return lambda rng, runs: np.array([one(rng) for _ in range(runs)])


def wanders(n: int, r: float) -> Callable[[np.random.Generator, int], Floats]:
    """Return whether a series without a trend is said to have one, which refuses an extrapolation."""
    return lambda rng, runs: np.array([trend(1 + 0.05 * alike(rng, n, r)) is not None for _ in range(runs)])


def rising(rise: float) -> Callable[[np.random.Generator, int], Floats]:
    """Return whether a trend is seen in 19 windows."""
    return lambda rng, runs: np.array(
        [
            trend((1 + rise * np.linspace(0, 1, 19)) * (1 + 0.01 * rng.standard_normal(19))) is not None
            for _ in range(runs)
        ]
    )
