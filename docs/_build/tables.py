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


def grid(header: Sequence[str], rows: Iterable[Sequence[object]], left: int = 1) -> str:
    """Return a Markdown table; the first ``left`` columns are text, the others numbers."""
    marks = [":--" if index < left else "--:" for index in range(len(header))]
    lines = [header, marks, *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(value: object) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")


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


# Benchmarks ---------------------------------------------------------------------------------------------


@cache
def _results(file: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((ROOT / "benchmarks" / file).read_text(encoding="utf-8"))
    return content


def bench(name: str) -> str:
    """Return a table of benchmark results, with the day on which they were measured."""
    if name == "peers":
        part = _results("peers.json")
        table = _peers(part["rows"])
    elif name == "engines":
        part = _results("engines/results.json")
        table = _engines(part["rows"])
    else:
        part = _results("results.json")[name.partition("-")[0]]
        makers = {
            "client_error": _client_error,
            "load_generator": _load_generator,
            "kv_sweep": _kv_sweep,
            "scale": _scale,
            "coverage-intervals": _coverage,
            "coverage-rates": _rates,
            "coverage-memory": _memory,
            "detector": _detector,
        }
        table = makers[name](part["rows"])
    return f"{table}\n\nMeasured {part['measured_utc'][:10]} (UTC)."


def _client_error(rows: list[dict[str, Any]]) -> str:
    cells = [
        (
            row["client"],
            f"{row['rate_per_s']:,}",
            f"{row['requests']:,}",
            f"{row['ttft_error_ms']['p50']:.2f}",
            f"{row['ttft_error_ms']['p99']:.2f}",
        )
        for row in rows
    ]
    return grid(["client", "requests/s", "n", "TTFT error p50, ms", "p99, ms"], cells)


def _load_generator(rows: list[dict[str, Any]]) -> str:
    cells = [
        (
            row["case"],
            f"{row['requests_per_s']:,.0f}",
            f"{row['stored_per_s']:,.0f}",
            f"{row['error_ms_p50']:.2f}",
            f"{row['error_ms_p99']:.2f}",
            f"{row['send_lag_ms_p50']:.2f}",
        )
        for row in rows
    ]
    header = ["load", "requests/s", "stored/s", "TTFT error p50, ms", "p99, ms", "sent late p50, ms"]
    return grid(header, cells)


def _peers(rows: list[dict[str, Any]]) -> str:
    cells = [
        (
            row["server"],
            row["client"],
            f"{row['requests_per_s']:,.0f}",
            f"{row['ttft_error_ms']:+.1f}",
            f"{min(row['requests_per_s_by_round']):,.0f} – {max(row['requests_per_s_by_round']):,.0f}",
        )
        for row in rows
    ]
    return grid(["server", "client", "requests/s", "TTFT error, ms", "rate by round"], cells, left=2)


def _engines(rows: list[dict[str, Any]]) -> str:
    cells = [
        (
            row["engine"],
            "`kvlab doctor`" if row["experiment"] == "doctor" else f"`{row['experiment']}`",
            row["verdict"],
            "–" if row["law"] is None else f"`{row['law']}`",
            row["held_out"] or "–",
            row["pairs"] or "–",
            row["account"].partition(" (")[0],
            f"{row['wall_s']:.0f}",
        )
        for row in rows
    ]
    header = ["server", "what was run", "verdict", "law: cached(L, P)", "predicted", "proven pairs"]
    return grid([*header, "as the server says", "s"], cells, left=4)


def _kv_sweep(rows: dict[str, Any]) -> str:
    cells = [
        ("kvlab", ", ".join(f"{seconds:.1f}" for seconds in rows["kvlab_wall_s"])),
        (
            "kvpress, looped over its ratios",
            ", ".join(f"{seconds:.1f}" for seconds in rows["kvpress_wall_s"]),
        ),
        ("ratio (median)", f"{rows['ratio']['median']:.2f}"),
        ("answers that are equal, token by token", f"{rows['answers_equal']} of {rows['answers']}"),
    ]
    return grid(["", "three rounds, s"], cells)


def _scale(rows: list[dict[str, Any]]) -> str:
    row = rows[0]
    cells = [
        ("recorded", f"{row['recorded_per_s']:,.0f}/s"),
        ("database", f"{row['database_bytes'] / 1e6:,.0f} MB"),
        ("`kvlab report`", f"{row['report_s']:.1f} s, {row['report_peak_bytes'] / 1e6:,.0f} MB at its peak"),
        ("verdict", f"{row['verdict']}: {'; '.join(row['not_met'])}"),
    ]
    return grid([f"{row['requests']:,} requests", "result"], cells, left=2)


def _span(values: list[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:.1f}" if f"{low:.1f}" == f"{high:.1f}" else f"{low:.1f} – {high:.1f}"


def _coverage(rows: dict[str, Any]) -> str:
    """One line a figure and name of its level: how often an interval that was given held the truth."""
    figures: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows["intervals"]:
        for label in row["label"]:
            figures.setdefault((row["figure"], label), []).append(row)
    cells = []
    for (figure, label), found in figures.items():
        worst = min(found, key=lambda row: row["covered"]["rate"])
        covered = _span([100 * row["covered"]["rate"] for row in found])
        cells.append((figure, label, f"{worst['world']}, n = {worst['n']}", len(found), covered))
    header = ["figure", "what the report calls it", "worst world", "worlds × sizes", "covered, %"]
    return grid(header, cells, left=3)


def _rates(rows: dict[str, Any]) -> str:
    claims: dict[str, list[dict[str, Any]]] = {}
    for row in rows["rates"]:
        if row["at_most"] is not None and row["made"]["rate"] is not None:
            claims.setdefault(row["claim"], []).append(row)
    cells = [
        (
            claim,
            len(found),
            f"{min(row['n'] for row in found)} – {max(row['n'] for row in found)}",
            _span([100 * row["made"]["rate"] for row in found]),
            _span([100 * row["at_most"] for row in found]),
        )
        for claim, found in claims.items()
    ]
    return grid(["claim, although it is false", "worlds × sizes", "n", "made, %", "allowed, %"], cells)


def _memory(rows: dict[str, Any]) -> str:
    """One line a server: how often its memory is shown to stay, by how far the target lies."""
    found: dict[tuple[str, str], dict[float, list[float]]] = {}
    for row in rows["rates"]:
        claim, _, kind = row["claim"].partition(", of a ")
        if claim == "memory stays":
            world, _, times = row["world"].partition("; target ")
            by_times = found.setdefault((kind.partition(" (")[0], world.replace(" %", "\u00a0%")), {})
            by_times.setdefault(float(times.removesuffix(" times")), []).append(row["made"]["rate"])
    times = sorted({each for by_times in found.values() for each in by_times})
    cells = [
        (*key, *(f"{100 * max(by_times[each]):.1f}" if each in by_times else "" for each in times))
        for key, by_times in found.items()
    ]
    return grid(["server", "world", *(f"{each:g} ×" for each in times)], cells, left=2)


def _detector(rows: dict[str, Any]) -> str:
    sizes = sorted({row["per_bin"] for row in rows["false_alarms"]})
    truths = list(dict.fromkeys(row["truth"] for row in rows["false_alarms"]))
    heights = sorted({row["height"] for row in rows["cliffs"]})

    def line(name: str, found: list[dict[str, Any]], key: str) -> list[str]:
        by_size = [[100 * row[key]["rate"] for row in found if row["per_bin"] == size] for size in sizes]
        return [name, *(_span(values) if values else "–" for values in by_size)]

    cells = []
    for truth in truths:
        found = [row for row in rows["false_alarms"] if row["truth"] == truth]
        words = "no drop" if truth in ("null", None) else f"drop {truth}"
        cells.append(line(f"false alarms, {words}: calibrated rule", found, "either"))
        cells.append(line(f"false alarms, {words}: point rule", found, "point_rule"))
    for height in heights:
        found = [row for row in rows["cliffs"] if row["height"] == height]
        cells.append(line(f"power, cliff of {height:g}", found, "power"))
    header = ["%, by answers in each of 5 bins", *(str(size) for size in sizes)]
    return grid(header, cells)
