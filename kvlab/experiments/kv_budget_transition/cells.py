"""Cells of the report's tables."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from kvlab.findings import Table

#: Columns that hold budgets, which are names: 0.8125 must not be shown as 0.812.
_BUDGETS = ("budget", "from_budget", "to_budget", "transition_budget", "good_down_to", "falls_at_and_below")


def clean(value: Any) -> Any:  # noqa: ANN401 - a cell
    """Return a cell with NaN as ``None``, floats with 6 significant digits."""
    if isinstance(value, (list, tuple)):
        return [clean(item) for item in value]
    if value is None or pd.isna(value):
        return None
    if hasattr(value, "item"):
        value = value.item()
    return float(f"{value:.6g}") if isinstance(value, float) else value


def table(name: str, title: str, columns: list[str], rows: list[list[Any]], note: str = "") -> Table:
    """Return a table with clean cells, its budgets as names."""
    cells = [
        [
            budget_name(cell) if column in _BUDGETS and cell is not None else cell
            for column, cell in zip(columns, row, strict=True)
        ]
        for row in map(clean, rows)
    ]
    return Table(name=name, title=title, columns=columns, rows=cells, note=note)


def named(shown: Table, tokens: Mapping[float, int]) -> Table:
    """Return a table in which a number of entries is called so, and not by its place among the fractions."""
    names = {budget_name(share): f"{number} tokens" for share, number in tokens.items()}
    if not names:
        return shown
    rows = [
        [
            names.get(cell, cell) if column in _BUDGETS else cell
            for column, cell in zip(shown.columns, row, strict=True)
        ]
        for row in shown.rows
    ]
    return shown.model_copy(
        update={"columns": [names.get(name, name) for name in shown.columns], "rows": rows}
    )


def budget_name(budget: float | None) -> str:
    """Return what a budget is called."""
    return "–" if budget is None else f"{budget:g}"
