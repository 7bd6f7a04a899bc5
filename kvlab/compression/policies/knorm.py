"""Keys of small norm attract attention."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from kvlab.compression.policies.base import Layer, Policy, refuse_rest

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Knorm(Policy):
    """Keeps the entries whose keys have the smallest L2 norm.

    Devoto et al. 2024, "A Simple and Effective L2 Norm-Based Strategy for KV Cache Compression",
    arXiv:2406.11430. kvpress: ``KnormPress``. Norms are taken in float32 whatever the cache holds,
    since bfloat16 would round most of them onto each other.

    The same token twice has keys of one norm in the first layer. Of equal norms the earlier entry is kept here; kvpress
    leaves it to ``torch.topk``, whose choice depends on the budget, the device and torch's version. So on a text
    that repeats itself the two keep other entries of equal norm, and entries of the same norms.
    """

    name: ClassVar[str] = "knorm"

    @property
    def id(self) -> str:
        """Always ``knorm``."""
        return self.name

    @classmethod
    def parse(cls, parts: list[str]) -> Self:
        """Return it; it has no parameters."""
        refuse_rest(parts, cls.name)
        return cls()

    def scores(self, layer: Layer) -> "torch.Tensor":
        """Return the negative norm of each key (a rotation does not change it)."""
        import torch

        return -torch.linalg.vector_norm(layer.context_keys, dim=-1, dtype=torch.float32)
