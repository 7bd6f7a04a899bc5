"""When requests are sent: as soon as a place is free (closed loop), or at planned moments (open loop).

A closed loop keeps a number of requests in flight, so a slow server is asked less: it finds out what
the server can do. An open loop sends at its own pace whatever becomes of the answers, as users do: it
finds out what they would wait (Schroeder, Wierman, Harchol-Balter 2006, *Open Versus Closed*).
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Mode = Literal["closed", "constant", "poisson", "ramp"]


@dataclass(frozen=True)
class Arrivals:
    """The plan of sending.

    Attributes:
        mode: ``closed`` keeps ``concurrency`` requests in flight; the others send at planned moments.
        concurrency: Of a closed loop.
        rate_per_s: Of an open loop, in requests per second; the rate that a ``ramp`` reaches.
        ramp_from_per_s: The rate at which a ``ramp`` begins.
        ramp_s: How long it takes to reach ``rate_per_s``, which it then keeps.
        seed: Of the gaps of ``poisson``.
    """

    mode: Mode = "closed"
    concurrency: int = 1
    rate_per_s: float = 1.0
    ramp_from_per_s: float = 0.0
    ramp_s: float = 60.0
    seed: int = 0

    @property
    def is_closed(self) -> bool:
        """Whether the answers set the pace."""
        return self.mode == "closed"

    def offsets_s(self) -> Iterator[float]:
        """Yield the planned moments of an open loop, in seconds after its start, without end."""
        if self.mode == "poisson":
            yield from self._poisson()
        number = 0
        while True:
            yield self._ramp(number) if self.mode == "ramp" else number / self.rate_per_s
            number += 1

    def _poisson(self) -> Iterator[float]:
        draw = random.Random(self.seed)  # noqa: S311 - arrivals, not secrets
        moment = 0.0
        while True:
            yield moment
            moment += draw.expovariate(self.rate_per_s)

    def _ramp(self, number: int) -> float:
        """Return when the rate's integral, ``a t + (b - a) t² / (2 ramp_s)``, reaches ``number``."""
        a, b, length = self.ramp_from_per_s, self.rate_per_s, self.ramp_s
        whole = (a + b) / 2 * length
        if number >= whole:
            return length + (number - whole) / b
        slope = (b - a) / length
        if slope == 0:
            return number / a
        return float((-a + (a * a + 2 * slope * number) ** 0.5) / slope)
