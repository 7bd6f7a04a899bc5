"""Seeded draws of units: the one place where kvlab resamples."""

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_CELLS = 2**19  # of the weights that are made at once: all resamples together may not fit


def multinomial_weights(units: int, *, seed: int, draws: int) -> Iterator[Floats]:
    """Yield how often each unit is drawn, by the bootstrap (Efron 1979); parts of [draws, units]."""
    yield from _parts(units, seed, draws, exponential=False)


def exponential_weights(units: int, *, seed: int, draws: int) -> Iterator[Floats]:
    """Yield standard exponential weights, which over their sum are Dirichlet (Rubin 1981); parts of [draws, units]."""
    yield from _parts(units, seed, draws, exponential=True)


def _parts(units: int, seed: int, draws: int, *, exponential: bool) -> Iterator[Floats]:
    size = max(1, min(1000, _CELLS // max(units, 1)))
    for start in range(0, draws, size):
        yield _weights(units, seed, start, min(size, draws - start), exponential)


@lru_cache(maxsize=32)  # a report draws for the same units again and again
def _weights(units: int, seed: int, start: int, size: int, exponential: bool) -> Floats:
    draw = np.random.default_rng([seed, start])
    if exponential:
        found = draw.exponential(size=(size, units))
    else:
        found = draw.multinomial(units, np.full(units, 1 / units), size=size).astype(float)
    found.setflags(write=False)  # it is shared
    return found
