"""Where kvlab and kvpress may keep other entries: among scores that are equal, or that bfloat16 makes so."""

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch.nn import functional

from benchmarks.kvpress import ours, tiny
from kvlab.compression import policies
from kvlab.compression.engine.prefill import rank
from kvlab.compression.policies.snapkv import SnapKV, _window_attention

WINDOW, KERNEL = 8, 5


@dataclass(frozen=True)
class Watched(SnapKV):
    """Keeps each layer that it is shown."""

    seen: list[Any] = field(default_factory=list, compare=False)

    def scores(self, layer):
        found = super().scores(layer)
        self.seen.append((layer, found))
        return found


def layers(kind, dtype):
    policy = Watched(WINDOW, KERNEL)
    context, _ = tiny.prompt(96, 0)
    ours.engine(kind, dtype=dtype).prefill(context, [5], "agnostic", [policy])
    return policy.seen


@torch.inference_mode()
def rounded(layer):
    """Scores as kvpress has them: weights, means and pools in the model's own type."""
    weights = _window_attention(layer, WINDOW)[..., :-WINDOW].to(layer.keys.dtype)
    pooled = functional.avg_pool1d(weights.mean(dim=-2), KERNEL, stride=1, padding=KERNEL // 2)
    return pooled.mean(dim=1)


@pytest.mark.parametrize("kind", ["llama", "qwen3", "mistral"])
@pytest.mark.parametrize("n_kept", [24, 48, 67])
def test_in_bfloat16_only_entries_within_its_rounding_of_the_last_one_kept_differ(kind, n_kept):
    different = 0
    for layer, scores in layers(kind, torch.bfloat16):
        own = scores[0, :, :-WINDOW]
        assert own.dtype == torch.float32
        n = n_kept - WINDOW
        for head, theirs in zip(own, rounded(layer), strict=True):
            cut = float(head.topk(n).values[-1])
            sets = [set(values.topk(n).indices.tolist()) for values in (head, theirs)]
            for at in sets[0] ^ sets[1]:
                different += 1
                assert abs(float(head[at]) - cut) <= 2**-6 * cut, "two steps of eight bits"
    assert different > 0 or n_kept != 48, "what the docstring explains"


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_in_float32_nothing_differs(kind):
    for layer, scores in layers(kind, torch.float32):
        kept = [set(row.topk(40).indices.tolist()) for row in rounded(layer)]
        assert [set(row[:40].tolist()) for row in rank(scores[0, :, :-WINDOW])] == kept


@pytest.mark.parametrize("n_kept", [7, 30, 61])
def test_on_repeated_tokens_knorm_keeps_the_earlier_of_equal_norms_and_topks_norms(n_kept):
    engine = ours.engine("llama")
    words, _ = tiny.prompt(12, 0)
    done = engine.prefill(words * 8, [5], "agnostic", [policies.get("knorm")])
    for keys, ranking in zip(done.state.keys, done.state.rankings["knorm"], strict=True):
        norms = -torch.linalg.vector_norm(keys[0], dim=-1)
        for row, order in zip(norms, ranking[0], strict=True):
            kept = order[:n_kept].long()
            assert torch.equal(row[kept], row.topk(n_kept).values), "entries of the same norms"
            ties = [
                (a, b) for a, b in zip(order.tolist(), order.tolist()[1:], strict=False) if row[a] == row[b]
            ]
            assert all(a < b for a, b in ties)
