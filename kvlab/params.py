"""From ``params/<experiment>/<profile>.yaml`` to an experiment's typed parameters.

Precedence, weakest first: the model's own defaults, ``default.yaml``, the profile (or a file of the
user's), the tuning keys of the environment, ``--set``. Groups of parameters (mappings) are merged key
by key, ``--set`` reaches into them with dots, and ``${NAME}`` in a file stands for that variable of
the environment. What a choice of ``--set`` makes meaningless is left out, if it was inherited. Where
each value came from is kept.
"""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kvlab import paths
from kvlab.errors import InputError
from kvlab.params_yaml import parse_override, read
from kvlab.redact import is_placeholder
from kvlab.settings import Settings

#: A shorter secret may stand in a parameter by chance.
_SHORT = 6
#: What only a comparison of finished runs reads; stored with each run all the same, since it is named beforehand.
_COMPARED = ("compare_metric", "compare_margin")

#: The name of a metric that runs are compared by: an arm, as ``requests.csv`` has it but for its number, and a column.
CompareMetric = Annotated[str, Field(pattern=r"^[^\s|]{1,80}\.(ttft_ms|latency_ms|tpot_ms|s_per_request)$")]


class Params(BaseModel):
    """Base of every experiment's parameters: frozen, strict (``true`` is not a number), no unknown keys, finite.

    Attributes:
        isolation_id: Goes into every prompt's marker; ``None``: a fresh one for each run.
        max_attempts: How often a trial is started before it counts as failed.
        max_failed_fraction: A run in which more of the requests failed for good gives no answer.
        outage_s: How long a server may be away, or say "later", before that costs attempts.
        seed: Of the order of trials and of all resampling.
        starts: How often the embedded engine is started anew; the trials are spread over the starts. An endpoint of
            one's own is one start.
        compare_metric: What `kvlab compare` decides by, named before the run: ``<arm>.<column>``.
        compare_margin: Two runs whose ratio lies within 1 / (1 + margin) and 1 + margin count as equivalent.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    isolation_id: str | None = Field(default=None, pattern=r"^[\w.-]{1,64}$")
    max_attempts: int = Field(default=3, ge=1, le=20)
    outage_s: float = Field(default=60.0, ge=0, le=86_400)
    max_failed_fraction: float = Field(default=0.05, ge=0, le=1)
    seed: int = Field(default=1337, ge=0, lt=2**32)
    starts: int = Field(default=1, ge=1, le=100)
    compare_metric: CompareMetric = "hit.ttft_ms"
    compare_margin: float = Field(default=0.05, gt=0, lt=1)

    #: Environment key → field, for the tuning keys that this experiment obeys.
    env_keys: ClassVar[dict[str, str]] = {}
    #: Fields that only the analysis reads: other values of them ask nothing anew.
    analysis_fields: ClassVar[tuple[str, ...]] = ()
    #: Dotted names of what changes how answers are got and not what they are.
    how_fields: ClassVar[tuple[str, ...]] = ("max_attempts", "outage_s")

    @classmethod
    def collect(cls, namespace: Mapping[str, Any]) -> dict[str, Any]:
        """Return the fields of this class that a notebook's ``parameters`` cell has set."""
        return {name: namespace[name] for name in cls.model_fields if name in namespace}

    @classmethod
    def inline_files(cls, values: dict[str, Any], sources: dict[str, str]) -> None:
        """Replace what ``values`` names outside themselves by what is there, once, when a run is started.

        A run holds the values then, and needs no file of another place that may move or go. Does
        nothing where there is nothing such.

        Args:
            values: Before they are checked.
            sources: Where each came from.

        Raises:
            InputError: What is named is not there.
        """
        return

    @property
    def run_identity(self) -> dict[str, Any]:
        """What makes a run what it is, as JSON: all but `analysis_fields` and what a later comparison reads."""
        return self.identity_of(self.model_dump(mode="json"))

    @classmethod
    def identity_of(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return what of stored parameters makes a run what it is; see `run_identity`."""
        left_out = {*cls.analysis_fields, *_COMPARED}
        # A run from before there were starts is one start.
        return {key: v for key, v in values.items() if key not in left_out and (key, v) != ("starts", 1)}

    def places(self, settings: Settings) -> dict[str, Path]:
        """Return where a run of these parameters keeps what it is made of, by name, for people; nothing is made."""
        return {}

    @classmethod
    def obsolete_after(cls, before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
        """Return the dotted names of what means nothing any more, once ``--set`` has made ``before`` into ``after``.

        Those that ``--set`` does not name itself are left out.
        """
        return []

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
    layers = [("default.yaml", read(folder / "default.yaml"))]
    if file is not None:
        layers.append((str(file), read(file)))
    elif profile != "default":
        layers.append((f"{profile}.yaml", read(_profile_path(folder, profile))))
    layers += env_layers(kind, settings)
    inherited, sources = _layered(kind, layers, {})
    values, chosen = _layered(kind, [("--set", parse_override(text)) for text in overrides], inherited)
    sources |= chosen
    for name in kind.obsolete_after(inherited, values):
        if name in sources and name not in chosen:
            values = _without(values, name.split("."))
            sources[name] = "left out: it means nothing beside --set"
    if settings is not None:
        _check_public(values, settings)
    kind.inline_files(values, sources)
    return Resolved(kind.check(values, sources), sources)


def _check_public(values: Mapping[str, Any], settings: Settings) -> None:
    """Refuse a parameter that holds a secret, however it came there: parameters are written into notebooks.

    Raises:
        InputError: Naming it, and not what it holds.
    """
    secrets = [
        secret for secret in settings.secrets() if not is_placeholder(secret) and len(secret) >= _SHORT
    ]
    for name, value in values.items():
        if any(secret in text for text in _texts(value) for secret in secrets):
            raise InputError(
                name, None, "holds a secret, and parameters are written into notebooks; take it out"
            )


def _texts(value: Any) -> Iterator[str]:  # noqa: ANN401 - YAML
    """Yield every text in a value, names of groups too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from (*_texts(key), *_texts(inner))
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)


