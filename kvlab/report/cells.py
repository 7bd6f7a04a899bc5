"""A table's cells as people read them: one form of number a column, a dash for a missing value."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kvlab.findings import StoredTable
from kvlab.report.headers import headers

MISSING = "–"
#: So many decimals are shown, at most, where the largest number of a column is at least so large.
_DECIMALS = ((1000.0, 0), (10.0, 1), (1.0 + 1e-9, 2), (0.0, 4))
#: Columns whose numbers are names, and get no thousands separator.
_NAMES = ("seed", "port", "pid")


@dataclass(frozen=True)
class Cell:
    """One cell: its text, and what it is sorted by."""

    text: str
    key: str


@dataclass(frozen=True)
class Column:
    """What stands above a column, its name in the CSV, and whether it holds numbers: those stand to the right."""

    header: str
    name: str
    numeric: bool


def columns(table: StoredTable) -> list[Column]:
    """Return a table's columns."""
    values = zip(*table.rows, strict=True) if table.rows else [()] * len(table.columns)
    return [
        Column(header, name, is_numeric(cells) or all(value is None for value in cells))
        for header, name, cells in zip(headers(table), table.columns, values, strict=True)
    ]


def rows(table: StoredTable) -> list[list[Cell]]:
    """Return a table's rows."""
    values = zip(*table.rows, strict=True) if table.rows else ()
    made = [texts(name, cells) for name, cells in zip(table.columns, values, strict=bool(table.rows))]
    return [
        [Cell(text, _key(value)) for text, value in zip(line, row, strict=True)]
        for line, row in zip(zip(*made, strict=True), table.rows, strict=True)
    ]


def is_numeric(values: Sequence[Any]) -> bool:
    """Whether there are numbers, and nothing else."""
    known = [value for value in values if value is not None]
    return bool(known) and all(_is_number(value) for value in known)


def texts(name: str, values: Sequence[Any]) -> list[str]:
    """Return the cells of one column as text; its numbers have the same decimals, but none is shown as 0 that is not."""
    if name.rpartition("_")[2] in _NAMES:
        return [MISSING if value is None else str(value) for value in values]
    numbers = [float(value) for value in values if _is_number(value)]
    decimals = _decimals(numbers) if is_numeric(values) else None
    return [text(value, decimals) for value in values]


def text(value: Any, decimals: int | None = None) -> str:  # noqa: ANN401 - a table's cell
    """Return one value as text; of a number without its column, the decimals follow from its size."""
    if value is None:
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not _is_number(value):
        return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else str(value)
    places = _decimals([float(value)]) if decimals is None else decimals
    if (
        value
        and abs(round(value, places)) < 10 ** (1 - places)
        and abs(value) < 1
        and value != round(value, places)
    ):
        return f"{value:.2g}"
    return f"{value:,.{places}f}"


def _decimals(numbers: Sequence[float]) -> int:
    largest = max(map(abs, numbers), default=0.0)
    most = next(places for least, places in _DECIMALS if largest >= least)
    return next((n for n in range(most) if all(round(v, n) == v for v in numbers)), most)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _key(value: object) -> str:
    return "" if value is None else str(value)
