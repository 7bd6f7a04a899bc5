"""A prefix cache with any law: grain, minimum, units off, cap, eviction policy and lifetime, by options."""

from __future__ import annotations

import time
from collections.abc import Sequence

from kvlab.laws.law import CacheLaw
from kvlab.laws.simulate import SimulatedCache

from .options import Options
from .prefix_cache import Chain, PrefixCache


class LawCache(PrefixCache):
    """Digests as in vLLM's cache, in grains of the law; what is served follows the law."""

    def __init__(self, options: Options) -> None:
        law = CacheLaw(**options.law)
        super().__init__(law.grain_tokens, options.capacity_blocks or None)
        self._simulated = SimulatedCache(law, self.capacity, options.policy, options.ttl_s or None)

    def __len__(self) -> int:
        return len(self._simulated)

    def match(self, chain: Sequence[bytes], tokens: int) -> int:
        """How many of a prompt's `tokens` are served."""
        return self._simulated.look_up(chain, tokens, time.monotonic())[1]

    def store(self, chain: Sequence[bytes]) -> None:
        """Makes all units of a chain available, as far as the capacity goes."""
        now, tokens = time.monotonic(), len(chain) * self.block_size
        self._simulated.capacity_units = self.capacity
        held, _ = self._simulated.look_up(chain, tokens, now)
        self._simulated.store(chain, held, tokens, now)

    def evict_to(self, blocks: int) -> None:
        """Drops the units that stand first until at most so many are left."""
        units = list(self._simulated.held())
        self._simulated.drop(units[: max(0, len(units) - blocks)])


def cache_of(options: Options) -> PrefixCache:
    """The cache that the options describe: whole blocks, unless they name a law."""
    return (
        LawCache(options) if options.law else PrefixCache(options.block_size, options.capacity_blocks or None)
    )


__all__ = ["Chain", "LawCache", "cache_of"]
