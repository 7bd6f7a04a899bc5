"""How far a server's memory may be carried on: healthy servers and leaking ones, by target over what was measured.

Memory is a share of its level when the server starts, over requests; the run is what was measured, ``x`` from 0 to 1,
and its later half is looked at 40 times. The target is ``times`` that half, from the end of the run on. A world is
leaking where memory rises there by more than the margin, whatever it looked like before.

Three claims. "memory stays" of a leaking server is the error that has a bound; beyond `growth.FARTHEST` times
nothing is claimed, so the rows there lift that bound, to show why it lies where it does. "memory stays" of a
healthy one is what the run is for. "memory rises" of a healthy one costs an answer (INVALID, never FAIL): a cache that
fills up just after the run looks like a leak to anybody, so that row has no bound.
"""

from collections.abc import Callable, Iterator

import numpy as np

from benchmarks.coverage_worlds import Floats, alike
from kvlab.stats import growth

MARGIN, LOOKS = 0.05, 40
#: Of a leaking server called level.
MOST_MISSED = 0.025
#: Of a healthy one called rising, which costs an answer and gives no wrong one.
MOST_REFUSED = 0.1
#: How far a target lies, in later halves of the run; the third is what `growth.FARTHEST` allows.
TIMES = (1.0, 2.0, 2.5, 3.0, 3.5, 4.0, 6.0, 34.0)

#: The level at some places of x, for a target so far away.
Course = Callable[[np.random.Generator, Floats, float], Floats]
#: What is added to each look.
NOISES: dict[str, Callable[[np.random.Generator], Floats]] = {
    "quiet": lambda rng: 1e-4 * rng.standard_normal(LOOKS),
    "wanders by 0.3 %, r = 0.9": lambda rng: 0.003 * alike(rng, LOOKS, 0.9),
}


def stairs(x: Floats, places: Floats, height: float) -> Floats:
    """Return a staircase with steps of one height at ``places``."""
    return height * np.searchsorted(np.sort(places), x, side="right")


#: Servers whose memory comes to rest, though some of them late: over the target it rises by less than the margin.
HEALTHY: dict[str, Course] = {
    "level": lambda _, x, __: 0 * x,
    "saturates, time constant 2 % of the run": lambda _, x, __: 0.2 * (1 - np.exp(-x / 0.02)),
    "saturates, time constant 10 % of the run": lambda _, x, __: 0.2 * (1 - np.exp(-x / 0.1)),
    "saturates, time constant 60 % of the run": lambda _, x, __: 0.1 * (1 - np.exp(-x / 0.6)),
    "warm-up in steps, in the first third": lambda rng, x, _: stairs(x, rng.uniform(0, 0.33, 30), 0.01),
    "new highs of 0.3 %, ever rarer": lambda rng, x, _: stairs(x, 0.001 * np.cumprod(rng.uniform(1.5, 3, 40)), 0.003),
    "cache full after 30 % of the run": lambda _, x, __: 0.3 * np.minimum(x / 0.3, 1),
    "cache full after 95 % of the run": lambda _, x, __: 0.3 * np.minimum(x / 0.95, 1),
    "cache full just after the run": lambda _, x, __: 0.3 * np.minimum(x / 1.1, 1),
}  # fmt: skip


def linear(rise: float) -> Course:
    """A little with each request: so much over the target."""
    return lambda _, x, target: rise * x / target


def stepwise(rise: float, steps: int) -> Course:
    """So many equal steps within the target, wherever the first one falls."""
    return lambda rng, x, target: stairs(
        x, (np.arange(-steps, 40 * steps) + rng.random()) * target / steps, rise / steps
    )


def any_period(rise: float) -> Course:
    """Equal steps whose period is anything from a thousandth of the target to half of it, evenly in the logarithm."""

    def course(rng: np.random.Generator, x: Floats, target: float) -> Floats:
        period = target * np.exp(rng.uniform(np.log(1e-3), np.log(0.5)))
        places = (np.arange(int((1 + target) / period) + 2) + rng.random()) * period
        return stairs(x, places, rise * period / target)

    return course


def square(rise: float) -> Course:
    """Ever faster: with the square of the requests."""
    return lambda _, x, target: rise * x**2 / ((1 + target) ** 2 - 1)


LEAKING: dict[str, Course] = {
    "rises by 10 % over the target, at each request": linear(0.1),
    "doubles over the target, at each request": linear(1.0),
    "10 % over the target, in 50 steps": stepwise(0.1, 50),
    "10 % over the target, in 3 steps": stepwise(0.1, 3),
    "doubles over the target, in steps of any period": any_period(1.0),
    "10 % over the target, ever faster": square(0.1),
}


def said(rng: np.random.Generator, course: Course, noise: str, times: float) -> tuple[bool, bool, float]:
    """Return whether memory is said to stay, whether to rise, and by how much it does over the target.

    ``growth.FARTHEST`` is left out of the first, so that it can be seen what it keeps away.
    """
    target = 0.5 * times
    level = 1 + course(rng, np.append(np.linspace(0.5, 1, LOOKS), 1 + target), target)
    found = growth.ahead(list(level[:-1] + NOISES[noise](rng)), times)
    if found is None:
        raise ValueError(f"{LOOKS} looks are too few")
    rises = found.rises is not None and found.rises > growth.ROOM * MARGIN
    return (
        growth.is_level(found, min(times, growth.FARTHEST), MARGIN),
        rises,
        float(level[-1] / level[-2] - 1),
    )


def claims() -> Iterator[tuple[str, str, int, Callable[[np.random.Generator, int], Floats], float | None]]:
    """Yield the name of each claim, its world, the looks, the draws and the bound."""
    for world, course in LEAKING.items():
        for noise in NOISES:
            for times in TIMES:
                bound = MOST_MISSED if times <= growth.FARTHEST else None
                allowed = "" if bound else " (not allowed)"
                yield (
                    f"memory stays, of a leaking server{allowed}", f"{world}; {noise}; target {times:g} times", LOOKS,
                    _draw(course, noise, times, 0), bound,
                )  # fmt: skip
    for world, course in HEALTHY.items():
        for noise in NOISES:
            for times in (1.0, 2.5):
                where = f"{world}; {noise}; target {times:g} times"
                never = None if "just after" in world else MOST_REFUSED
                yield "memory stays, of a healthy server", where, LOOKS, _draw(course, noise, times, 0), None
                yield "memory rises, of a healthy server", where, LOOKS, _draw(course, noise, times, 1), never


def _draw(
    course: Course, noise: str, times: float, which: int
) -> Callable[[np.random.Generator, int], Floats]:
    return lambda rng, runs: np.array([said(rng, course, noise, times)[which] for _ in range(runs)])
