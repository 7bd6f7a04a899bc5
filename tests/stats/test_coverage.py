"""The short form of the coverage table: few runs, so that a rate may lie far off; `benchmarks.coverage` has the fine one."""

import pytest

from benchmarks import coverage


@pytest.fixture(scope="module")
def found():
    return coverage.run(40)


def test_what_is_called_95_percent_covers_and_no_verdict_is_wrong_too_often(found):
    assert coverage.broken(found, slack=0.1) == []


def test_every_published_figure_is_in_it_and_names_its_method(found):
    assert {row["figure"] for row in found["intervals"]} == {
        "median of pairs", "mean over cycles", "increase of a mean, paired", "increase of a mean, two groups",
        "mean score over contexts", "middle of the fall", "first loss of a margin", "bytes per token",
        "change of a rate", "saving beyond being second", "time of 170,000 requests", "time of the size held out",
    }  # fmt: skip
    assert all(row["method"] and row["method"] != [""] for row in found["intervals"] if row["given"])
    assert [table.row_count for table in coverage.tables(found)] == [
        len(found["intervals"]),
        len(found["rates"]),
    ]


def test_what_few_values_cannot_show_is_in_the_name(found):
    """Pairs that are alike in time: no interval of seven covers, and none is called "95 %"."""
    worst = [row for row in found["intervals"] if "r = 0.8" in row["world"] and row["n"] == 7]
    assert worst
    assert all(label.startswith("95 % if ") for row in worst for label in row["label"])


def test_a_row_that_does_not_cover_is_named():
    low = {"rate": 0.8, "low": 0.7, "high": 0.88, "n": 100}
    row = {
        "figure": "f",
        "world": "w",
        "n": 9,
        "given": 1.0,
        "covered": low,
        "label": ["95 %"],
        "method": ["m"],
    }
    rate = {
        "claim": "c",
        "world": "w",
        "n": 9,
        "made": {"rate": 0.2, "low": 0.1, "high": 0.3, "n": 99},
        "at_most": 0.025,
    }
    assert len(coverage.broken({"intervals": [row], "rates": [rate]})) == 2
    assert coverage.broken({"intervals": [{**row, "label": ["95 % if so"]}], "rates": []}) == []
