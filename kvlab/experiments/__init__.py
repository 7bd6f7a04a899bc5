"""The experiments: one file each, found by looking. Nothing above this package knows it."""

import importlib
import pkgutil
from pathlib import Path
from typing import Any

from kvlab import paths
from kvlab.errors import InputError
from kvlab.experiments.base import Experiment


def registry() -> dict[str, Experiment[Any]]:
    """Return every experiment of this package by its name."""
    found = {}
    for info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{info.name}")
        experiment = getattr(module, "EXPERIMENT", None)
        if isinstance(experiment, Experiment):
            found[experiment.name] = experiment
    return found


def get(name: str) -> Experiment[Any]:
    """Return an experiment.

    Raises:
        InputError: There is none of that name.
    """
    known = registry()
    if name not in known:
        raise InputError("experiment", name, f"is not one; choose from {', '.join(sorted(known))}")
    return known[name]


def notebook(name: str) -> Path:
    """Return the notebook of an experiment: ``notebooks/NN_<name>.ipynb``.

    Raises:
        InputError: It is not there.
    """
    found = sorted((paths.home() / "notebooks").glob(f"[0-9][0-9]_{name}.ipynb"))
    if not found:
        raise InputError("experiment", name, "has no notebook; restore notebooks/ from the checkout")
    return found[0]
