"""No policy at all."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from kvlab.compression.policies.base import Layer, Policy, refuse_rest

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Full(Policy):
    """The whole cache, untouched: what every other policy is compared with."""

    name: ClassVar[str] = "full"
    prunes: ClassVar[bool] = False

    @property
    def id(self) -> str:
        """Always ``full``."""
        return self.name

    @classmethod
    def parse(cls, parts: list[str]) -> Self:
        """Return it; it has no parameters."""
        refuse_rest(parts, cls.name)
        return cls()

    def scores(self, layer: Layer) -> "torch.Tensor":
        """Return the same score for each entry: it prefers none."""
        import torch

        return torch.ones(layer.context_keys.shape[:3], device=layer.keys.device)
