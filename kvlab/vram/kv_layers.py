"""What each layer of a model keeps of its context, as the many dialects of ``config.json`` say it.

A layer with full attention keeps every token, one with a window (or chunks) the last ones, and a
linear-attention, convolution or state-space layer a state of fixed size. Which layer is which stands in
a list of names, in a period, or in a pattern, depending on whose model it is; what is in none of the
forms below is refused, because a wrong layout is a wrong number.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from kvlab.errors import InputError

FULL, WINDOW, STATE = "full", "window", "state"

_NAMES = {
    **dict.fromkeys(("attention", "full_attention", "hybrid"), FULL),
    **dict.fromkeys(("sliding_attention", "chunked_attention", "local_attention"), WINDOW),
    **dict.fromkeys(
        ("linear_attention", "mamba", "mamba2", "recurrent", "conv", "mlp", "moe", "linear"), STATE
    ),
}
#: Nemotron-H writes its layers as letters: Mamba, attention, MLP, experts.
_LETTERS = {"M": STATE, "*": FULL, "-": STATE, "E": STATE}
_WITHOUT_ATTENTION = ("mamba", "mamba2", "falcon_mamba", "rwkv")
#: Attention and a state in every layer.
_BOTH = ("falcon_h1",)
#: Beginnings of fields that say: this is no plain transformer. Where no form above explains them, nothing does.
_HINTS = (
    "mamba_", "ssm_", "linear_", "conv_", "attn_layer", "attn_type", "block_types", "rwkv", "recurrent",
    "cross_attention_layers", "index_head_dim", "num_kv_shared_layers",
)  # fmt: skip


def kinds(text: Mapping[str, Any], layers: int) -> list[str]:
    """Return what each of ``layers`` layers keeps: ``full``, ``window`` or ``state``.

    Raises:
        InputError: The file describes a layout that is not known here.
    """
    if text.get("num_kv_shared_layers"):
        raise _unknown("num_kv_shared_layers", text["num_kv_shared_layers"])
    for read in (_named, _lettered, _periodic, _listed, _chunked):
        if (found := read(text, layers)) is not None:
            if len(found) != layers:
                raise _unknown("num_hidden_layers", layers)
            return found
    kind = text.get("model_type")
    if kind in _WITHOUT_ATTENTION:
        return [STATE] * layers
    hint = next((name for name in text if name.startswith(_HINTS) and text[name]), None)
    if (hint is not None and kind not in _BOTH) or text.get("is_encoder_decoder"):
        name = hint or "is_encoder_decoder"
        raise _unknown(name, text[name])
    return _sliding(text, layers)


def window_tokens(text: Mapping[str, Any]) -> int | None:
    """Return how many tokens a layer with a window keeps; ``None``: the file does not say."""
    chunked = "chunked_attention" in (text.get("layer_types") or ()) or "attention_chunk_size" in text
    names = (
        ("attention_chunk_size", "sliding_window") if chunked else ("sliding_window", "attention_window_size")
    )
    return next((int(text[name]) for name in names if text.get(name)), None)


def _unknown(name: str, value: object) -> InputError:
    return InputError(f"config.json: {name}", value, "belongs to a layout of layers that is not known")


def _named(text: Mapping[str, Any], layers: int) -> list[str] | None:
    names: Sequence[str] | None = text.get("layer_types") or text.get("layers_block_type")
    if not names:
        pattern = text.get("block_types")  # RecurrentGemma: repeated, and its attention has a window
        if not pattern:
            return None
        repeated = (list(pattern) * layers)[:layers]
        return [WINDOW if name == "attention" else _kind(name) for name in repeated]
    return [_kind(name) for name in names]


def _kind(name: str) -> str:
    if name not in _NAMES:
        raise _unknown("layer_types", name)
    return _NAMES[name]


def _lettered(text: Mapping[str, Any], layers: int) -> list[str] | None:
    pattern = text.get("hybrid_override_pattern")
    if not pattern:
        return None
    if set(pattern) - set(_LETTERS):
        raise _unknown("hybrid_override_pattern", pattern)
    return [_LETTERS[letter] for letter in pattern]


def _periodic(text: Mapping[str, Any], layers: int) -> list[str] | None:
    if period := text.get("attn_layer_period"):  # Jamba
        offset = int(text.get("attn_layer_offset") or 0)
        return [FULL if layer % int(period) == offset else STATE for layer in range(layers)]
    if interval := text.get("full_attention_interval"):  # Qwen3-Next
        return [FULL if (layer + 1) % int(interval) == 0 else STATE for layer in range(layers)]
    return None


def _listed(text: Mapping[str, Any], layers: int) -> list[str] | None:
    indices = text.get("attn_layer_indices") or text.get("full_attn_idxs")  # Bamba, LFM2
    if indices:
        return [FULL if layer in indices else STATE for layer in range(layers)]
    if types := text.get("attn_type_list"):  # MiniMax
        return [FULL if each == 1 else STATE for each in types]
    return None


def _chunked(text: Mapping[str, Any], layers: int) -> list[str] | None:
    """Llama 4: layers with rotary positions see their chunk only, those without see everything."""
    if not text.get("attention_chunk_size"):
        return None
    rotary = text.get("no_rope_layers")  # 1 means that a layer has them, whatever the field is called
    if not rotary:
        interval = int(text.get("no_rope_layer_interval") or 4)
        rotary = [int((layer + 1) % interval != 0) for layer in range(layers)]
    return [WINDOW if each else FULL for each in rotary]


def _sliding(text: Mapping[str, Any], layers: int) -> list[str]:
    window = text.get("sliding_window")
    if not window or text.get("use_sliding_window") is False:
        return [FULL] * layers
    if pattern := text.get("sliding_window_pattern") or text.get(
        "layer_switch"
    ):  # Gemma, Cohere2: every n-th is full
        return [FULL if (layer + 1) % int(pattern) == 0 else WINDOW for layer in range(layers)]
    first = int(text.get("max_window_layers", 0)) if text.get("use_sliding_window") else 0
    return [FULL] * min(first, layers) + [WINDOW] * max(0, layers - first)
