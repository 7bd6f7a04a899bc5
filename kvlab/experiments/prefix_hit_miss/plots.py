"""Bars of hit against miss from result files, whoever wrote them: ``python -m …plots FOLDER``.

Every ``results_phase*_a*_b*.json`` anywhere below a folder is read, and grouped by phase and (A, B).
A phase is what its files' names say (``phase2`` of ``results_phase2_a512_b256.json``), and each one
gets a picture, ``experiment1_all_configs_<phase>.png``. A file that cannot be used is skipped, by
name and with the reason.
"""

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kvlab.bounded import json_value
from kvlab.errors import EXIT_BAD_INPUT, EXIT_OK
from kvlab.escape import line
from kvlab.report import figures

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PATTERN = "results_phase*_a*_b*.json"
_NAME = re.compile(r"results_(phase\w*?)_a(\d+)_b(\d+)\.json")
_WARMUP = "warmup_time_mean"
#: The panels: key of the statistics, whether its spread is there too, title, label.
_PANELS = (("ttft", "TTFT", "ms"), ("throughput", "Throughput", "tokens/s"))
_NEEDED = ("ttft_mean", "throughput_mean")
_CONDITIONS = (("cache_hit", "hit", figures.HIT), ("cache_miss", "miss", figures.COLD))

#: Beyond these, a file holds no result that anybody has measured.
_MOST, _MOST_BYTES = 1e12, 64 * 2**20
#: A picture has no more than 2^16 pixels per side, whatever it should hold.
_WIDEST_INCHES = 150.0

Config = tuple[int, int]
Result = dict[str, Any]


@dataclass
class Discovered:
    """What was found.

    Attributes:
        phases: Phase → (A, B) → content of the file.
        skipped: What could not be used: file and reason.
    """

    phases: dict[str, dict[Config, Result]] = field(default_factory=dict)
    skipped: list[tuple[Path, str]] = field(default_factory=list)


def phase_key(name: str) -> str:
    """Return the phase that a file's name says.

    >>> phase_key("results_phase2_verified_a512_b256.json")
    'phase2_verified'
    """
    found = _NAME.fullmatch(name)
    return found[1] if found else ""


def picture_name(key: str) -> str:
    """Return the name of a phase's picture."""
    return f"experiment1_all_configs_{key}.png"


def discover_results(folder: Path) -> Discovered:
    """Read every result file below ``folder``; of two of one phase and (A, B), the later is kept."""
    found = Discovered()
    kept: dict[tuple[str, Config], Path] = {}
    for path in sorted(folder.rglob(PATTERN)):
        match = _NAME.fullmatch(path.name)
        content = _read(path, match)
        if isinstance(content, str) or match is None:
            found.skipped.append((path, str(content)))
            continue
        config = (int(match[2]), int(match[3]))
        known = found.phases.setdefault(match[1], {})
        older = kept.get((match[1], config))
        if older is not None and str(content.get("timestamp")) < str(known[config].get("timestamp")):
            found.skipped.append((path, f"{older.name} of {older.parent.name} is later"))
            continue
        if older is not None:
            found.skipped.append((older, f"{path.name} of {path.parent.name} is later"))
        known[config], kept[match[1], config] = content, path
    return found


