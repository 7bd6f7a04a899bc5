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
from kvlab.vram import kv_layers

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
    "qwen3_next": {"num_key_value_heads": 2, "head_dim": 256, "full_attention_interval": 4},
    "cohere2": {"sliding_window": 4096, "sliding_window_pattern": 4},
    "llama4_text": {"num_key_value_heads": 8, "head_dim": 128, "attention_chunk_size": 8192},
    "jamba": {"num_key_value_heads": 8, "attn_layer_period": 8, "attn_layer_offset": 4},
    "gpt_oss": {"num_key_value_heads": 8, "head_dim": 64, "sliding_window": 128, "sliding_window_pattern": 2},
}
# Names that older families have for the same fields.
_ALIASES = {
    "num_hidden_layers": ("n_layer", "n_layers", "num_layers"),
    "num_attention_heads": ("n_head", "n_heads"),
    "num_key_value_heads": ("num_kv_heads", "multi_query_group_num"),
    "hidden_size": ("n_embd", "d_model"),
}


@dataclass(frozen=True)
class KvLayout:
    """Which layers of a model keep what.

    Attributes:
        full_layers: Layers whose cache grows with every token.
        window_layers: Layers that keep at most ``window_tokens`` tokens.
        stateless_layers: Layers whose state does not grow (linear attention, state space, none at all); its
            size is not counted here.
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

    def step_bytes(self, dtype: str) -> int:
        """Return `bytes_per_token`, or, where all layers have a window, what a token takes until it is full."""
        return (self.full_layers or self.window_layers) * self.vector_elements * _bytes(dtype)

    def steps(self, tokens: float) -> float:
        """Return a context's cache in units of `step_bytes`: the tokens themselves, where no layer has a window."""
        growing = self.full_layers or self.window_layers
        if not growing:
            return 0.0
        held = min(tokens, self.window_tokens or 0)
        return (self.full_layers * tokens + self.window_layers * held) / growing

    def tokens_of(self, steps: float) -> float | None:
        """Return how many tokens take so many steps; ``None``: any number does, all windows are full."""
        window = self.window_tokens or 0
        if steps <= self.steps(window):
            return steps / (self.steps(window) / window) if window else 0.0
        return None if not self.full_layers else window + steps - self.steps(window)

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
            parts.append(f"{self.stateless_layers} with a state of fixed size, or none")
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
        InputError: A field that is needed is missing, or the layout is not known; the field is named.
    """
    text = {**config, **(config.get("text_config") or {})}
    text = {**_CLASS_DEFAULTS.get(str(text.get("model_type")), {}), **text}
    for name, others in _ALIASES.items():
        text.setdefault(name, next((text[other] for other in others if other in text), None))
    layers = _need(text, "num_hidden_layers")
    found = kv_layers.kinds(text, layers)
    full, windowed = found.count(kv_layers.FULL), found.count(kv_layers.WINDOW)
    window = kv_layers.window_tokens(text)
    if windowed and window is None:
        raise InputError("config.json: sliding_window", None, "is missing, and some layers have one")
    return KvLayout(
        full_layers=full,
        window_layers=windowed,
        stateless_layers=layers - full - windowed,
        window_tokens=window if windowed else None,
        vector_elements=_vector_elements(text) if full or windowed else 0,
    )


def _vector_elements(text: Mapping[str, Any]) -> int:
    if text.get("kv_lora_rank"):
        return int(text["kv_lora_rank"]) + _need(text, "qk_rope_head_dim")
    heads = _need(text, "num_attention_heads")
    # Neither is in an old Llama's file: then each head has its own keys, and the width is shared out.
    shared = text.get("multi_query") and not text.get(
        "new_decoder_architecture"
    )  # Falcon, StarCoder: one for all
    kv_heads = 1 if shared else int(text.get("num_key_value_heads") or heads)
    head_dim = int(text.get("head_dim") or _need(text, "hidden_size") // heads)
    return 2 * kv_heads * head_dim


def _need(text: Mapping[str, Any], name: str) -> int:
    value = text.get(name)
    if not isinstance(value, int) or value < 1:
        raise InputError(f"config.json: {name}", value, "is missing or no whole number; name another model")
    return value
