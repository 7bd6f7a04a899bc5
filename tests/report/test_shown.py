"""Frames in a notebook: whole, with dashes, digits that fit, and nothing that a browser would run."""

import math

import pandas as pd
import pytest

from kvlab.findings import Table
from kvlab.report.headers import readable
from kvlab.report.shown import MOST_ROWS, Shown, texts


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([54129100.0, None], ["54,129,100", "–"]),
        ([54129100, math.nan], ["54,129,100", "–"]),
        ([134.97, 36.765], ["135.0", "36.8"]),
        ([239.317, 6.266], ["239.32", "6.27"]),
        ([0.0123456, 1.0], ["0.0123", "1.0000"]),
        ([0.5, 0.25], ["0.50", "0.25"]),
        ([1e-9, 2.0], ["0.000000001", "2.000000000"]),
        ([math.inf, 1.5], ["inf", "1.5"]),
        ([True, False, None], ["yes", "no", "–"]),
        ([pd.NA, "a"], ["–", "a"]),
        ([[0.5, 1], (), {"a": 1}], ["0.5, 1", "", "{'a': 1}"]),
    ],
)
def test_a_column_as_people_read_it(values, expected):
    assert texts(values) == expected


def test_nothing_is_cut_off_and_nothing_outside_is_markup():
    long = "in at least 80% of the planned trials " * 20
    frame = Shown({"asks": [long, "<img src=x onerror=alert(1)>"], "n": [1, 2]})
    html = frame._repr_html_()
    assert long in html
    assert "…" not in html
    assert "..." not in html
    assert "<img" not in html
    assert long.strip() in repr(frame)
    assert html.count("<tr>") == 3


def test_numbers_stand_to_the_right_and_words_to_the_left():
    html = Shown({"word": ["a"], "number": [1.5]})._repr_html_()
    assert '<td style="text-align:left">a</td><td style="text-align:right">1.5</td>' in html


def test_an_index_of_names_is_a_column_and_one_of_positions_is_none():
    assert "<td" in Shown({"a": [1]}, index=["tokenizer"])._repr_html_()
    assert "tokenizer" in Shown({"a": [1]}, index=["tokenizer"])._repr_html_()
    assert Shown({"a": [7]})._repr_html_().count("<td") == 1
    turned = Shown({"a": [7], "b": [8]}).T
    assert isinstance(turned, Shown)
    assert "b" in repr(turned)


def test_of_many_rows_the_rest_is_counted():
    html = Shown({"n": range(MOST_ROWS + 5)})._repr_html_()
    assert "and 5 more rows" in html
    assert html.count("<tr>") == MOST_ROWS + 1


def test_a_table_of_findings_keeps_whole_numbers_beside_missing_ones():
    table = Table(
        "t",
        "T",
        [{"peak_bytes": 54129100, "why": None}, {"peak_bytes": None, "why": "x"}],
        ("peak_bytes", "why"),
    )
    shown = readable(table)
    assert "54,129,100" in shown._repr_html_()
    assert table._repr_html_() == shown._repr_html_()
    for odd in ("54129100.0", "NaN", "None", "&lt;NA&gt;"):
        assert odd not in shown._repr_html_() + repr(shown)
    assert readable(Table("t", "T", [], ("a", "b"))).empty
