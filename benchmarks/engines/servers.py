"""The servers: each a context manager that gives a `Place` to send requests to."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.engines import places
from benchmarks.engines.child import child, free_port
from benchmarks.engines.truth import Events, Log
from benchmarks.servers.router import Router
from kvlab.laws.events import EventReader
from kvlab.serving import embedded

MODEL = "smollm2-135m-instruct"


@dataclass(frozen=True)
class Place:
    """Where a server answers.

    Attributes:
        name: Of the engine, as the table has it.
        base_url: Ends in ``/v1``.
        key: What requests carry.
        truth: The server's own account of what it reused; ``None``: nobody keeps one.
        model: The name that requests carry.
    """

    name: str
    base_url: str
    key: str = "EMPTY"
    truth: Log | Events | None = None
    model: str = MODEL

    @property
    def port(self) -> int:
        """Of the server."""
        return int(self.base_url.rsplit(":", 1)[1].partition("/")[0])

    def environment(self) -> dict[str, str]:
        """What `.env` would say."""
        return {
            "OPENAI_BASE_URL": self.base_url,
            "OPENAI_API_KEY": self.key,
            "OPENAI_MODEL": self.model,
        }


@contextmanager
def llama_cpp(
    folder: Path, *, context_tokens: int = 8192, flags: Sequence[str] = (), name: str = "llama.cpp"
) -> Iterator[Place]:
    """llama.cpp's server with its defaults; at log level 4 it says of each prompt how much it reused."""
    folder.mkdir(parents=True, exist_ok=True)
    port, log = free_port(), folder / f"{name.replace(' ', '_')}.log"
    command: list[str | Path] = [
        places.llama_server(), "--model", places.gguf(), "--alias", MODEL, "--host", "127.0.0.1", "--port", str(port),
        "--ctx-size", str(context_tokens), "--offline", "--log-verbosity", "4", "--log-colors", "off", *flags,
    ]  # fmt: skip
    # On a busy machine, threads that spin at barriers slow each other down many times over.
    quiet = {"OMP_WAIT_POLICY": "passive"}
    with child(command, log, f"http://127.0.0.1:{port}/health", env=quiet):
        yield Place(name, f"http://127.0.0.1:{port}/v1", truth=Log(log))


@contextmanager
def vllm(block_size: int, flags: Sequence[str] = ()) -> Iterator[Place]:
    """The embedded vLLM with a block size; its KV events are the account."""
    with EventReader() as reader:
        more = ["--block-size", str(block_size), "--kv-events-config", json.dumps(reader.config()), *flags]
        with embedded.acquire(extra_flags=more) as lease:
            truth = Events(reader, lease.base_url, lease.api_key, lease.model.served_name)
            yield Place(f"vLLM, blocks of {block_size}", lease.base_url, lease.api_key, truth)


@contextmanager
def litellm(behind: Place, folder: Path) -> Iterator[Place]:
    """A LiteLLM proxy in front of a server."""
    folder.mkdir(parents=True, exist_ok=True)
    port, config = free_port(), folder / "litellm.yaml"
    entry = {
        "model_name": MODEL,
        "litellm_params": {
            "model": f"openai/{behind.model}",
            "api_base": behind.base_url,
            "api_key": behind.key,
        },
    }
    config.touch(mode=0o600)  # it holds the key of the server behind it
    config.write_text(json.dumps({"model_list": [entry], "litellm_settings": {"telemetry": False}}))
    command: list[str | Path] = [
        places.litellm(), "--config", config, "--host", "127.0.0.1", "--port", str(port), "--telemetry", "False",
    ]  # fmt: skip
    key = f"sk-{secrets.token_hex(16)}"
    quiet = {
        "LITELLM_MASTER_KEY": key,
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_TELEMETRY": "False",
        "NO_PROXY": "127.0.0.1",
    }
    name = "LiteLLM before " + behind.name
    with child(command, folder / "litellm.log", f"http://127.0.0.1:{port}/health/liveliness", env=quiet):
        yield replace(behind, name=name, base_url=f"http://127.0.0.1:{port}/v1", key=key)


@contextmanager
def replicas(policy: str, folder: Path, number: int = 2) -> Iterator[Place]:
    """Replicas of llama.cpp behind a router."""
    with ExitStack() as stack:
        behind = [
            stack.enter_context(llama_cpp(folder, name=f"replica-{n + 1}", context_tokens=4096))
            for n in range(number)
        ]
        router = stack.enter_context(Router([place.port for place in behind], policy))
        words = policy.replace("_", " ")
        yield Place(f"{number} llama.cpp, {words}", router.base_url)
