"""One prefill for all budgets: the full cache, and the order in which each policy would keep it.

Import this module where torch is wanted: it brings torch and transformers.
"""

import hashlib
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import DynamicCache

from kvlab.compression.policies.base import Layer, Policy, QueryMode


@dataclass
class State:
    """A prefilled prompt. Nothing that uses it changes it.

    Attributes:
        keys: Of each layer, rotated: (1, kv_heads, n_prompt, head_dim).
        values: The same shape.
        n_context: Leading entries that are context; the rest is the tail in view.
        logits: Of the token after the prompt: (1, vocabulary), float32; None in ``agnostic``.
        rankings: By policy id, for each layer, the context entries from the most important to the
            least: (1, kv_heads, n_context), int32.
    """

    keys: list[torch.Tensor]
    values: list[torch.Tensor]
    n_context: int
    logits: torch.Tensor | None
    rankings: dict[str, list[torch.Tensor]] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes of all its tensors."""
        ranks = [layer for ranking in self.rankings.values() for layer in ranking]
        logits = [] if self.logits is None else [self.logits]
        return sum(part.numel() * part.element_size() for part in [*self.keys, *self.values, *ranks, *logits])

    def keep(self, policy: Policy, n_kept: int) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Return each layer's keys and values with the ``n_kept`` best context entries, and the tail."""
        if n_kept == self.n_context:
            return self.keys, self.values
        pairs = [
            prune(keys, values, ranking, n_kept)
            for keys, values, ranking in zip(self.keys, self.values, self.rankings[policy.id], strict=True)
        ]
        return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


def rank(scores: torch.Tensor) -> torch.Tensor:
    """Return the entries from the highest score to the lowest; of equal ones, the earlier first.

    Shape as ``scores``, int32. Budgets are nested: a smaller one keeps part of what a larger keeps.
    """
    return scores.sort(dim=-1, descending=True, stable=True).indices.to(torch.int32)


def prune(
    keys: torch.Tensor, values: torch.Tensor, ranking: torch.Tensor, n_kept: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a layer's keys and values with only the best ``n_kept`` context entries, in their order.

    Args:
        keys: (1, kv_heads, n_prompt, head_dim).
        values: The same shape.
        ranking: (1, kv_heads, n_context). Entries after the context are all kept.
        n_kept: How many.
    """
    kept = ranking[..., :n_kept].long().sort(dim=-1).values
    if keys.shape[2] > ranking.shape[2]:
        tail = torch.arange(ranking.shape[2], keys.shape[2], device=keys.device)
        kept = torch.cat((kept, tail.expand(*kept.shape[:2], -1)), dim=-1)
    index = kept.unsqueeze(-1).expand(-1, -1, -1, keys.shape[3])
    return keys.gather(2, index), values.gather(2, index)


def prefill(
    model: Any,  # noqa: ANN401 - a transformers model
    context_ids: Sequence[int],
    tail_ids: Sequence[int],
    query_mode: QueryMode,
    policies: Sequence[Policy],
) -> State:
    """Prefill a prompt once, and rank its context entries for each policy that prunes.

    Args:
        model: A causal language model.
        context_ids: What may be compressed.
        tail_ids: What follows it; part of the prompt in ``aware`` only.
        query_mode: Whether the tail is in view.
        policies: Whose rankings to make.
    """
    rankings: dict[str, list[torch.Tensor]] = {policy.id: [] for policy in policies if policy.prunes}

    def see(layer: Layer, cache: DynamicCache) -> None:
        del cache
        for policy in policies:
            if policy.prunes:
                rankings[policy.id].append(rank(policy.scores(layer)))

    cache, logits = _run(model, context_ids, tail_ids, query_mode, see if rankings else None)
    keys, values = [layer.keys for layer in cache.layers], [layer.values for layer in cache.layers]
    return State(keys, values, len(context_ids), logits, rankings)


def prefill_one(
    model: Any,  # noqa: ANN401 - a transformers model
    context_ids: Sequence[int],
    tail_ids: Sequence[int],
    query_mode: QueryMode,
    policy: Policy,
    n_kept: int,
) -> State:
    """Prefill a prompt for one budget: each layer is pruned as soon as it is computed.

    The state's ``n_context`` is then the number of entries kept.
    """

    def see(layer: Layer, cache: DynamicCache) -> None:
        held = cache.layers[layer.index]
        held.keys, held.values = prune(held.keys, held.values, rank(policy.scores(layer)), n_kept)

    pruned = n_kept < len(context_ids)
    cache, logits = _run(model, context_ids, tail_ids, query_mode, see if pruned else None)
    keys, values = [layer.keys for layer in cache.layers], [layer.values for layer in cache.layers]
    return State(keys, values, n_kept, logits)


def context_id(context_ids: Sequence[int]) -> str:
    """Return what names a context's tokens."""
    return hashlib.sha256(array("q", context_ids).tobytes()).hexdigest()[:16]


def _run(
    model: Any,  # noqa: ANN401 - a transformers model
    context_ids: Sequence[int],
    tail_ids: Sequence[int],
    query_mode: QueryMode,
    see: Callable[[Layer, DynamicCache], None] | None,
) -> tuple[DynamicCache, torch.Tensor | None]:
    aware = query_mode == "aware"
    ids = torch.tensor([[*context_ids, *(tail_ids if aware else ())]], device=model.device)
    cache = DynamicCache()
    with _seeing(model, cache, context_ids, see):
        if not aware:  # what follows the context is not known yet: no logits are needed
            model.model(input_ids=ids, past_key_values=cache, use_cache=True)
            return cache, None
        output = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return cache, output.logits[:, -1].float()


@contextmanager
def _seeing(
    model: Any,  # noqa: ANN401 - a transformers model
    cache: DynamicCache,
    context_ids: Sequence[int],
    see: Callable[[Layer, DynamicCache], None] | None,
) -> Iterator[None]:
    """Show each attention layer, once it is computed, to ``see``."""
    name = context_id(context_ids)

    def hook(module: Any, _: Any, inputs: dict[str, Any], __: Any) -> None:  # noqa: ANN401 - torch's hook
        if see is not None:
            index = module.layer_idx
            hidden, rotary = inputs["hidden_states"], inputs["position_embeddings"]
            see(Layer(index, module, hidden, cache.layers[index].keys, rotary, len(context_ids), name), cache)

    layers = model.model.layers if see is not None else []
    handles = [layer.self_attn.register_forward_hook(hook, with_kwargs=True) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
