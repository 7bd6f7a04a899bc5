"""Engines: what turns a prompt into a generation, with the evidence for its cache state.

Each module here has ``open_engine(settings, check)``, used by a notebook, and ``hold(settings,
check)``, used by the command that runs one.
"""

import importlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol, cast

from kvlab.endpoints.connect import Identity
from kvlab.endpoints.counter import Counter
from kvlab.settings import Settings

#: Told the longest context in tokens, or ``None`` where that is unknown; raises for what does not fit.
Check = Callable[[int | None], None]


class Engine(Protocol):
    """What a lab needs of every engine; how it is asked is between it and the experiment."""

    identity: Identity
    counter: Counter

    def close(self) -> None:
        """Give back what it holds."""


class EngineModule(Protocol):
    """What a module of this package has."""

    def open_engine(self, settings: Settings, check: Check) -> Engine:
        """Open it for measuring."""

    def hold(self, settings: Settings, check: Check) -> AbstractContextManager[None]:
        """Refuse what cannot work, and keep up what a notebook in another process will use."""


_MODULES = {
    "openai_compat": "kvlab.endpoints.openai",
    "vllm_offline": "kvlab.endpoints.offline",
    "transformers_kv": "kvlab.compression.engine",
}


def module(name: str) -> EngineModule:
    """Return an engine's module by its name."""
    return cast(EngineModule, importlib.import_module(_MODULES[name]))
