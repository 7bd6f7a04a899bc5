"""How much of the context a cache may keep."""

import math
from dataclasses import dataclass
from decimal import Decimal
from typing import Self

from kvlab.errors import InputError


@dataclass(frozen=True)
class Budget:
    """A number of context entries that each layer and KV head keeps.

    Exactly one of the two is set.

    Attributes:
        fraction: Share of the context's entries, in (0, 1].
        tokens: Number of entries; a context that is not longer is kept whole.
    """

    fraction: float | None = None
    tokens: int | None = None

    @classmethod
    def of(cls, value: object) -> Self:
        """Read a budget as parameters write it: at most 1 is a fraction, a whole number above 1 is tokens.

        Raises:
            InputError: It is neither.
        """
        fix = "is no budget; write a fraction in (0, 1], such as 0.5, or a whole number of entries above 1"
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise InputError("budgets", value, fix)
        if 0 < value <= 1:
            return cls(fraction=float(value))
        if value > 1 and value == int(value):
            return cls(tokens=int(value))
        raise InputError("budgets", value, fix)

    @property
    def label(self) -> str:
        """How tables name it: ``0.5`` or ``512 tokens``."""
        return f"{self.fraction:g}" if self.fraction is not None else f"{self.tokens} tokens"

    @property
    def ratio(self) -> float | None:
        """The ``compression_ratio`` that kvpress calls the same: 1 − fraction, in decimals."""
        return None if self.fraction is None else float(1 - Decimal(str(self.fraction)))

    def n_kept(self, n_context: int) -> int:
        """Return how many of ``n_context`` entries are kept; at least 1, and all of them at 1.0.

        A fraction is rounded down as kvpress' ``compute_n_kept`` does it at the equal ratio,
        ``max(1, int(n_context * (1 - ratio)))``, with its floating point: 0.1 of 100 entries is 9,
        since ``1 - 0.9 < 0.1``.
        """
        if self.tokens is not None:
            return min(self.tokens, n_context)
        ratio = self.ratio
        if not ratio:
            return n_context
        return max(1, int(n_context * (1 - ratio)))

    def keeps_all(self, n_context: int) -> bool:
        """Whether nothing is pruned, so that no policy is applied at all."""
        return self.n_kept(n_context) == n_context
