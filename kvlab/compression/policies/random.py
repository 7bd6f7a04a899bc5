"""A control: what is lost when nothing is chosen."""

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from kvlab.compression.policies.base import Layer, Policy, numbers, refuse_rest

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Random(Policy):
    """Keeps entries drawn at random, without replacement, anew for each layer, head and context.

    The draw follows from the seed, the layer and the context's tokens alone. It is made on the CPU,
    so that a GPU keeps the same entries. kvpress: ``RandomPress``, which with a seed draws the same
    scores for every layer and every context of the same length; ``shared`` does that.

    Attributes:
        seed: Other seeds, other entries.
        shared: One draw for all layers and contexts, as ``RandomPress(seed=…)``.
    """

    seed: int = 0
    shared: bool = False
    name: ClassVar[str] = "random"

    @property
    def id(self) -> str:
        """``random-s0``, or ``random-s0-shared``."""
        return f"{self.name}-s{self.seed}" + ("-shared" if self.shared else "")

    @classmethod
    def parse(cls, parts: list[str]) -> Self:
        """Read ``s<seed>`` and ``shared``."""
        found, rest = numbers(parts, "s")
        refuse_rest([part for part in rest if part != "shared"], "random-s0")
        if found.get("s", 0) >= 2**63:
            raise ValueError("has a seed of more than 63 bits; choose a smaller one")
        return cls(seed=found.get("s", 0), shared="shared" in rest)

    def scores(self, layer: Layer) -> "torch.Tensor":
        """Return uniform numbers in [0, 1)."""
        import torch

        generator = torch.Generator().manual_seed(self._draw(layer))
        shape = layer.context_keys.shape[:3]
        return torch.rand(shape, generator=generator).to(layer.keys.device)

    def _draw(self, layer: Layer) -> int:
        if self.shared:
            return self.seed
        text = f"{self.seed} {layer.index} {layer.context_id}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7])
