"""Everything in a run folder that follows from its database, written anew and the same each time."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kvlab.conclude import conclude
from kvlab.experiment import Experiment
from kvlab.findings import Findings, Summary
from kvlab.report import render
from kvlab.runs.data import RunData
from kvlab.runs.files import replacing, write_atomic, write_json
from kvlab.runs.folder import SUMMARY
from kvlab.store import requests_csv


def rebuild(folder: Path, experiment: Experiment[Any]) -> Summary:
    """Write everything in a run folder that follows from its database: results, then reports.

    The database is the only source, and there is no clock in it: the same database gives the same
    bytes. Each file is replaced as a whole.

    Raises:
        InputError: The folder is not a run folder.
    """
    with RunData.open(folder) as data:
        return write(data, experiment)


def write(data: RunData, experiment: Experiment[Any]) -> Summary:
    """Do what `rebuild` does, for data that are open already."""
    summary = write_results(data, experiment)
    write_reports(data, experiment.title, summary)
    return summary


def write_results(data: RunData, experiment: Experiment[Any]) -> Summary:
    """Write requests.csv, the tables, plots/, the further files, the derived tables and summary.json."""
    folder, params = data.folder, experiment.Params.check(data.stored["params"])
    with replacing(folder / "requests.csv") as file:
        requests_csv.write(data.requests, file)
    found = conclude(experiment, data, params)
    summary = found.summary(experiment.name, data.profile)
    for table in found.tables:
        write_atomic(folder / f"{table.name}.csv", requests_csv.text(table.frame()))
    _write_plots(folder, found)
    for name, content in found.files.items():
        write_atomic(folder / name, content() if callable(content) else content)
    if found.derived:
        data.database.replace_derived(found.derived)
    write_json(folder / SUMMARY, summary.as_json())
    return summary


def _write_plots(folder: Path, found: Findings) -> None:
    from kvlab.report.figures import png, svg  # with matplotlib, only where pictures are drawn

    (folder / "plots").mkdir(exist_ok=True)
    for picture in found.pictures:
        if picture.empty:
            continue
        figure = picture.draw()
        write_atomic(folder / "plots" / f"{picture.name}.png", png(figure))
        write_atomic(folder / "plots" / f"{picture.name}.svg", svg(figure))


def missing_plots(folder: Path, summary: Summary) -> list[str]:
    """Return the files of a summary's figures that are not there."""
    names = [f"{figure.name}.{form}" for figure in summary.figures for form in ("png", "svg")]
    return [name for name in names if not (folder / "plots" / name).is_file()]


def draw_plots(data: RunData, experiment: Experiment[Any]) -> None:
    """Draw the plots of a run out of its database."""
    params = experiment.Params.check(data.stored["params"])
    _write_plots(data.folder, conclude(experiment, data, params))


def write_reports(data: RunData, title: str, summary: Summary) -> None:
    """Write report.md and report.html of a summary whose plots are there."""
    folder = data.folder
    pictures = {figure.name: _drawn(folder / "plots" / figure.name) for figure in summary.figures}
    known: Mapping[str, bytes] = {name: drawn for name, drawn in pictures.items() if drawn is not None}
    about = (title, summary, data.stored, data.identity)
    write_atomic(folder / "report.md", render.markdown(*about))
    write_atomic(folder / "report.html", render.html(*about, known))


def _drawn(plot: Path) -> bytes | None:
    """Return a figure's SVG, or its PNG where that would be too large for a page."""
    from kvlab.report.svg import MOST_BYTES

    vector, pixels = plot.with_name(f"{plot.name}.svg"), plot.with_name(f"{plot.name}.png")
    if vector.is_file() and vector.stat().st_size <= MOST_BYTES:
        return vector.read_bytes()
    return pixels.read_bytes() if pixels.is_file() else None
