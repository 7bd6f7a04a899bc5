"""The experiments: one file each, found by looking. Nothing above this package knows it."""

import difflib
import importlib
import pkgutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kvlab import paths
from kvlab.errors import InputError

if TYPE_CHECKING:
    from kvlab.experiment import Experiment


def registry() -> "dict[str, Experiment[Any]]":
    """Return every experiment of this package by its name, which is also its module's."""
    found = ((info.name, _load(info.name)) for info in pkgutil.iter_modules(__path__))
    return {name: experiment for name, experiment in found if experiment is not None}


def exists(name: str) -> bool:
    """Whether there is an experiment of that name; the others are not imported."""
    return name in {info.name for info in pkgutil.iter_modules(__path__)} and _load(name) is not None


def get(name: str) -> "Experiment[Any]":
    """Return an experiment; the others are not imported.

    Raises:
        InputError: There is none of that name.
    """
    experiment = _load(name) if exists(name) else None
    if experiment is None:
        known = sorted(registry())
        near = difflib.get_close_matches(name.lower().replace("-", "_"), known, n=1)
        hint = f"did you mean {near[0]}? There are" if near else "choose from"
        raise InputError("experiment", name, f"is not one; {hint} {', '.join(known)}")
    return experiment


def _load(name: str) -> "Experiment[Any] | None":
    """Return the experiment of a module; ``None``: it is something that experiments share."""
    from kvlab.experiment import Experiment  # with all that an experiment needs

    experiment = getattr(importlib.import_module(f"{__name__}.{name}"), "EXPERIMENT", None)
    return experiment if isinstance(experiment, Experiment) else None


def notebook(name: str) -> Path:
    """Return the notebook of an experiment: ``notebooks/NN_<name>.ipynb``.

    Raises:
        InputError: It is not there.
    """
    found = sorted((paths.home() / "notebooks").glob(f"[0-9][0-9]_{name}.ipynb"))
    if not found:
        raise InputError("experiment", name, "has no notebook; restore notebooks/ from the checkout")
    return found[0]
