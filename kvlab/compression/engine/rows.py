"""Caches of different lengths that are decoded together, without padding.

A decoding step on a small batch costs about what it costs for one sequence: the weights are read
once. Rows of different lengths would need padding and a mask, which copies keys and values at each
step. So only the linear layers see the batch; attention runs row by row, on each row's own entries,
with the same kernel and the same shapes as if that row were alone.

Import this module where torch is wanted: it brings torch and transformers.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.models.llama.modeling_llama import eager_attention_forward

_KERNELS = {"sdpa": sdpa_attention_forward, "eager": eager_attention_forward}


class Row:
    """One sequence's cache, with room for what it will grow by.

    Attributes:
        lengths: Entries in each layer.
    """

    def __init__(
        self, keys: Sequence[torch.Tensor], values: Sequence[torch.Tensor], room_tokens: int
    ) -> None:
        """Copy the entries, (1, kv_heads, n, head_dim) of each layer."""
        self.lengths: list[int] = [layer.shape[2] for layer in keys]
        self._keys = [_with_room(layer, room_tokens) for layer in keys]
        self._values = [_with_room(layer, room_tokens) for layer in values]

    def append(
        self, layer: int, keys: torch.Tensor, values: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add entries to a layer. Returns all of its keys and values."""
        start = self.lengths[layer]
        self.lengths[layer] = end = start + keys.shape[2]
        self._keys[layer][:, :, start:end] = keys
        self._values[layer][:, :, start:end] = values
        return self._keys[layer][:, :, :end], self._values[layer][:, :, :end]

    def layer(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a layer's keys and values."""
        end = self.lengths[layer]
        return self._keys[layer][:, :, :end], self._values[layer][:, :, :end]

    def nbytes(self, less: int = 0) -> int:
        """Return the bytes of all entries, but for the last ``less`` of each layer."""
        parts = (
            part[:, :, : part.shape[2] - less] for i in range(len(self.lengths)) for part in self.layer(i)
        )
        return sum(int(part.numel()) * int(part.element_size()) for part in parts)


def _with_room(entries: torch.Tensor, room_tokens: int) -> torch.Tensor:
    batch, heads, length, size = entries.shape
    buffer = entries.new_empty(batch, heads, length + room_tokens, size)
    buffer[:, :, :length] = entries
    return buffer


class Rows:
    """What a model takes for its cache: one `Row` for each sequence of the batch."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = rows

    def update(
        self,
        keys: torch.Tensor,
        values: torch.Tensor,
        layer: int,
        *_: object,
        **__: object,
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Add each sequence's entries to its row. Returns all rows' keys and values, one list per row."""
        pairs = [row.append(layer, keys[i : i + 1], values[i : i + 1]) for i, row in enumerate(self._rows)]
        return [pair[0] for pair in pairs], [pair[1] for pair in pairs]

    def get_seq_length(self, layer: int = 0) -> int:
        """Return the longest row's length; positions are always given, so nothing follows from it."""
        return max(row.lengths[layer] for row in self._rows)


def _attend(kernel: Any, dtype_mask: bool) -> Any:  # noqa: ANN401 - transformers' attention functions
    def attend(
        module: torch.nn.Module,
        query: torch.Tensor,
        key: Sequence[torch.Tensor],
        value: Sequence[torch.Tensor],
        attention_mask: torch.Tensor | None,
        **options: Any,  # noqa: ANN401
    ) -> tuple[torch.Tensor, None]:
        del attention_mask  # the rows are causal, each in its own length
        options.pop("sliding_window", None)  # prompts longer than it are refused
        found = []
        for i, (keys, values) in enumerate(zip(key, value, strict=True)):
            mask = _causal(query, keys, additive=dtype_mask)
            found.append(kernel(module, query[i : i + 1], keys, values, mask, **options)[0])
        return torch.cat(found), None

    return attend


def _causal(query: torch.Tensor, keys: torch.Tensor, *, additive: bool) -> torch.Tensor | None:
    """Return the mask of queries that are the last of the keys' positions; None for a single one."""
    n_queries, n_keys = query.shape[2], keys.shape[2]
    if n_queries == 1:
        return None
    seen = torch.ones(n_queries, n_keys, dtype=torch.bool, device=keys.device).tril(n_keys - n_queries)
    if additive:
        return torch.zeros_like(seen, dtype=query.dtype).masked_fill(~seen, torch.finfo(query.dtype).min)
    return seen


for _name, _kernel in _KERNELS.items():
    AttentionInterface.register(f"kvlab_rows_{_name}", _attend(_kernel, _name == "eager"))


@contextmanager
def attending_rows(model: Any) -> Iterator[None]:  # noqa: ANN401 - a transformers model
    """Let a model take `Rows` for its cache meanwhile, with the attention it was loaded with."""
    loaded = model.config._attn_implementation
    model.config._attn_implementation = f"kvlab_rows_{loaded}"
    try:
        yield
    finally:
        model.config._attn_implementation = loaded
