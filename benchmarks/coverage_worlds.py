"""The worlds of `benchmarks.coverage`: draws whose truth is known, and what is claimed of them."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from kvlab.compression.transition.location import METHOD as BY_TESTS
from kvlab.compression.transition.location import interval as location_interval
from kvlab.stats import Interval, scores
from kvlab.stats.extrapolate import TrialRate, predict
from kvlab.stats.means import increase_interval, mean_interval
from kvlab.stats.medians import median_interval
from kvlab.stats.position import corrected_reduction
from kvlab.stats.rates import rate_change
from kvlab.stats.slopes import slope_interval

MARGIN = 0.05
Floats = Any


class Case(NamedTuple):
    """An interval in a world: ``draw`` gives one and the truth."""

    figure: str
    world: str
    n: int
    draw: Callable[[np.random.Generator], tuple[Interval, float]]
    simulations: float = 1.0  # of the number asked for


def alike(rng: np.random.Generator, n: int, r: float) -> Floats:
    """Return n standard normal values of which neighbours correlate by r (autoregressive, of order 1)."""
    values = rng.standard_normal(n)
    for k in range(1, n):
        values[k] = r * values[k - 1] + (1 - r**2) ** 0.5 * values[k]
    return values


#: Worlds of single values: the draw, the median, and the mean.
VALUES: dict[str, tuple[Callable[[np.random.Generator, int], Floats], float, float]] = {
    "normal": (lambda rng, n: rng.normal(10, 1, n), 10, 10),
    "exponential": (lambda rng, n: rng.exponential(1, n), np.log(2), 1),
    "log-normal, sigma 1": (lambda rng, n: rng.lognormal(0, 1, n), 1, np.exp(0.5)),
    "a tenth five times as large": (lambda rng, n: np.where(rng.random(n) < 0.1, 5.0, 1.0) * rng.lognormal(0, 0.1, n),
                                    float(np.exp(0.1 * 0.1397)), 1.4 * np.exp(0.005)),
    "a clock of three ticks": (lambda rng, n: np.round(rng.normal(10, 0.6, n)), 10, 10),
    "alike, r = 0.3": (lambda rng, n: 10 + alike(rng, n, 0.3), 10, 10),
    "alike, r = 0.5": (lambda rng, n: 10 + alike(rng, n, 0.5), 10, 10),
    "alike, r = 0.8": (lambda rng, n: 10 + alike(rng, n, 0.8), 10, 10),
}  # fmt: skip


def medians() -> Iterator[Case]:
    """The median of pairs: token sweep, prefix runs, trims."""
    for world, (draw, middle, _) in VALUES.items():
        for n in (6, 7, 10, 20, 30, 80):
            yield Case(
                "median of pairs",
                world,
                n,
                lambda rng, d=draw, m=middle, n=n: (median_interval(d(rng, n)), m),
            )  # type: ignore[misc]


def means() -> Iterator[Case]:
    """The mean over cycles, and by how much one mean exceeds another."""
    for world, (draw, _, mean) in VALUES.items():
        for n in (7, 10, 20, 150):

            def one(
                rng: np.random.Generator, d: Any = draw, m: float = mean, n: int = n
            ) -> tuple[Interval, float]:
                return mean_interval([[value] for value in d(rng, n)], seed=1), m

            yield Case("mean over cycles", world, n, one, 0.5)
    for world in ("normal", "log-normal, sigma 1", "a tenth five times as large", "alike, r = 0.5"):
        draw = VALUES[world][0]
        for n in (7, 18):
            for paired in (True, False):

                def more(
                    rng: np.random.Generator, d: Any = draw, n: int = n, paired: bool = paired
                ) -> tuple[Interval, float]:
                    return increase_interval(d(rng, n), 1.5 * d(rng, n), seed=1, paired=paired), 50.0

                name = "increase of a mean, paired" if paired else "increase of a mean, two groups"
                yield Case(name, world, n, more, 0.3)


#: Contexts' sizes, by the number of contexts.
SIZES: dict[str, Callable[[int], Floats]] = {
    "equal contexts": lambda g: np.full(g, 3),
    "one context with 60 %": lambda g: np.array([round(4.5 * (g - 1)), *[3] * (g - 1)]),
    "sizes as 1 / rank": lambda g: np.maximum(1, np.round(40 / np.arange(1, g + 1))).astype(int),
}
#: What a context's examples score: together, so that a context is one witness. The draw and the mean.
SCORES: dict[str, tuple[Callable[[np.random.Generator, tuple[int, ...]], Floats], float]] = {
    "one in twenty": (lambda rng, shape: (rng.random(shape) < 0.05).astype(float), 0.05),
    "three in ten": (lambda rng, shape: (rng.random(shape) < 0.3).astype(float), 0.3),
    "F1, skewed": (lambda rng, shape: rng.beta(0.3, 5, shape), 0.3 / 5.3),
    "nearly all lose, a few gain": (lambda rng, shape: np.where(rng.random(shape) < 0.97, 0.08, -0.92), 0.05),
}


def bounded() -> Iterator[Case]:
    """Mean accuracy and mean drop over contexts."""
    for sized, sizes in SIZES.items():
        for world, (draw, mean) in SCORES.items():
            for groups in (6, 12, 40):
                contexts = np.repeat(np.arange(groups), sizes(groups))

                def one(
                    rng: np.random.Generator,
                    d: Any = draw,
                    m: float = mean,
                    g: int = groups,
                    c: Any = contexts,
                ) -> tuple[Interval, float]:
                    return scores.mean_interval(d(rng, (g,))[c], c, least=-1.0, seed=1, draws=2000), m

                yield Case("mean score over contexts", f"{world}; {sized}", groups, one, 0.5)


BUDGETS = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.35, 0.2])


def locations() -> Iterator[Case]:
    """Where a curve falls: at a cliff, and slowly; answers that are independent, and paired."""
    curves = {
        "cliff at 0.55": (np.where(BUDGETS < 0.55, 0.4, 0.0), 0.55, 0.55),
        "falls slowly from 0.95": (0.4 * (0.95 - BUDGETS), 0.575, 0.825),
        "loses a little, then much": (np.where(BUDGETS < 0.55, 0.4, 0.04 * (BUDGETS < 0.85)), 0.55, 0.55),
    }
    for world, (truth, half, first) in curves.items():
        for n in (20, 100):
            for paired in (True, False):
                for threshold, place in (("half", half), ("margin", first)):

                    def one(
                        rng: np.random.Generator, t: Any = truth, n: int = n, paired: bool = paired,
                        threshold: Any = threshold, place: float = place,
                    ) -> tuple[Interval, float]:  # fmt: skip
                        luck = rng.random((1 if paired else len(t), n))
                        before = 1.0 if paired else (rng.random(n) < 0.95).astype(float)
                        lost = (
                            (luck < t[:, None]).astype(float)
                            if paired
                            else before - (luck < 0.95 - t[:, None])
                        )
                        low, high = location_interval(
                            lost, np.arange(n), BUDGETS, threshold, MARGIN, 0.95, seed=1, draws=999
                        )
                        return Interval(None, low, high, n, 0.95, None, BY_TESTS, "contexts"), place

                    name = "middle of the fall" if threshold == "half" else "first loss of a margin"
                    yield Case(name, f"{world}; {'paired' if paired else 'independent'}", n, one, 0.3)


def others() -> Iterator[Case]:
    """Bytes per token, change of a rate, what a hit saves beyond being second, the time of N requests."""
    noises: dict[str, Callable[[np.random.Generator, Floats], Floats]] = {
        "independent noise": lambda rng, x: 5 * x + rng.normal(0, 30, len(x)),
        "noise that adds up": lambda rng, x: 5 * x + np.cumsum(rng.normal(0, 30, len(x))),
        "memory taken in blocks": lambda rng, x: 900 * np.floor((5 * x + rng.uniform(0, 900)) / 900),
    }
    for world, noise in noises.items():
        for n in (4, 8, 30):

            def line(rng: np.random.Generator, d: Any = noise, n: int = n) -> tuple[Interval, float]:
                x = np.cumsum(rng.uniform(50, 150, n))
                return slope_interval(x, d(rng, x)), 5.0

            yield Case("bytes per token", world, n, line)
    for r in (0.0, 0.5, 0.8):
        for trials in (1, 3):

            def change(
                rng: np.random.Generator, r: float = r, trials: int = trials
            ) -> tuple[Interval, float]:
                between = 0.05 if trials > 1 else 0.0
                sides = [
                    [
                        np.exp(between * rng.standard_normal() + 0.05 * alike(rng, 19, r))
                        for _ in range(trials)
                    ]
                    for _ in range(2)
                ]
                return rate_change(*sides), 0.0

            yield Case("change of a rate", f"windows alike, r = {r:g}; trials differ" if trials > 1 else
                       f"windows alike, r = {r:g}; one trial a size", trials, change)  # fmt: skip
    for n, controls in ((6, 6), (20, 10), (20, 20)):
        for saving in (0.0, 0.3):

            def saved(
                rng: np.random.Generator, n: int = n, k: int = controls, s: float = saving
            ) -> tuple[Interval, float]:
                return corrected_reduction(*second_is_faster(rng, n, k, s)), s

            yield Case(
                "saving beyond being second", f"saving {saving:.0%}; {controls} control pairs", n, saved
            )
    for r in (0.0, 0.5, 0.8):
        for between in (0.0, 0.05):

            def more(
                rng: np.random.Generator, r: float = r, between: float = between
            ) -> tuple[Interval, float]:
                found = [batch(rng, size, r, between) for size in (1000, 4000, 10_000)]
                made = predict(found, 170_000, 0.95)
                assert made is not None
                return made.interval, batch(rng, 170_000, r, between).total_s

            def held_out(
                rng: np.random.Generator, r: float = r, between: float = between
            ) -> tuple[Interval, float]:
                made = predict([batch(rng, size, r, between) for size in (1000, 4000)], 10_000, 0.95)
                assert made is not None
                return made.interval, batch(rng, 10_000, r, between).total_s

            yield Case(
                "time of the size held out",
                f"windows alike, r = {r:g}; trials differ by {between:.0%}",
                2,
                held_out,
            )
            yield Case(
                "time of 170,000 requests",
                f"windows alike, r = {r:g}; trials differ by {between:.0%}",
                3,
                more,
            )


def second_is_faster(rng: np.random.Generator, n: int, controls: int, saving: float) -> tuple[Floats, ...]:
    """Return pairs and control pairs in which every second request takes 12 % less, whatever the cache does."""
    cold, first = rng.lognormal(5, 0.3, n), rng.lognormal(5, 0.3, controls)
    hit = cold * 0.88 * (1 - saving) * rng.lognormal(0, 0.15, n)
    return cold, hit, first, first * 0.88 * rng.lognormal(0, 0.15, controls)


def batch(
    rng: np.random.Generator, size: int, r: float = 0.0, between: float = 0.0, rise: float = 0.0
) -> TrialRate:
    """Return a trial of 19 windows; ``rise``: of the time a request, within 10,000 requests."""
    own = 0.1 * np.exp(between * rng.standard_normal())
    windows = own * (1 + 0.03 * alike(rng, 19, r)) * (1 + rise * size / 10_000 * np.linspace(0, 1, 19))
    return TrialRate(size, 2 + size * float(windows.mean()), windows.tolist(), size // 20)


PARTS = (medians, means, bounded, locations, others)
