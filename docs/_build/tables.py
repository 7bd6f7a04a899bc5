"""Tables that the documentation takes from code, profiles, notebooks and benchmark results."""

import ast
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from html import unescape
from pathlib import Path
from typing import Any

import griffe
import yaml
from bench_tables import bench
from markdown_grid import grid

ROOT = Path(__file__).resolve().parents[2]
#: What every experiment means by these, where its own class does not say.
_COMMON = {
    "max_tokens": "Generated tokens per request.",
    "temperature": "Sampling temperature.",
    "confidence": "Level of all intervals.",
}
_BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


def make(what: str, arguments: Sequence[str]) -> str:
    """Return the Markdown that a page asks for.

    Raises:
        ValueError: There is no such thing.
    """
    makers = {"result": result, "params": params, "cli": cli, "bench": bench, "env": env}
    if what not in makers:
        raise ValueError(f"<!-- build: {what} -->: there is {', '.join(makers)}")
    return makers[what](*arguments)


# Notebooks ----------------------------------------------------------------------------------------------


def result(notebook: str) -> str:
    """Return what a committed notebook ended with."""
    content = json.loads((ROOT / "notebooks" / f"{notebook}.ipynb").read_text(encoding="utf-8"))
    outputs = [out for cell in content["cells"] for out in cell.get("outputs", [])]
    pages = "".join("".join(out.get("data", {}).get("text/html", "")) for out in outputs)
    found = re.findall(r">(PASS|FAIL|INVALID)</span>[^<]*</p><p><b>(.*?)</b></p>", pages)
    if not found:
        raise ValueError(f"notebooks/{notebook}.ipynb holds no verdict; run it and save it")
    verdict, sentence = found[-1]
    kind = {"PASS": "success", "FAIL": "failure"}.get(verdict, "warning")
    return f'!!! {kind} "Result of the committed notebook, two CPU cores"\n    {verdict}: {unescape(sentence)}'


# Parameters ---------------------------------------------------------------------------------------------


@cache
def _package() -> griffe.Object:
    found = griffe.load("kvlab", search_paths=[str(ROOT)], try_relative_path=False)
    assert isinstance(found, griffe.Object)  # noqa: S101 - a package, not an alias
    return found


def params(name: str, experiment: str = "") -> str:
    """Return the fields of a parameters class."""
    smoke = _profile(experiment)
    rows = [
        (f"`{field}`", about, _code(default), _code(smoke.get(field, "")) if smoke else "")
        for field, about, default in _fields(name.removeprefix("kvlab."), "")
    ]
    header = ["parameter", "meaning", "default"] + ["smoke profile"] * bool(smoke)
    return grid(header, (row[: len(header)] for row in rows), left=len(header))


def _code(value: object) -> str:
    return f"`{value}`" if value not in ("", None) else ("" if value == "" else "–")


def _profile(experiment: str) -> dict[str, Any]:
    if not experiment:
        return {}
    text = (ROOT / "params" / experiment / "smoke.yaml").read_text(encoding="utf-8")
    return dict(_flat(yaml.safe_load(text) or {}, ""))


def _flat(values: dict[str, Any], before: str) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value


def _fields(name: str, before: str) -> Iterator[tuple[str, str, str]]:
    found = _package()[name]
    about = _described(found)
    for field, attribute in found.attributes.items():
        if field in ("model_config", "env_keys") or not attribute.annotation or field.startswith("_"):
            continue
        if "property" in attribute.labels:
            continue
        group = found.module.members.get(str(attribute.annotation))
        if group is not None and group.is_alias:
            group = group.final_target
        if group is not None and group.is_class:
            yield from _fields(group.path.removeprefix("kvlab."), f"{before}{field}.")
        else:
            default, bounds = _default(str(attribute.value or ""))
            words = " ".join(about.get(field, "").split()).replace("``", "`")
            choices = _choices(str(attribute.annotation)) if "`" not in words else ""
            yield f"{before}{field}", words + (f" ({bounds})" if bounds else "") + choices, default


def _described(found: griffe.Object) -> dict[str, str]:
    """Return each field's words, those of base classes too; one entry may name several fields."""
    known = dict(_COMMON)
    bases = found.mro() if isinstance(found, griffe.Class) else []
    for kind in [*reversed(bases), found]:
        text = kind.docstring.value if kind.docstring else ""
        block = re.search(r"^Attributes:\n((?:    .*\n?|\n)+)", text, re.MULTILINE)
        entries = re.split(r"\n(?=    \S)", "\n" + block[1].replace(",\n    ", ", ")) if block else []
        for entry in filter(str.strip, entries):
            names, _, words = entry.partition(":")
            known |= dict.fromkeys(re.split(r",\s*", names.strip()), words)
    return known


def _default(value: str) -> tuple[str, str]:
    """Return the default and the bounds of a field, from its source: ``Field(default=1, ge=1)`` or ``1``."""
    if not value:
        return "required", ""
    node = ast.parse(value, mode="eval").body
    if not isinstance(node, ast.Call) or getattr(node.func, "id", "") != "Field":
        return ("none" if value == "None" else value.strip("'")), ""
    given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
    bounds = [f"{sign} {_number(given[key])}" for key, sign in _BOUNDS.items() if key in given]
    default = given.get("default", "required")
    return ("none" if default == "None" else default.strip("'")), ", ".join(bounds)


def _number(text: str) -> str:
    try:
        return f"{ast.literal_eval(text):,}"
    except ValueError:
        return text.replace("2 ** 32", "2³²")


def _choices(annotation: str) -> str:
    if not annotation.startswith("Literal["):
        return ""
    names = ast.literal_eval(annotation.removeprefix("Literal"))
    return f" ({', '.join(f'`{name}`' for name in names)})"


# Command line -------------------------------------------------------------------------------------------


def cli() -> str:
    """Return the help of every command."""
    from typer.main import get_command

    from kvlab.command.cli import app

    return "\n\n".join(_commands(get_command(app), "kvlab"))


def _commands(command: Any, name: str) -> Iterator[str]:  # noqa: ANN401 - typer's own click
    inner = getattr(command, "commands", None)
    if inner is None:
        rows = []
        for parameter in command.params:
            flags = ", ".join(f"`{flag}`" for flag in (*parameter.opts, *parameter.secondary_opts))
            shown = flags if parameter.param_type_name == "option" else f"`{parameter.name.upper()}`"
            if parameter.name != "help":
                rows.append((shown, (getattr(parameter, "help", "") or "").replace("<", "&lt;")))
        text = f"## `{name}`\n\n{' '.join((command.help or '').split())}"
        yield text + ("\n\n" + grid(["argument or option", "meaning"], rows, left=2) if rows else "")
        return
    seen: dict[str, str] = {}
    for word, found in inner.items():
        same = seen.setdefault(repr(sorted(getattr(found, "commands", [word]))), word)
        if same == word:
            yield from _commands(found, f"{name} {word}")
        else:
            yield f"## `{name} {word}`\n\nThe same commands as `{name} {same}`."


def env() -> str:
    """Return ``.env.example``."""
    return f"```ini\n{(ROOT / '.env.example').read_text(encoding='utf-8').strip()}\n```"