def _layered(
    kind: type[Params], layers: Sequence[tuple[str, dict[str, Any]]], values: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return ``values`` with the layers over them, and where each value of a layer came from."""
    merged, sources = dict(values), dict[str, str]()
    for source, layer in layers:
        for key, value in layer.items():
            _check_known(kind, key, source)
            merged[key] = _merged(merged.get(key), value)
            sources |= {key: source, **dict.fromkeys(_dotted(key, value), source)}
    return merged, sources


def _without(values: Mapping[str, Any], path: Sequence[str]) -> dict[str, Any]:
    """Return ``values`` without the one at the end of ``path``."""
    head, *rest = path
    if not rest:
        return {key: value for key, value in values.items() if key != head}
    return {**values, head: _without(values[head], rest)}


def _merged(old: Any, new: Any) -> Any:  # noqa: ANN401 - YAML
    """Return ``new`` over ``old``; a mapping keeps what ``new`` does not name."""
    if not isinstance(old, Mapping) or not isinstance(new, Mapping):
        return new
    return {**old, **{key: _merged(old.get(key), value) for key, value in new.items()}}


def _dotted(prefix: str, value: Any) -> list[str]:  # noqa: ANN401 - YAML
    """Return the dotted names of the leaves of a group of parameters."""
    if not isinstance(value, Mapping):
        return []
    inner = [(f"{prefix}.{key}", content) for key, content in value.items()]
    return [leaf for name, content in inner for leaf in (_dotted(name, content) or [name])]


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
        known = sorted(item.stem for item in folder.glob("*.yaml"))
        near = difflib.get_close_matches(profile.lower(), known, n=1)
        hint = f"did you mean {near[0]}? There are" if near else "choose from"
        raise InputError(
            "--profile", profile, f"is not a profile of {folder.name}; {hint} {', '.join(known)}"
        )
    return path


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
    if first["type"] == "extra_forbidden" and len(path) > 1:
        return InputError(name, None, f"is not a parameter of this experiment; {_near(kind, path)}")
    return InputError(name, value, f"{message[0].lower()}{message[1:]}" + (f" ({origin})" if origin else ""))


def _near(kind: type[BaseModel], path: Sequence[str]) -> str:
    """Return a hint about the last name of a path through groups of parameters that are models themselves."""
    fields = kind.model_fields
    for name in path[:-1]:
        group = fields[name].annotation if name in fields else None
        if not (isinstance(group, type) and issubclass(group, BaseModel)):
            return "see `kvlab plan` and the experiment's page for what there is"
        fields = group.model_fields
    near = difflib.get_close_matches(path[-1], fields, n=1)
    before = ".".join(path[:-1])
    return f"did you mean {before}.{near[0]}?" if near else f"known: {', '.join(fields)}"
