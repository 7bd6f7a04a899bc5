"""kvlab: a workbench for KV-cache behaviour in LLM serving.

``import kvlab as kv`` gives `connect` (talk to one server), `open` (run an experiment), `load` (read a stored
run), `ab` and `compare` (two engines, two
runs), `score` (score one answer) and ``kv.vram`` (watch memory). The import itself loads neither torch, vllm,
pandas nor matplotlib: each function imports what it needs when it is called.
"""

import importlib
from typing import TYPE_CHECKING, Any

from kvlab import former_names

if TYPE_CHECKING:
    from kvlab import vram
    from kvlab.api import ab, compare, connect, load, open, score

__version__ = "0.1.0"
__all__ = ["ab", "compare", "connect", "load", "open", "score", "vram"]

former_names.install()
_FUNCTIONS = ("ab", "compare", "connect", "load", "open", "score")


def __getattr__(name: str) -> Any:  # noqa: ANN401 - a function or a module of the front door
    if name in _FUNCTIONS:
        return getattr(importlib.import_module("kvlab.api"), name)
    if name == "vram":
        return importlib.import_module("kvlab.vram")
    if former_names.present_name(f"kvlab.{name}") is not None:
        return importlib.import_module(f"kvlab.{name}")
    raise AttributeError(f"module 'kvlab' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
