import io

import numpy as np
import pandas as pd

from kvlab.store import requests_csv


def odd_frame(count):
    """Every kind of column that a requests frame has, with what is missing at different rows."""
    number = np.arange(count)
    third = number % 3 == 0
    return pd.DataFrame(
        {
            "text": pd.array([f'a"{n},\n' if n % 2 else "é" for n in number], dtype="str"),
            "text_na": pd.Series(["x"] * count, dtype="str").mask(third),
            "none": pd.Series([None] * count, dtype=object),
            "integer": pd.array(number * 10**14, dtype="Int64"),
            "integer_na": pd.Series(number, dtype="Int64").mask(third),
            "plain": number,
            "flag": third,
            "flag_na": pd.Series(third, dtype="boolean").mask(number % 5 == 0),
            "time": pd.array(number * 1.0123456789, dtype="Float64"),
            "time_na": pd.Series(number / 7 * 10.0 ** (number % 19 - 6), dtype="Float64").mask(third),
            "numpy_na": np.where(third, np.nan, number / 1e7),
        }
    )


def test_the_bytes_are_those_of_pandas(monkeypatch):
    frame = odd_frame(100)
    monkeypatch.setattr(requests_csv, "_ROWS", 30)  # several pieces, the last one short
    file = io.BytesIO()
    requests_csv.write(frame, file)
    rounded = {name: frame[name].astype(float).round(6) for name in ("time", "time_na", "numpy_na")}
    assert file.getvalue().decode() == frame.assign(**rounded).to_csv(index=False)
    assert not file.closed


def test_without_requests_there_is_the_header():
    file = io.BytesIO()
    requests_csv.write(odd_frame(0), file)
    assert file.getvalue().decode() == odd_frame(0).to_csv(index=False)
