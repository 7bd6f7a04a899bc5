from kvlab.findings import Section, StoredFigure, StoredTable, Summary
from kvlab.report import render

STORED = {"experiment_id": "e", "profile": "p", "created_utc": "t", "isolation_id": "i", "contract": {}, "params": {},
          "sources": {}}  # fmt: skip


def summary(**changes):
    facts = {
        "experiment": "x",
        "profile": "p",
        "verdict": "PASS",
        "headline": "h",
        "reasons": [],
        "checks": [],
        "results": {},
    }
    tables = [StoredTable(name=name, title=f"Table {name}", columns=["c"], rows=[[1]]) for name in ("a", "b")]
    figures = [StoredFigure(name=name, title=f"StoredFigure {name}", caption="c") for name in ("c", "d")]
    return Summary(**{**facts, "tables": tables, "figures": figures, **changes})


def headings(made):
    return [line for line in render.markdown("T", made, STORED, None).splitlines() if line.startswith("#")][
        1:5
    ]


def test_without_sections_figures_come_first():
    assert headings(summary()) == ["## StoredFigure c", "## StoredFigure d", "## Table a", "## Table b"]


def test_sections_order_the_report_and_lose_nothing():
    section = Section(title="First", paragraphs=["Why."], tables=["b"], figures=["d"])
    made = summary(sections=[section])
    text = render.markdown("T", made, STORED, None)
    found = [line for line in text.splitlines() if line.startswith("#")][1:6]
    assert found == ["## First", "### StoredFigure d", "### Table b", "## StoredFigure c", "## Table a"]
    assert text.index("Why.") < text.index("StoredFigure d")
    assert "sections" not in made.as_json()
