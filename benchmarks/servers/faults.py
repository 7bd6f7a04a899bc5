"""Which request is struck by which fault."""

from __future__ import annotations

import random

from .options import Options


class FaultPlan:
    """Counts requests from the moment it was made, and picks a fault for the next one.

    A plan by number wins over the random one, which draws from its own seeded generator.
    """

    def __init__(self, options: Options) -> None:
        self._by_number = {int(n): kind for n, kind in options.faults.items()}
        self._rate = options.fault_rate
        self._kind = options.fault_kind
        self._random = random.Random(options.fault_seed)
        self._n = 0

    def next(self) -> str | None:
        """The fault for the next generation request, if any."""
        self._n += 1
        drawn = self._random.random() < self._rate
        return self._by_number.get(self._n) or (self._kind if drawn else None)
