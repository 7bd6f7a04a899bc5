import json

import pytest
from transformers import LlamaConfig, MistralConfig, Qwen2Config

from kvlab.compression.engine import Options, keep_running, open_engine
from kvlab.compression.engine.load import longest
from kvlab.errors import InputError
from kvlab.settings import load_settings


def fits(length):
    del length


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A model folder that holds nothing but a config."""
    path = tmp_path / "model"
    path.mkdir()

    def make(**config):
        (path / "config.json").write_text(json.dumps(config))
        monkeypatch.setenv("KVLAB_MODEL", str(path))
        return load_settings()

    return make


def test_a_folder_that_is_not_there_is_refused_in_one_line(monkeypatch):
    monkeypatch.setenv("KVLAB_MODEL", "/nowhere/at/all")
    for act in (lambda s: open_engine(s, fits), lambda s: keep_running(s, fits).__enter__()):
        with pytest.raises(InputError, match=r"^KVLAB_MODEL: '/nowhere/at/all' does not exist"):
            act(load_settings())


def test_an_architecture_that_the_policies_do_not_know_is_refused(folder):
    with pytest.raises(InputError, match=r"KVLAB_MODEL: .* is of type gpt2, .*llama, mistral, qwen2, qwen3"):
        open_engine(folder(model_type="gpt2"), fits)


def test_a_folder_without_weights_is_refused_in_one_line(folder):
    with pytest.raises(InputError, match=r"KVLAB_MODEL: .* cannot be loaded by transformers") as error:
        open_engine(folder(model_type="llama", max_position_embeddings=512), fits)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (Options(dtype="float16"), "dtype: 'float16' is unknown"),
        (Options(device="tpu"), "device: 'tpu' is unknown"),
        (Options(attention="flash"), "attention: 'flash' is unknown"),
    ],
)
def test_unknown_options_are_refused(folder, options, message):
    with pytest.raises(InputError, match=message):
        open_engine(folder(model_type="llama", max_position_embeddings=512), fits, options)


def test_what_does_not_fit_is_refused_before_the_model_is_loaded(folder):
    def check(length):
        raise InputError("lengths", 4096, f"is more than the {length} tokens that fit")

    with pytest.raises(InputError, match="more than the 512 tokens"):
        open_engine(folder(model_type="llama", max_position_embeddings=512), check)


def test_beyond_a_sliding_window_nothing_is_asked():
    assert longest(LlamaConfig(max_position_embeddings=2048)) == 2048
    assert longest(MistralConfig(max_position_embeddings=32768, sliding_window=4096)) == 4096
    assert longest(MistralConfig(max_position_embeddings=32768, sliding_window=None)) == 32768
    assert longest(Qwen2Config(max_position_embeddings=32768, use_sliding_window=False)) == 32768


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_rotary_positions_that_depend_on_what_was_asked_before_are_refused_by_name(folder, kind):
    long = {"short_factor": [1.0] * 32, "long_factor": [2.0] * 32, "original_max_position_embeddings": 256}
    scaling = {
        "rope_type": kind,
        "factor": 2.0,
        "rope_theta": 10000.0,
        **(long if kind == "longrope" else {}),
    }
    settings = folder(model_type="llama", max_position_embeddings=512, rope_scaling=scaling)
    with pytest.raises(InputError, match=f"KVLAB_MODEL: .* rotary positions of type {kind}, which depend on"):
        open_engine(settings, fits)
