"""Frames as people read them: nothing cut off, a dash where a value is missing, numbers with their digits."""

import math
from collections.abc import Hashable, Sequence
from typing import Any

import pandas as pd

from kvlab.escape import html, terminal

#: A notebook that shows more rows than this is a file, not a page; the whole is in the run folder's CSV.
MOST_ROWS = 200
_MOST_DECIMALS = 12


class Shown(pd.DataFrame):
    """A frame whose display in a notebook or a terminal is complete up to `MOST_ROWS` rows."""

    @property
    def _constructor(self) -> "type[Shown]":
        return Shown

    def _repr_html_(self) -> str:
        names, rows, right = _laid_out(self)
        head = "".join(f'<th style="{_side(r)}">{html(n)}</th>' for n, r in zip(names, right, strict=True))
        body = "".join(
            "<tr>"
            + "".join(f'<td style="{_side(r)}">{html(cell)}</td>' for cell, r in zip(row, right, strict=True))
            + "</tr>"
            for row in rows
        )
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{_left_out(self, '<p>', '</p>')}"

    def __repr__(self) -> str:
        names, rows, right = _laid_out(self)
        lines = [[terminal(cell) for cell in row] for row in (names, *rows)]
        widths = [max(len(row[n]) for row in lines) for n in range(len(names))]
        return "\n".join(
            "  ".join(
                cell.rjust(width) if r else cell.ljust(width)
                for cell, width, r in zip(row, widths, right, strict=True)
            ).rstrip()
            for row in lines
        ) + _left_out(self, "\n")


def _side(right: bool) -> str:
    return f"text-align:{'right' if right else 'left'}"


def _left_out(frame: pd.DataFrame, before: str, after: str = "") -> str:
    more = len(frame) - MOST_ROWS
    return f"{before}and {more:,} more rows{after}" if more > 0 else ""


def _laid_out(frame: pd.DataFrame) -> tuple[list[str], list[list[str]], list[bool]]:
    """Return headers, rows of text, and which columns stand to the right: those of numbers."""
    shown = frame.head(MOST_ROWS)
    columns: list[tuple[str, Sequence[Any]]] = [
        (_name(name), shown.iloc[:, n].tolist()) for n, name in enumerate(shown.columns)
    ]
    if not isinstance(shown.index, pd.RangeIndex):
        levels = [shown.index.get_level_values(n).tolist() for n in range(shown.index.nlevels)]
        columns = [*zip(map(_name, shown.index.names), levels, strict=True), *columns]
    cells = [texts(values) for _, values in columns]
    rows = [list(row) for row in zip(*cells, strict=True)]
    return [name for name, _ in columns], rows, [is_numeric(values) for _, values in columns]


def _name(name: Hashable) -> str:
    return "" if name is None else str(name)


def _is_missing(value: object) -> bool:
    return value is None or (not isinstance(value, list | tuple | dict) and bool(pd.isna(value)))  # type: ignore[call-overload]


def is_numeric(values: Sequence[Any]) -> bool:
    """Whether a column holds numbers only, apart from what is missing."""
    known = [value for value in values if not _is_missing(value)]
    return bool(known) and all(_is_number(value) for value in known)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def texts(values: Sequence[Any]) -> list[str]:
    """Return a column's cells as text: its numbers with the same decimals, three digits of the smallest."""
    floats = [value for value in values if isinstance(value, float) and math.isfinite(value)]
    decimals = max(map(_needed, floats), default=0)
    smallest = min((abs(value) for value in floats if value), default=1.0)
    decimals = min(decimals, max(1, 2 - math.floor(math.log10(smallest))))
    return [_text(value, decimals) for value in values]


def _needed(value: float) -> int:
    """Return how many decimals a number has, as it would be typed."""
    return len(f"{value:.{_MOST_DECIMALS}f}".rstrip("0").partition(".")[2])


def _text(value: Any, decimals: int) -> str:  # noqa: ANN401 - a cell
    if _is_missing(value):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.{decimals}f}"
    if isinstance(value, list | tuple):
        return ", ".join(texts(value))
    return str(value)
