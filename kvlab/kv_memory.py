"""How many bytes a KV cache takes, from a model's ``config.json`` alone.

A layer with full attention keeps one key and one value vector a KV head for every token:
``2 · kv_heads · head_dim · bytes`` a token. A sliding-window (or chunked) layer stops growing at its
window, a linear-attention or state-space layer does not grow at all, and multi-head latent
attention keeps one compressed vector, ``kv_lora_rank + qk_rope_head_dim`` (DeepSeek-V2, 2024).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kvlab.errors import InputError

DTYPE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "float8": 1}

# What a config.json may leave out because the model's class has it as a default.
_CLASS_DEFAULTS: dict[str, dict[str, Any]] = {
    "gemma3_text": {
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "sliding_window": 4096,
        "sliding_window_pattern": 6,
    },
    "gemma2": {"head_dim": 256, "sliding_window": 4096, "sliding_window_pattern": 2},
    "mistral": {"num_key_value_heads": 8},
    "qwen3": {"head_dim": 128},
}
_SLIDING = ("sliding_attention", "chunked_attention")


@dataclass(frozen=True)
class KvLayout:
    """Which layers of a model keep what.

    Attributes:
        full_layers: Layers whose cache grows with every token.
        window_layers: Layers that keep at most ``window_tokens`` tokens.
        stateless_layers: Layers whose state does not grow (linear attention, state space); its size is
            not counted here.
        window_tokens: ``None`` where no layer has a window.
        vector_elements: Numbers a token and layer: ``2 · kv_heads · head_dim``, or a latent's length.
    """

    full_layers: int
    window_layers: int
    stateless_layers: int
    window_tokens: int | None
    vector_elements: int

    def bytes_per_token(self, dtype: str) -> int:
        """Return what one more token takes once all windows are full.

        >>> KvLayout(30, 0, 0, None, 2 * 3 * 64).bytes_per_token("float32")
        46080
        """
        return self.full_layers * self.vector_elements * _bytes(dtype)

    def cache_bytes(self, tokens: int, dtype: str) -> int:
        """Return what a context of ``tokens`` takes, without blocks and padding."""
        held = min(tokens, self.window_tokens or 0)
        entries = self.full_layers * tokens + self.window_layers * held
        return entries * self.vector_elements * _bytes(dtype)

    def describe(self) -> str:
        """Return the layout in a few words."""
        parts = [f"{self.full_layers} layers that grow"]
        if self.window_layers:
            parts.append(f"{self.window_layers} with a window of {self.window_tokens} tokens")
        if self.stateless_layers:
            parts.append(f"{self.stateless_layers} without a growing cache")
        return ", ".join(parts)


def _bytes(dtype: str) -> int:
    if dtype not in DTYPE_BYTES:
        raise InputError("dtype", dtype, f"is not known; choose from {', '.join(DTYPE_BYTES)}")
    return DTYPE_BYTES[dtype]


def kv_layout(config: Mapping[str, Any]) -> KvLayout:
    """Read the layout out of a Hugging Face ``config.json``.

    Args:
        config: The parsed file; of a multimodal model, its ``text_config`` counts.

    Raises:
        InputError: A field that is needed is missing; it is named.
    """
    text = {**config, **(config.get("text_config") or {})}
    text = {**_CLASS_DEFAULTS.get(str(text.get("model_type")), {}), **text}
    layers = _need(text, "num_hidden_layers")
    kinds = _kinds(text, layers)
    full, windowed = kinds.count("full_attention"), sum(kind in _SLIDING for kind in kinds)
    window = text.get("attention_chunk_size") if "chunked_attention" in kinds else text.get("sliding_window")
    return KvLayout(
        full_layers=full,
        window_layers=windowed,
        stateless_layers=layers - full - windowed,
        window_tokens=int(window) if windowed and window else None,
        vector_elements=_vector_elements(text),
    )


def _vector_elements(text: Mapping[str, Any]) -> int:
    if text.get("kv_lora_rank"):
        return int(text["kv_lora_rank"]) + _need(text, "qk_rope_head_dim")
    heads = _need(text, "num_attention_heads")
    # Neither is in an old Llama's file: then each head has its own keys, and the width is shared out.
    kv_heads = int(text.get("num_key_value_heads") or heads)
    head_dim = int(text.get("head_dim") or _need(text, "hidden_size") // heads)
    return 2 * kv_heads * head_dim


def _kinds(text: Mapping[str, Any], layers: int) -> list[str]:
    """Return each layer's kind of attention, as ``layer_types`` names them."""
    named = text.get("layer_types") or text.get("layers_block_type")
    if named:
        return ["full_attention" if kind in ("attention", "full_attention") else str(kind) for kind in named]
    window = text.get("sliding_window")
    if not window or text.get("use_sliding_window") is False:
        return ["full_attention"] * layers
    if pattern := text.get("sliding_window_pattern"):  # every pattern-th layer sees everything (Gemma)
        return [
            "full_attention" if (layer + 1) % int(pattern) == 0 else "sliding_attention"
            for layer in range(layers)
        ]
    first = int(text.get("max_window_layers", 0)) if text.get("use_sliding_window") else 0
    return ["full_attention"] * min(first, layers) + ["sliding_attention"] * max(0, layers - first)


def _need(text: Mapping[str, Any], name: str) -> int:
    value = text.get(name)
    if not isinstance(value, int) or value < 1:
        raise InputError(f"config.json: {name}", value, "is missing or no whole number; name another model")
    return value
