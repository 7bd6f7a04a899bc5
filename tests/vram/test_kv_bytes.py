import pytest

from kvlab.errors import InputError
from kvlab.vram.kv_bytes import kv_layout

# The fields that matter, as the published files have them.
LLAMA_31_8B = {
    "model_type": "llama", "hidden_size": 4096, "num_attention_heads": 32, "num_hidden_layers": 32,
    "num_key_value_heads": 8, "max_position_embeddings": 131072,
}  # fmt: skip
LLAMA_2_7B = {"model_type": "llama", "hidden_size": 4096, "num_attention_heads": 32, "num_hidden_layers": 32}
MISTRAL_7B_V01 = {
    "model_type": "mistral", "hidden_size": 4096, "num_attention_heads": 32, "num_hidden_layers": 32,
    "num_key_value_heads": 8, "sliding_window": 4096,
}  # fmt: skip
MISTRAL_7B_V03 = {**MISTRAL_7B_V01, "sliding_window": None}
QWEN3_8B = {
    "model_type": "qwen3", "hidden_size": 4096, "num_attention_heads": 32, "num_hidden_layers": 36,
    "num_key_value_heads": 8, "head_dim": 128, "sliding_window": None, "use_sliding_window": False,
    "max_window_layers": 36,
}  # fmt: skip
GEMMA_3_12B = {
    "model_type": "gemma3",
    "text_config": {
        "model_type": "gemma3_text", "hidden_size": 3840, "num_attention_heads": 16, "num_hidden_layers": 48,
        "num_key_value_heads": 8, "head_dim": 256, "sliding_window": 1024,
    },
}  # fmt: skip
GEMMA_3_4B = {
    "model_type": "gemma3",
    "text_config": {
        "model_type": "gemma3_text", "hidden_size": 2560, "num_hidden_layers": 34, "sliding_window": 1024,
    },
}  # fmt: skip
DEEPSEEK_V2_LITE = {
    "model_type": "deepseek_v2", "hidden_size": 2048, "num_attention_heads": 16, "num_hidden_layers": 27,
    "num_key_value_heads": 16, "kv_lora_rank": 512, "qk_rope_head_dim": 64,
}  # fmt: skip
SMOLLM2 = {
    "model_type": "llama", "hidden_size": 576, "num_attention_heads": 9, "num_hidden_layers": 30,
    "num_key_value_heads": 3, "head_dim": 64,
}  # fmt: skip
COHERE_R7B = {
    "model_type": "cohere2", "hidden_size": 4096, "num_attention_heads": 32, "num_hidden_layers": 32,
    "num_key_value_heads": 8, "head_dim": 128, "sliding_window": 4096, "layer_switch": 4,
}  # fmt: skip
LLAMA_4_SCOUT = {
    "model_type": "llama4",
    "text_config": {
        "model_type": "llama4_text", "hidden_size": 5120, "num_attention_heads": 40, "num_hidden_layers": 48,
        "num_key_value_heads": 8, "head_dim": 128, "attention_chunk_size": 8192, "no_rope_layers": [1, 1, 1, 0] * 12,
    },
}  # fmt: skip
QWEN3_NEXT = {
    "model_type": "qwen3_next", "hidden_size": 2048, "num_attention_heads": 16, "num_hidden_layers": 48,
    "num_key_value_heads": 2, "head_dim": 256, "full_attention_interval": 4, "linear_conv_kernel_dim": 4,
}  # fmt: skip
JAMBA_V01 = {
    "model_type": "jamba", "hidden_size": 4096, "num_attention_heads": 32, "num_hidden_layers": 32,
    "num_key_value_heads": 8, "attn_layer_period": 8, "attn_layer_offset": 4, "mamba_d_state": 16,
}  # fmt: skip
NEMOTRON_H = {
    "model_type": "nemotron_h", "hidden_size": 4096, "num_attention_heads": 32, "num_hidden_layers": 10,
    "num_key_value_heads": 8, "head_dim": 128, "hybrid_override_pattern": "M-M-M*-M-*", "ssm_state_size": 128,
}  # fmt: skip
GPT_2 = {"model_type": "gpt2", "n_layer": 12, "n_head": 12, "n_embd": 768}
FALCON_7B = {
    "model_type": "falcon",
    "num_hidden_layers": 32,
    "num_attention_heads": 71,
    "hidden_size": 4544,
    "multi_query": True,
}
MAMBA = {"model_type": "mamba", "hidden_size": 768, "num_hidden_layers": 24, "state_size": 16}