def _read(path: Path, match: "re.Match[str] | None") -> Result | str:
    """Return a file's content, or why it cannot be used."""
    if match is None:
        return "its name does not say phase, A and B"
    try:
        if path.stat().st_size > _MOST_BYTES:
            return "is too big to be one"
        content = json_value(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        return f"cannot be read: {type(error).__name__}"
    if not isinstance(content, dict):
        return "holds no JSON object"
    config = content.get("config")
    sizes = [config.get(f"context_size_{letter}") for letter in "ab"] if isinstance(config, dict) else []
    if sizes != [int(match[2]), int(match[3])]:
        return f"its config says {sizes}, its name {match[2]} and {match[3]}"
    for condition, _, _ in _CONDITIONS:
        part = content.get(condition)
        stats = part.get("stats") if isinstance(part, dict) else None
        for key in _NEEDED:
            if not isinstance(stats, dict) or _number(stats.get(key)) is None:
                return f"{condition}.stats.{key} is not a number"
    return content


def _number(value: Any) -> float | None:  # noqa: ANN401 - JSON
    """Return a number that can be drawn: milliseconds or tokens per second, never negative."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _MOST:
        return None
    return float(value)


def label(key: str, configs: Mapping[Config, Result]) -> str:
    """Return what a phase is called: what its files call it, else their names."""
    phases = {str(result.get("phase", key)) for result in configs.values()}
    return ", ".join(sorted(phases))


def draw(configs: Mapping[Config, Result], phase_label: str) -> "Figure":
    """Return grouped bars of hit against miss: TTFT and throughput, and warm-up where every file has it."""
    panels = [*_PANELS]
    if all(
        _stat(result, condition, _WARMUP) is not None
        for result in configs.values()
        for condition, *_ in _CONDITIONS
    ):
        panels.append(("warmup_time", "Warm-up", "ms"))
    figure, axes = figures.panels(
        1,
        len(panels),
        f"Prefix hit against miss: {line(phase_label)[:120]}",
        width=min(max(4.2, 1.2 * len(configs)), _WIDEST_INCHES),
        height=3.8,
    )
    ordered = dict(sorted(configs.items()))
    for place, (stem, title, unit) in zip(axes, panels, strict=True):
        _bars(place, ordered, stem)
        place.set(title=title, ylabel=unit)
        place.set_xticks(range(len(ordered)), [f"A {a:,}\nB {b:,}" for a, b in ordered])
        place.margins(y=0.12)
        place.set_ylim(bottom=0)  # a spread may reach below, a time cannot
    figures.legend_below(figure, axes[0])
    return figure


def _bars(axes: "Axes", configs: Mapping[Config, Result], stem: str) -> None:
    for offset, (condition, name, colour) in zip((-0.2, 0.2), _CONDITIONS, strict=True):
        heights = [_stat(result, condition, f"{stem}_mean") or 0.0 for result in configs.values()]
        spread = [_stat(result, condition, f"{stem}_stdev") or 0.0 for result in configs.values()]
        places = [index + offset for index in range(len(configs))]
        axes.bar(places, heights, 0.38, yerr=spread, capsize=3, color=colour, label=name)
        for x, height, above in zip(places, heights, spread, strict=True):
            axes.annotate(
                f"{height:,.0f}",
                (x, height + above),
                xytext=(0, 2),
                textcoords="offset points",
                ha="center",
                fontsize=8,
            )


def _stat(result: Result, condition: str, key: str) -> float | None:
    return _number(result[condition]["stats"].get(key))


def picture(configs: Mapping[Config, Result], phase_label: str) -> bytes:
    """Return a phase's picture as PNG (`draw`)."""
    return figures.png(draw(configs, phase_label))


def plot_phase(configs: Mapping[Config, Result], phase_key: str, phase_label: str, outfile: Path) -> None:
    """Write one phase's picture.

    Args:
        configs: (A, B) → content of a result file.
        phase_key: The phase, as its files' names say; goes into the title where the label is empty.
        phase_label: What people call it.
        outfile: A PNG.
    """
    from kvlab.runs.files import write_atomic

    write_atomic(outfile, picture(configs, phase_label or phase_key))


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw what is below a folder. Returns 0, or 2 where there is nothing to draw."""
    parser = argparse.ArgumentParser(description=f"Draw every {PATTERN} below a folder.")
    parser.add_argument("folder", type=Path, help="searched with all folders in it; the pictures go here")
    folder = parser.parse_args(arguments).folder
    if not folder.is_dir():
        print(f"kvlab: folder: {str(folder)!r} is not one; name a folder with results in it", file=sys.stderr)
        return EXIT_BAD_INPUT
    found = discover_results(folder)
    for path, reason in found.skipped:
        print(line(f"skipped {path.relative_to(folder)}: {reason}"))
    if not found.phases:
        print(f"kvlab: folder: {str(folder)!r} holds no usable {PATTERN}", file=sys.stderr)
        return EXIT_BAD_INPUT
    for key, configs in sorted(found.phases.items()):
        outfile = folder / picture_name(key)
        plot_phase(configs, key, label(key, configs), outfile)
        print(line(f"{outfile}: {', '.join(f'a{a}_b{b}' for a, b in sorted(configs))}"))
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
