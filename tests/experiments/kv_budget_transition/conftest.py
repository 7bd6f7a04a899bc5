"""A tiny random Llama with a tokenizer of its own: it answers nonsense, the same nonsense each time."""

import pytest
import yaml

from kvlab.command import pipeline
from tests.compression.datasets.conftest import train

#: Three lengths of four examples each.
SMALL = {
    "dataset": {"name": "synthetic", "lengths_tokens": [200, 260, 320], "n_per_bin": 4},
    "kv": {
        "policy": "snapkv-w8-k3-avg", "budgets": [1.0, 0.5], "max_added_budgets": 1,
        "controls": ["noise_floor", "random", "no_context"], "timed_per_bin": 0,
    },
    "decoding": {"max_new_tokens": 4},
    "analysis": {"metric": "contains", "resamples": 200},
}  # fmt: skip


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """A model folder."""
    torch = pytest.importorskip("torch")
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("models") / "tiny"
    tokenizer = train(folder, chat=True).hf
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=2048,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture
def config(tmp_path, monkeypatch):
    """Write a configuration; groups given replace those of `SMALL` key by key."""
    monkeypatch.setenv("KVLAB_CACHE_DIR", str(tmp_path / "cache"))

    def write(model, **groups):
        content = {name: {**SMALL.get(name, {}), **groups.get(name, {})} for name in {*SMALL, *groups}}
        content.setdefault("engine", {}).setdefault("model", str(model))
        path = tmp_path / "small.yaml"
        path.write_text(yaml.safe_dump(content))
        return path

    return write


@pytest.fixture
def job(config, outputs):
    """Resolve a configuration into a job."""

    def resolve(model, overrides=(), *, new=False, force=False, **groups):
        return pipeline.staged_run(
            config(model, **groups), list(overrides), outputs=outputs, new=new, force=force
        )

    return resolve
