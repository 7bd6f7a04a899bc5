"""A prefix cache in whole blocks with least-recently-used eviction, after vLLM's (v1) block pool.

A block is known by a digest of its parent's digest and its own tokens, so equal digests mean equal
prefixes. The salt is the root of the chain: other salts share nothing.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from hashlib import blake2b

Chain = list[bytes]


class PrefixCache:
    """Which prefixes are stored; it holds digests, not tokens.

    Args:
        block_size: Tokens in a block.
        capacity: Most blocks kept; None keeps all.
    """

    def __init__(self, block_size: int, capacity: int | None = None) -> None:
        self.block_size = block_size
        self.capacity = capacity
        # Oldest first. A chain is touched tail first, so a parent is always younger than its
        # children, and eviction takes leaves before what they hang on, as vLLM does.
        self._blocks: dict[bytes, None] = {}

    def __len__(self) -> int:
        return len(self._blocks)

    def chain(self, tokens: Sequence[int], salt: str | None = None, known: Sequence[bytes] = ()) -> Chain:
        """Digests of the full blocks of `tokens`, the first of which may be `known` already."""
        width = self.block_size * 8
        chain = list(known)
        parent = chain[-1] if chain else blake2b((salt or "").encode(), digest_size=16).digest()
        raw = memoryview(array("Q", tokens)).cast("B")
        full = len(tokens) // self.block_size * width
        for at in range(len(chain) * width, full, width):
            parent = blake2b(parent + raw[at : at + width], digest_size=16).digest()
            chain.append(parent)
        return chain

    def match(self, chain: Sequence[bytes], tokens: int) -> int:
        """How many of a prompt's `tokens` are cached; what is found counts as used.

        The last token is always computed (its logits are needed), hence (tokens - 1) // block_size.
        """
        most = min(len(chain), (tokens - 1) // self.block_size)
        found = 0
        while found < most and chain[found] in self._blocks:
            found += 1
        self._touch(chain[:found])
        return found * self.block_size

    def store(self, chain: Sequence[bytes]) -> None:
        """Makes all blocks of a chain available, as far as the capacity goes."""
        self._touch(chain)
        if self.capacity is not None:
            self.evict_to(self.capacity)

    def evict_to(self, blocks: int) -> None:
        """Drops the least recently used blocks until at most so many are left."""
        for digest in list(self._blocks)[: max(0, len(self._blocks) - blocks)]:
            del self._blocks[digest]

    def _touch(self, chain: Sequence[bytes]) -> None:
        for digest in reversed(chain):
            self._blocks.pop(digest, None)
            self._blocks[digest] = None
