"""The first entries and the last."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from kvlab.compression.policies.base import Layer, Policy, numbers, refuse_rest

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class StreamingLLM(Policy):
    """Keeps the attention sinks at the start and a window of the most recent entries.

    Xiao et al. 2023, "Efficient Streaming Language Models with Attention Sinks", arXiv:2309.17453.
    As kvpress' ``StreamingLLMPress``, and unlike the paper, kept keys are not rotated to new
    positions.

    Attributes:
        n_sink: Leading entries that are always kept.
    """

    n_sink: int = 4
    name: ClassVar[str] = "streaming_llm"

    @property
    def id(self) -> str:
        """Such as ``streaming_llm-s4``."""
        return f"{self.name}-s{self.n_sink}"

    @classmethod
    def parse(cls, parts: list[str]) -> Self:
        """Read ``s<n_sink>``."""
        found, rest = numbers(parts, "s")
        refuse_rest(rest, "streaming_llm-s4")
        return cls(n_sink=found.get("s", cls.n_sink))

    def smallest(self, n_tail: int = 0) -> int:
        """Return the sinks and one recent entry."""
        return self.n_sink + 1

    def scores(self, layer: Layer) -> "torch.Tensor":
        """Return each entry's position, and for the sinks more than the last position."""
        import torch

        shape = layer.context_keys.shape[:3]
        positions = torch.arange(layer.n_context, dtype=torch.float32, device=layer.keys.device)
        positions[: self.n_sink] += layer.n_context
        return positions.expand(shape)