@pytest.mark.parametrize(
    ("config", "layers", "window", "per_token"),
    [
        (SMOLLM2, (30, 0, 0), None, 2 * 30 * 3 * 64 * 2),
        (LLAMA_31_8B, (32, 0, 0), None, 131_072),
        (LLAMA_2_7B, (32, 0, 0), None, 524_288),
        (MISTRAL_7B_V01, (0, 32, 0), 4096, 0),
        (MISTRAL_7B_V03, (32, 0, 0), None, 131_072),
        (QWEN3_8B, (36, 0, 0), None, 147_456),
        (GEMMA_3_12B, (8, 40, 0), 1024, 2 * 8 * 8 * 256 * 2),
        (GEMMA_3_4B, (5, 29, 0), 1024, 2 * 5 * 4 * 256 * 2),
        (DEEPSEEK_V2_LITE, (27, 0, 0), None, 27 * 576 * 2),
        (COHERE_R7B, (8, 24, 0), 4096, 2 * 8 * 8 * 128 * 2),
        (LLAMA_4_SCOUT, (12, 36, 0), 8192, 2 * 12 * 8 * 128 * 2),
        (QWEN3_NEXT, (12, 0, 36), None, 2 * 12 * 2 * 256 * 2),
        (JAMBA_V01, (4, 0, 28), None, 2 * 4 * 8 * 128 * 2),
        (NEMOTRON_H, (2, 0, 8), None, 2 * 2 * 8 * 128 * 2),
        (GPT_2, (12, 0, 0), None, 2 * 12 * 768 * 2),
        (FALCON_7B, (32, 0, 0), None, 2 * 32 * 64 * 2),
        (MAMBA, (0, 0, 24), None, 0),
    ],
)
def test_layers_are_told_apart(config, layers, window, per_token):
    found = kv_layout(config)
    assert (found.full_layers, found.window_layers, found.stateless_layers) == layers
    assert found.window_tokens == window
    assert found.bytes_per_token("bfloat16") == per_token
    assert found.bytes_per_token("float32") == 2 * per_token


def test_layers_that_are_named_count_by_their_names():
    types = ["linear_attention", "linear_attention", "linear_attention", "full_attention"] * 12
    found = kv_layout({**QWEN3_8B, "num_hidden_layers": 48, "layer_types": types})
    assert (found.full_layers, found.stateless_layers) == (12, 36)
    types = ["sliding_attention", "full_attention"] * 18
    found = kv_layout({**QWEN3_8B, "layer_types": types, "sliding_window": 128})
    assert (found.full_layers, found.window_layers, found.window_tokens) == (18, 18, 128)


def test_qwens_first_layers_see_everything_where_the_window_is_on():
    found = kv_layout(
        {**QWEN3_8B, "use_sliding_window": True, "sliding_window": 4096, "max_window_layers": 28}
    )
    assert (found.full_layers, found.window_layers) == (28, 8)


def test_a_window_stops_growing():
    found = kv_layout(GEMMA_3_12B)
    below, above = found.cache_bytes(1024, "bfloat16"), found.cache_bytes(1025, "bfloat16")
    assert below == 48 * 1024 * 2 * 8 * 256 * 2
    assert above - below == found.bytes_per_token("bfloat16")
    assert "40 with a window of 1024 tokens" in found.describe()


@pytest.mark.parametrize("name", ["num_hidden_layers", "num_attention_heads"])
def test_what_is_missing_is_named(name):
    with pytest.raises(InputError, match=name):
        kv_layout({key: value for key, value in LLAMA_31_8B.items() if key != name})


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ({"layer_types": ["full_attention", "new_kind"] * 16}, "new_kind"),
        ({"layer_types": ["full_attention"] * 3}, "num_hidden_layers"),
        ({"ssm_cfg": {"d_state": 16}}, "ssm_cfg"),
        ({"num_kv_shared_layers": 10}, "num_kv_shared_layers"),
        ({"is_encoder_decoder": True}, "is_encoder_decoder"),
        ({"layer_types": ["sliding_attention"] * 32}, "sliding_window"),
    ],
)
def test_a_layout_that_is_not_known_is_no_wrong_number(more, named):
    with pytest.raises(InputError, match=named):
        kv_layout({**LLAMA_31_8B, **more})


@pytest.mark.parametrize("config", [SMOLLM2, GEMMA_3_12B, MISTRAL_7B_V01])
def test_steps_and_tokens_are_each_others_inverse(config):
    found = kv_layout(config)
    for tokens in (1, 700, 1024, 4096, 9000):
        assert found.steps(tokens) * found.step_bytes("bfloat16") == found.cache_bytes(tokens, "bfloat16")
        back = found.tokens_of(found.steps(tokens))
        full_windows = not found.full_layers and tokens > found.window_tokens
        assert back == (found.window_tokens if full_windows else pytest.approx(tokens))
    assert kv_layout(MISTRAL_7B_V01).tokens_of(4097) is None
    assert kv_layout(SMOLLM2).steps(500) == 500


def test_an_unknown_precision_is_named():
    with pytest.raises(InputError, match="int3"):
        kv_layout(SMOLLM2).bytes_per_token("int3")
