"""Modules that have moved can still be imported by their former names, with a warning that names the new one."""

import importlib
import importlib.abc
import importlib.machinery
import sys
import types
import warnings
from collections.abc import Sequence

FORMER = {
    "kvlab.cache_state": "kvlab.evidence",
    "kvlab.datasets": "kvlab.compression.datasets",
    "kvlab.endpoint": "kvlab.endpoints.connect",
    "kvlab.engines": "kvlab.endpoints",
    "kvlab.engines.openai_compat": "kvlab.endpoints.openai",
    "kvlab.engines.transformers_kv": "kvlab.compression.engine",
    "kvlab.engines.vllm_offline": "kvlab.endpoints.offline",
    "kvlab.figures": "kvlab.report.figures",
    "kvlab.files": "kvlab.runs.files",
    "kvlab.kv_layers": "kvlab.vram.kv_layers",
    "kvlab.kv_memory": "kvlab.vram.kv_bytes",
    "kvlab.lock": "kvlab.runs.lock",
    "kvlab.manifest": "kvlab.runs.contract",
    "kvlab.policies": "kvlab.compression.policies",
    "kvlab.probe": "kvlab.endpoints.probe",
    "kvlab.prompts.counter": "kvlab.endpoints.counter",
    "kvlab.run": "kvlab.runs.folder",
    "kvlab.serving.metrics": "kvlab.endpoints.metrics",
    "kvlab.status": "kvlab.runs.status",
    "kvlab.summary": "kvlab.findings",
    "kvlab.transition": "kvlab.compression.transition",
}


def present_name(name: str) -> str | None:
    """Return the present name of a module that has moved; ``None``: it has not."""
    for former, present in sorted(FORMER.items(), reverse=True):  # the longest name first
        if name == former or name.startswith(f"{former}."):
            return present + name.removeprefix(former)
    return None


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if present_name(name) is None:
            return None
        return importlib.machinery.ModuleSpec(name, self)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return types.ModuleType(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        # One module under two names, not two: classes of the one must be those of the other.
        present = present_name(module.__name__) or ""
        warnings.warn(f"{module.__name__} is now {present}", DeprecationWarning, stacklevel=2)
        sys.modules[module.__name__] = importlib.import_module(present)


def install() -> None:
    """Let former names be imported."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        # First: the folder of a package that has moved would be found again under its former name.
        sys.meta_path.insert(0, _Finder())
