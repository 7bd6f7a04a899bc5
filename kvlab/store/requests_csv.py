"""``requests.csv`` of hundreds of thousands of rows, in the seconds that a user will wait for it."""

import csv
import io
from typing import Any, BinaryIO

import numpy as np
import pandas as pd

from kvlab.escape import csv_cell

_ROWS = 20_000
_DIGITS = 6  # nanoseconds are six digits of a millisecond


def write(frame: pd.DataFrame, file: BinaryIO) -> None:
    """Write a frame as ``DataFrame.to_csv`` would, floats rounded to nanoseconds: the same bytes in half the time.

    In pieces: as one text it can be a gigabyte.
    """
    text = io.TextIOWrapper(file, encoding="utf-8", newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(csv_cell, frame.columns))
    for start in range(0, len(frame), _ROWS):
        part = frame.iloc[start : start + _ROWS]
        writer.writerows(zip(*(_cells(part[name]) for name in part.columns), strict=True))
    text.flush()
    text.detach()  # the file is the caller's to close


def _cells(column: "pd.Series[Any]") -> list[Any]:
    """Return a column's values as Python's own, an empty text for each that is missing."""
    if column.isna().all():
        return [""] * len(column)
    if pd.api.types.is_float_dtype(column.dtype):
        values = column.to_numpy(dtype=float, na_value=np.nan).round(_DIGITS)
        cells: list[Any] = values.tolist()
        return ["" if cell != cell else cell for cell in cells] if np.isnan(values).any() else cells
    whole = list(column.to_numpy(dtype=object, na_value="").tolist())
    return whole if pd.api.types.is_numeric_dtype(column.dtype) else [csv_cell(cell) for cell in whole]


def text(frame: pd.DataFrame, **options: Any) -> str:  # noqa: ANN401 - of DataFrame.to_csv
    """Return a smaller table as CSV: as ``DataFrame.to_csv`` without the index, no cell of it a formula."""
    safe = {name: column if pd.api.types.is_numeric_dtype(column.dtype) else column.map(csv_cell)
            for name, column in frame.items()}  # fmt: skip
    return str(pd.DataFrame(safe, index=frame.index).rename(columns=csv_cell).to_csv(index=False, **options))
