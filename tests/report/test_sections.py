"""The order of a report: what is said first, why, the numbers, the evidence, how it was measured."""

from kvlab.brief import Brief, KeyFigure
from kvlab.findings import Check, Section, StoredFigure, StoredTable, Summary
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
    figures = [StoredFigure(name=name, title=f"Figure {name}", caption="c") for name in ("c", "d")]
    return Summary(**{**facts, "tables": tables, "figures": figures, **changes})


def headings(made):
    lines = render.markdown("T", made, STORED, None).splitlines()
    return [line for line in lines if line.startswith("#")][1:-3]


def test_numbers_come_before_evidence_and_both_after_why():
    tables = [
        StoredTable(name="a", title="Table a", columns=["c"], rows=[[1]], evidence=True),
        StoredTable(name="b", title="Table b", columns=["c"], rows=[[1]]),
    ]
    assert headings(summary(tables=tables)) == [
        "## Why this verdict", "## Numbers", "### Table b", "## Evidence", "### Figure c", "### Figure d", "### Table a",
    ]  # fmt: skip


def test_the_picture_that_matters_is_shown_once_and_first():
    brief = Brief(sentence="s", figure=KeyFigure(value="1 ms", label="l"), picture="d")
    section = Section(title="First", figures=["d", "c"])
    found = headings(summary(brief=brief, sections=[section]))
    assert found[:4] == ["## Figure d", "## Why this verdict", "## Numbers", "### Table a"]
    assert found.count("## Figure d") + found.count("### Figure d") == 1


def test_sections_order_the_report_and_lose_nothing():
    section = Section(title="First", paragraphs=["Why."], tables=["b"], figures=["d"])
    made = summary(sections=[section])
    text = render.markdown("T", made, STORED, None)
    assert headings(made) == [
        "## Why this verdict", "## Numbers", "### Table a", "## First", "### Figure d", "### Table b", "## Evidence",
        "### Figure c",
    ]  # fmt: skip
    assert text.index("Why.") < text.index("Figure d")
    assert "sections" not in made.as_json()


def test_what_is_empty_is_left_out():
    empty = StoredTable(name="a", title="Table a", columns=["c"], rows=[])
    made = summary(tables=[empty], figures=[], sections=[Section(title="Nothing", tables=["a"])])
    text = render.markdown("T", made, STORED, None) + render.html("T", made, STORED, None, {})
    assert "Table a" not in text
    assert "Nothing" not in text
    assert "Evidence" not in text


def test_a_check_is_said_once_and_the_reasons_do_not_repeat_it():
    checks = [Check(name="one", asks="asks this", seen="saw that", passed=False, advice="do it")]
    made = summary(checks=checks, verdict="FAIL", reasons=[checks[0].broken, "a further one"], next=["Do it"])
    for text in (render.markdown("T", made, STORED, None), render.html("T", made, STORED, None, {})):
        assert text.count("asks this") == 1
        assert text.count("saw that") == 1
        assert text.count("a further one") == 1
        assert text.count("Do it") == 1


def test_the_check_in_the_way_stands_first():
    checks = [
        Check(name="fine", asks="a", seen="b", passed=True),
        Check(name="a_note", asks="a", seen="b", passed=False, role="note"),
        Check(name="broken", asks="a", seen="b", passed=False),
    ]
    text = render.markdown("T", summary(checks=checks, verdict="FAIL"), STORED, None)
    assert text.index("Broken") < text.index("Fine") < text.index("A note")
