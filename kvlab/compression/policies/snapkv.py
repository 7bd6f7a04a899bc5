"""What the prompt's last tokens look at."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from kvlab.compression.policies.base import Layer, Policy, numbers, refuse_rest

if TYPE_CHECKING:
    import torch

POOLS = ("avg", "max")


@dataclass(frozen=True)
class SnapKV(Policy):
    """Keeps the entries that the observation window, the prompt's last tokens, attends to.

    Li et al. 2024, "SnapKV: LLM Knows What You are Looking for Before Generation", arXiv:2404.14469.
    The attention of the window's queries is averaged over them, pooled over neighbouring entries,
    and averaged over the query heads that share a KV head (kvpress: ``SnapKVPress``, which pools by
    the mean). Entries inside the window are always kept.

    In ``aware``, the prompt ends with the tail, so the window holds the question. A tail longer than
    the window widens it: else the question's first tokens would be out of view.

    In float32 it keeps the entries that kvpress' ``SnapKVPress`` keeps. In bfloat16 both compute the same logits, but
    kvpress rounds the attention weights to bfloat16 and pools them as such: with eight bits many scores are equal, and
    ``torch.topk`` picks among them. Here weights and scores stay in float32. Entries that only one of the two keeps have
    scores within that rounding of the last one kept (``tests/compression/policies/test_rounding.py``).

    Attributes:
        window: Tokens of the observation window.
        kernel: Entries that are pooled together, odd.
        pool: ``avg`` or ``max``.
    """

    window: int = 64
    kernel: int = 5
    pool: str = "avg"
    name: ClassVar[str] = "snapkv"

    def __post_init__(self) -> None:
        if self.window < 1 or self.kernel < 1 or self.kernel % 2 == 0 or self.pool not in POOLS:
            raise ValueError("needs a window of at least 1, an odd kernel, and avg or max pooling")

    @property
    def id(self) -> str:
        """Such as ``snapkv-w64-k5-avg``."""
        return f"{self.name}-w{self.window}-k{self.kernel}-{self.pool}"

    @classmethod
    def parse(cls, parts: list[str]) -> Self:
        """Read ``w<window>``, ``k<kernel>`` and ``avg`` or ``max``."""
        found, rest = numbers(parts, "wk")
        pools = [part for part in rest if part in POOLS] or [cls.pool]
        refuse_rest([part for part in rest if part not in POOLS] + pools[1:], "snapkv-w64-k5-avg")
        return cls(found.get("w", cls.window), found.get("k", cls.kernel), pools[0])

    def smallest(self, n_tail: int = 0) -> int:
        """Return how much of the window lies in the context."""
        return max(self.window - n_tail, 1)

    def scores(self, layer: Layer) -> "torch.Tensor":
        """Return the pooled attention of the window, and for entries in it more than any other."""
        import torch
        from torch.nn import functional

        n_prompt = layer.keys.shape[2]
        window = min(max(self.window, n_prompt - layer.n_context), n_prompt)
        n_scored = n_prompt - window  # these lie before the window, and in the context
        shape = layer.context_keys.shape[:3]
        if n_scored == 0:
            return torch.ones(shape, device=layer.keys.device)
        attention = _window_attention(layer, window)[..., :n_scored]
        heads = attention.mean(dim=-2)  # (kv_heads, query heads of each, n_scored)
        pool = functional.avg_pool1d if self.pool == "avg" else functional.max_pool1d
        pooled = pool(heads, self.kernel, stride=1, padding=self.kernel // 2)
        found = pooled.mean(dim=1)
        scores = torch.full(shape, float(found.max()) + 1, device=layer.keys.device)
        scores[0, :, :n_scored] = found
        return scores


def _window_attention(layer: Layer, window: int) -> "torch.Tensor":
    """Return what each of the last ``window`` tokens attends to.

    Shape (kv_heads, query heads of each, window, n_prompt), float32. The queries are computed anew,
    because attention kernels do not hand out their weights.
    """
    import torch

    module, keys = layer.attention, layer.keys[0]
    n_heads, n_prompt, size = keys.shape
    queries = module.q_proj(layer.hidden_states[0, -window:]).view(window, -1, size)
    if hasattr(module, "q_norm"):  # Qwen3
        queries = module.q_norm(queries)
    queries = queries.transpose(0, 1)  # (query heads, window, head_dim)
    cos, sin = (part[0, -window:] for part in layer.rotary)
    half = size // 2
    turned = torch.cat((-queries[..., half:], queries[..., :half]), dim=-1)
    queries = (queries * cos + turned * sin).view(n_heads, -1, window, size)
    logits = queries @ keys.unsqueeze(1).transpose(-1, -2) * module.scaling
    future = torch.ones(window, n_prompt, dtype=torch.bool, device=keys.device)
    future = future.triu(n_prompt - window + 1)
    return logits.masked_fill(future, float("-inf")).softmax(dim=-1, dtype=torch.float32)
