"""A stored run, for reading: its requests, its findings, and the origin of each number."""

import importlib
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from kvlab import experiments, misses, paths
from kvlab.conclude import conclude
from kvlab.errors import InputError
from kvlab.findings import Findings, Summary, plain
from kvlab.laws.causes import Cause
from kvlab.report.headers import readable
from kvlab.runs.data import RunData
from kvlab.runs.find import run_folder
from kvlab.store import frames
from kvlab.store.connect import FILE_NAME as DATABASE
from kvlab.store.connect import reading

if TYPE_CHECKING:
    import pandas as pd

    from kvlab.report.shown import Shown

_IDENTIFIERS = frozenset({"request_id", "trial_id", "sent_utc", "session_id", "attempt"})


@dataclass(frozen=True)
class Origin:
    """Where a number comes from.

    Attributes:
        name: The column of a table, or the name of a result.
        place: The table's name, or ``results`` (of ``summary.json``).
        function: The function that makes the table, as ``module.function``.
        file: The file and line of that function.
        request_columns: Columns of ``requests.csv`` that it depends on. Each was found by experiment: that
            column alone was changed, and the number changed. Columns that made no difference are not listed.
        stored_as: For each of these columns, its place in the database, or how it is derived.
    """

    name: str
    place: str
    function: str
    file: str
    request_columns: tuple[str, ...]
    stored_as: dict[str, str]

    def __repr__(self) -> str:
        lines = [f"{self.name} ({self.place})", f"  made by {self.function} ({self.file})"]
        lines += [f"  from {name}: {self.stored_as[name]}" for name in self.request_columns]
        return "\n".join(lines)


class LoadedRun:
    """A run folder that is open for reading.

    Attributes:
        data: Its database.
        experiment: The experiment that it is a run of.
        params: Its checked parameters.
    """

    def __init__(self, data: RunData) -> None:
        self.data = data
        self.experiment = experiments.get(str(data.stored["name"]))
        self.params = self.experiment.Params.check(data.stored["params"])
        self._findings: Findings | None = None

    @classmethod
    def of(cls, folder: str | Path) -> Self:
        """Open a run by its folder, or by its id as ``kvlab ls`` prints it.

        Raises:
            InputError: There is no run, or its database is damaged.
        """
        path = run_folder(folder)
        with reading(path / DATABASE):
            return cls(RunData.open(path))

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.data.folder

    @property
    def requests(self) -> "pd.DataFrame":
        """Every measured request, one per row; `kvlab.store.frames.requests` lists the columns and units."""
        with reading(self.data.database.path):
            return self.data.requests

    @property
    def findings(self) -> Findings:
        """The checks, results, tables and pictures, computed from the stored data.

        Raises:
            InputError: The database is damaged.
        """
        if self._findings is None:
            with reading(self.data.database.path):
                self._findings = conclude(self.experiment, self.data, self.params)
        return self._findings

    @property
    def summary(self) -> Summary:
        """The content of ``summary.json``: the verdict with its reasons, checks and results."""
        return self.findings.summary(self.experiment.name, self.data.profile).written_in(self.folder)

    def table(self, name: str) -> "Shown":
        """Return a table of the findings, with the column headers of the report.

        Raises:
            KeyError: This run has no such table; the message names those that it has.
        """
        return readable(self.findings.table(name))

    def __repr__(self) -> str:
        summary = self.summary
        return f"<{summary.experiment} {self.data.stored['experiment_id']}: {summary.verdict}: {summary.headline}>"

    def _repr_html_(self) -> str:
        return self.summary._repr_html_()

    def why(self, request_a: str, request_b: str) -> Cause:
        """Return why ``request_b`` read no more from the cache, though ``request_a`` was sent before it.

        Raises:
            InputError: The run has no such requests, or not in this order.
        """
        with reading(self.data.database.path):
            return misses.why(self.data, request_a, request_b, self.findings)

    def where(self, name: str) -> Origin:
        """Return where a number comes from: the function that makes it, and the stored columns that it depends on.

        The findings are computed once for each request column, so this takes a few seconds.

        Args:
            name: A column of a table (as in its .csv file), or a result of ``summary.json``.

        Raises:
            InputError: No table has such a column, and no result has that name.
        """
        place, function = self._place(name)
        before = _values(self.findings, place, name)
        found = tuple(
            column for column, changed in self._changed_requests() if _values(changed, place, name) != before
        )
        module, _, rest = function.rpartition(".")
        return Origin(
            name, place, function, _file_of(module, rest), found, {c: frames.stored_as(c) for c in found}
        )

    def _place(self, name: str) -> tuple[str, str]:
        for table in self.findings.tables:
            if name in table.stored().columns:
                return table.name, table.made_by
        if name in self.findings.results:
            return "results", f"kvlab.experiments.{self.experiment.name}.findings.findings"
        known = sorted({c for table in self.findings.tables for c in table.stored().columns})
        raise InputError("where", name, f"is neither a column nor a result; columns: {', '.join(known)}")

    def _changed_requests(self) -> Iterator[tuple[str, Findings | None]]:
        """Yield each request column with the findings of a run in which only that column is changed."""
        requests = self.data.requests
        for column in requests.columns:
            if column in _IDENTIFIERS or requests[column].isna().all():
                continue
            other = RunData(self.data.database, identity=self.data.identity, stored=self.data.stored)
            other.replace_requests(_disturbed(requests, column))
            try:
                yield column, self.experiment.findings(other, self.params)
            except (ValueError, KeyError, TypeError, ZeroDivisionError, IndexError):
                yield column, None  # without it there are no findings at all: the number depends on it


def _disturbed(requests: "pd.DataFrame", column: str) -> "pd.DataFrame":
    """Return the requests with one column changed: numbers by a different factor in each row, others shuffled."""
    import pandas as pd

    draw = np.random.default_rng(1337)
    frame, values = requests.copy(), requests[column]
    if pd.api.types.is_bool_dtype(values):
        frame[column] = draw.permutation(~values.to_numpy()) if values.nunique() > 1 else ~values
    elif pd.api.types.is_numeric_dtype(values):
        factors = draw.uniform(1.2, 2.0, len(values))
        changed = values.astype("Float64") * factors
        whole = pd.api.types.is_integer_dtype(values)
        frame[column] = changed.round().astype(values.dtype) if whole else changed.astype(values.dtype)
    else:
        frame[column] = draw.permutation(values.to_numpy()[::-1])
    return frame


def _values(found: Findings | None, place: str, name: str) -> Any:  # noqa: ANN401 - a number or a column
    if found is None:
        return None
    if place == "results":
        return plain(found.results.get(name))
    try:
        table = found.table(place).stored()
    except KeyError:
        return None
    return [row[table.columns.index(name)] for row in table.rows] if name in table.columns else None


def _file_of(module: str, function: str) -> str:
    try:
        loaded = importlib.import_module(module)
        path = Path(inspect.getsourcefile(loaded) or "")
        line = inspect.getsourcelines(getattr(loaded, function))[1] if function else 1
    except (ImportError, AttributeError, OSError, TypeError, ValueError):
        return module
    return f"{path.name if not path.is_relative_to(paths.home()) else path.relative_to(paths.home())}:{line}"
