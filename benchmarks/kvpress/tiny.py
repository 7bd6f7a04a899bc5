"""Tiny models that are the same in every environment: weights from NumPy's frozen generator.

torch's own initialisation may change from version to version; ``numpy.random.RandomState`` may not
(NEP 19). Imported inside the kvpress environment too, so it needs only NumPy, torch and transformers.
"""

import numpy as np
import torch
import transformers

VOCABULARY = 199
#: Names of the architectures, and their configuration and model classes.
KINDS = {"llama": "Llama", "qwen2": "Qwen2", "qwen3": "Qwen3", "mistral": "Mistral"}


def model(kind: str, dtype: torch.dtype = torch.float32, attention: str = "sdpa", seed: int = 0):
    """Return a model of 3 layers, 4 query heads, 2 KV heads and head_dim 16, in evaluation mode.

    Weights are large enough that attention is far from uniform and that answers differ.
    """
    config = getattr(transformers, f"{KINDS[kind]}Config")(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=512,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        tie_word_embeddings=False,
    )
    if kind == "mistral":
        config.sliding_window = None
    made = getattr(transformers, f"{KINDS[kind]}ForCausalLM")._from_config(
        config, dtype=dtype, attn_implementation=attention
    )
    draw = np.random.RandomState(seed)
    with torch.no_grad():
        for name, weight in sorted(made.state_dict().items()):
            values = draw.normal(1.0 if name.endswith("norm.weight") else 0.0, _spread(name), weight.shape)
            weight.copy_(torch.from_numpy(values))
    return made.eval()


def _spread(name: str) -> float:
    if "embed_tokens" in name or "lm_head" in name:
        return 1.0
    return 0.1 if name.endswith("norm.weight") else 0.25


def prompt(n_context: int, n_tail: int, seed: int = 1) -> tuple[list[int], list[int]]:
    """Return a context and a tail of token ids, none of them special, none of them twice.

    The same token twice has keys of one norm in the first layer, a tie that each torch.topk breaks
    as it likes.
    """
    ids = (np.random.RandomState(seed).permutation(VOCABULARY - 3)[: n_context + n_tail] + 3).tolist()
    return ids[:n_context], ids[n_context:]
