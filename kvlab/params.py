"""From ``params/<experiment>/<profile>.yaml`` to an experiment's typed parameters.

Precedence, weakest first: the model's own defaults, ``default.yaml``, the profile (or a file of the
user's), the tuning keys of the environment, ``--set``. Where each value came from is kept.
"""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kvlab import paths
from kvlab.errors import InputError
from kvlab.settings import Settings


class Params(BaseModel):
    """Base of every experiment's parameters: frozen, strict (``true`` is no number), no unknown keys, finite.

    Attributes:
        isolation_id: Goes into every prompt's marker; ``None``: a fresh one for each run.
        max_attempts: How often a trial is started before it counts as failed.
        seed: Of the order of trials and of all resampling.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    isolation_id: str | None = Field(default=None, pattern=r"^[\w.-]{1,64}$")
    max_attempts: int = Field(default=3, ge=1, le=20)
    seed: int = Field(default=1337, ge=0, lt=2**32)

    #: Environment key → field, for the tuning keys that this experiment obeys.
    env_keys: ClassVar[dict[str, str]] = {}

    @classmethod
    def collect(cls, namespace: Mapping[str, Any]) -> dict[str, Any]:
        """Return the fields of this class that a notebook's ``parameters`` cell has set."""
        return {name: namespace[name] for name in cls.model_fields if name in namespace}

    @classmethod
    def check(cls, values: Mapping[str, Any], sources: Mapping[str, str] | None = None) -> Self:
        """Validate ``values``.

        Raises:
            InputError: Naming the first wrong field, its value, and where the value came from.
        """
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            raise _as_input_error(cls, error, sources or {}) from None


class Resolved(NamedTuple):
    """Checked parameters, and where each value came from."""

    params: Params
    sources: dict[str, str]


def resolve(
    kind: type[Params],
    experiment: str,
    *,
    profile: str = "default",
    file: Path | None = None,
    overrides: Sequence[str] = (),
    settings: Settings | None = None,
) -> Resolved:
    """Load and check the parameters of one run.

    Args:
        kind: The experiment's ``Params`` class.
        experiment: Its name, which is also its folder under ``params/``.
        profile: Which YAML file of that folder.
        file: A file of the user's, in place of the profile.
        overrides: ``key=value`` strings, values in YAML.
        settings: Where the tuning keys come from; ``None`` applies none.

    Raises:
        InputError: A file, key or value is wrong.
    """
    folder = paths.home() / "params" / experiment
    layers = [("default.yaml", _read(folder / "default.yaml"))]
    if file is not None:
        layers.append((str(file), _read(file)))
    elif profile != "default":
        layers.append((f"{profile}.yaml", _read(_profile_path(folder, profile))))
    layers += env_layers(kind, settings)
    layers += [("--set", _parse_override(text)) for text in overrides]
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for source, layer in layers:
        for key, value in layer.items():
            _check_known(kind, key, source)
            values[key], sources[key] = value, source
    return Resolved(kind.check(values, sources), sources)


def env_layers(kind: type[Params], settings: Settings | None) -> list[tuple[str, dict[str, Any]]]:
    """Return one layer for each tuning key of the environment that is set."""
    if settings is None:
        return []
    values = {key: getattr(settings, key.lower()) for key in kind.env_keys}
    return [(f"env {key}", {kind.env_keys[key]: value}) for key, value in values.items() if value is not None]


def profiles(experiment: str) -> list[str]:
    """Return the names of the profiles of an experiment."""
    return sorted(path.stem for path in (paths.home() / "params" / experiment).glob("*.yaml"))


def _profile_path(folder: Path, profile: str) -> Path:
    path = folder / f"{profile}.yaml"
    if not path.is_file() or path.parent != folder:
        known = ", ".join(sorted(item.stem for item in folder.glob("*.yaml")))
        raise InputError("--profile", profile, f"is not a profile of {folder.name}; choose from {known}")
    return path


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError("--params", str(path), "is not there; name an existing YAML file") from None
    except OSError as error:
        fix = f"cannot be read ({error.strerror}); name a YAML file"
        raise InputError("--params", str(path), fix) from None
    except UnicodeDecodeError:
        raise InputError("--params", str(path), "is not UTF-8 text; save it as UTF-8") from None
    except yaml.YAMLError as error:
        where = getattr(getattr(error, "problem_mark", None), "line", 0) + 1
        raise InputError("--params", str(path), f"is not valid YAML at line {where}; mend it") from None
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise InputError("--params", str(path), "must hold `name: value` lines") from None
    return content


def _parse_override(text: str) -> dict[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise InputError("--set", text, "must be key=value, for example --set repeats=3")
    try:
        return {key.strip(): yaml.safe_load(value)}
    except yaml.YAMLError:
        raise InputError("--set", text, "has a value that is not YAML; quote it") from None


def _check_known(kind: type[Params], key: str, source: str) -> None:
    if key not in kind.model_fields:
        near = difflib.get_close_matches(key, kind.model_fields, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(kind.model_fields)}"
        raise InputError(key, None, f"is not a parameter of this experiment ({source}); {hint}")


def _as_input_error(kind: type[Params], error: ValidationError, sources: Mapping[str, str]) -> InputError:
    first = error.errors()[0]
    path = [str(part) for part in first["loc"]]
    name = ".".join(path) or kind.__name__
    origin = sources.get(path[0]) if path else None
    message = first["msg"].removeprefix("Value error, ")
    value = first["input"] if path else None
    return InputError(name, value, f"{message[0].lower()}{message[1:]}" + (f" ({origin})" if origin else ""))
