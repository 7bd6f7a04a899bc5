"""Everything in a run folder that follows from its database, written anew and the same each time."""

import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import pandas as pd

from kvlab.findings import Summary
from kvlab.report import render
from kvlab.runs.files import replacing, write_atomic, write_json
from kvlab.runs.folder import SUMMARY, identity_of, stored_experiment
from kvlab.store import frames, requests_csv
from kvlab.store.connect import FILE_NAME as DATABASE
from kvlab.store.database import Database


class Reporter(Protocol):
    """What a report needs of an experiment (`kvlab.experiment.Experiment` has it)."""

    @property
    def title(self) -> str:
        """One line for people."""

    @property
    def Params(self) -> Any:  # noqa: ANN401, N802 - the experiment's own class
        """Its parameters' class."""

    def derive(self, database: Database, params: Any) -> None:  # noqa: ANN401
        """Bring the derived tables up to date."""

    def load(self, sql: sqlite3.Connection, requests: pd.DataFrame, params: Any) -> pd.DataFrame:  # noqa: ANN401
        """Return the frame for the rest."""

    def summarize(self, frame: pd.DataFrame, params: Any, profile: str, identity: Any) -> Summary:  # noqa: ANN401
        """Return what the requests say."""

    def draw(self, frame: pd.DataFrame, summary: Summary, params: Any) -> dict[str, Any]:  # noqa: ANN401
        """Return the figures."""

    def exports(
        self,
        frame: pd.DataFrame,
        params: Any,  # noqa: ANN401
        stored: Mapping[str, Any],
        identity: Any,  # noqa: ANN401
    ) -> dict[str, str | bytes]:
        """Return further files by name."""


def rebuild(folder: Path, experiment: Reporter) -> Summary:
    """Write everything in a run folder that follows from its database: results, then reports.

    The database is the only source, and there is no clock in it: the same database gives the same
    bytes. Each file is replaced as a whole.

    Raises:
        InputError: The folder is not a run folder.
    """
    summary = write_results(folder, experiment)
    write_reports(folder, experiment.title, summary)
    return summary


def write_results(folder: Path, experiment: Reporter) -> Summary:
    """Write requests.csv, the tables, plots/, the exports and summary.json."""
    stored = stored_experiment(folder)
    identity = identity_of(folder)
    params = experiment.Params.check(stored["params"])
    with Database(folder / DATABASE) as database:
        experiment.derive(database, params)
        requests = frames.requests(database.sql)
        with replacing(folder / "requests.csv") as file:
            requests_csv.write(requests, file)
        frame = experiment.load(database.sql, requests, params)
        del requests  # of a large run, hundreds of megabytes, where the experiment needs only a part
        broken = frames.integrity(database.sql)
    summary = experiment.summarize(frame, params, stored["profile"], identity)
    summary.limitations.extend(f"The database is not sound: {line}." for line in broken)
    for table in summary.tables:
        rows = pd.DataFrame(table.rows, columns=table.columns)
        write_atomic(folder / f"{table.name}.csv", requests_csv.text(rows))
    _write_plots(folder, experiment.draw(frame, summary, params))
    for name, content in experiment.exports(frame, params, stored, identity).items():
        write_atomic(folder / name, content)
    write_json(folder / SUMMARY, summary.as_json())
    return summary


def draw_plots(folder: Path, experiment: Reporter, summary: Summary) -> None:
    """Draw the plots of a summary out of the database."""
    params = experiment.Params.check(stored_experiment(folder)["params"])
    with Database(folder / DATABASE) as database:
        frame = experiment.load(database.sql, frames.requests(database.sql), params)
    _write_plots(folder, experiment.draw(frame, summary, params))


def _write_plots(folder: Path, figures: Mapping[str, Any]) -> None:
    from kvlab.report.figures import png  # with matplotlib, only where pictures are drawn

    (folder / "plots").mkdir(exist_ok=True)
    for name, figure in figures.items():
        write_atomic(folder / "plots" / f"{name}.png", png(figure))


def missing_plots(folder: Path, summary: Summary) -> list[str]:
    """Return the files of a summary's figures that are not there."""
    names = [f"{figure.name}.png" for figure in summary.figures]
    return [name for name in names if not (folder / "plots" / name).is_file()]


def write_reports(folder: Path, title: str, summary: Summary) -> None:
    """Write report.md and report.html of a summary whose plots are there."""
    stored, identity = stored_experiment(folder), identity_of(folder)
    names = [figure.name for figure in summary.figures]
    plots = {name: folder / "plots" / f"{name}.png" for name in names}
    pictures = {name: path.read_bytes() for name, path in plots.items() if path.is_file()}
    text = render.markdown(title, summary, stored, identity)
    write_atomic(folder / "report.md", text)
    write_atomic(folder / "report.html", render.html(title, text, pictures))
