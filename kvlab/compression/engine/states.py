"""Prefilled prompts that may be wanted again, up to a number of bytes."""

from collections import OrderedDict
from collections.abc import Hashable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kvlab.compression.engine.prefill import State


class States:
    """A least-recently-used cache, measured in the bytes of its tensors.

    Attributes:
        cap_bytes: The most that it holds; what is larger alone is not held at all.
        nbytes: What it holds.
        hits: Prefills that were spared.
        misses: Prefills that were made.
    """

    def __init__(self, cap_bytes: int) -> None:
        self.cap_bytes, self.nbytes, self.hits, self.misses = cap_bytes, 0, 0, 0
        self._held: OrderedDict[Hashable, State] = OrderedDict()

    def __len__(self) -> int:
        return len(self._held)

    def get(self, key: Hashable) -> "State | None":
        """Return what is held under a key, and count it as used."""
        state = self._held.get(key)
        if state is not None:
            self._held.move_to_end(key)
        return state

    def put(self, key: Hashable, state: "State") -> None:
        """Hold a state, and drop the least recently used ones for it."""
        self._drop(key)
        size = state.nbytes
        if size > self.cap_bytes:
            return
        while self.nbytes + size > self.cap_bytes:
            self._drop(next(iter(self._held)))
        self._held[key] = state
        self.nbytes += size

    def clear(self) -> None:
        """Drop everything."""
        self._held.clear()
        self.nbytes = 0

    def _drop(self, key: Hashable) -> None:
        state = self._held.pop(key, None)
        if state is not None:
            self.nbytes -= state.nbytes
