"""Every experiment in every state: what a stranger sees first, and what no report may show."""

import re
from html.parser import HTMLParser
from urllib.parse import urlsplit

import pytest

from kvlab.report import figures
from tests.report import states

#: In a table of numbers, what says that somebody forgot to say it in words.
RAW = re.compile(r"^(nan|NaN|None|null|-?inf|\d{4,}\.0)$")  # "none" is a word of the tables


class Page(HTMLParser):
    """What stands in a report: texts by class of their element, cells, links."""

    def __init__(self, text):
        super().__init__()
        self.open, self.texts, self.cells, self.targets, self.heads = [], {}, [], [], 0
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.targets += [attrs[name] for name in ("href", "src") if name in attrs]
        if tag in ("br", "meta", "img"):
            return
        self.open.append((tag, (attrs.get("class") or "").split()))
        if tag == "td":
            self.cells.append("")
        self.heads += tag == "th" and "number" in (attrs.get("class") or "")

    def handle_endtag(self, tag):
        while self.open and self.open.pop()[0] != tag:
            pass

    def handle_data(self, data):
        for tag, classes in self.open:
            for name in (tag, *classes):
                self.texts[name] = self.texts.get(name, "") + data
            if tag == "td":
                self.cells[-1] += data


@pytest.mark.parametrize(("name", "state"), states.cases(), ids=["-".join(case) for case in states.cases()])
def test_a_report_in_every_state(name, state, tmp_path, monkeypatch):
    """One test a state, as its report is made once: what is said, what is not, what it links to."""
    monkeypatch.setattr(figures, "png", lambda figure: b"\x89PNG")  # the page shows the SVG
    folder, summary = states.reported(name, state, tmp_path / f"{state}_{name}")
    report = folder, summary, (folder / "report.html").read_text(), (folder / "report.md").read_text()
    says_first_what_came_out_and_what_to_do(report)
    makes_nothing_better_than_it_is(report)
    repeats_nothing_and_shows_nothing_empty(report)
    loads_nothing_and_links_to_what_is_there(report)
    has_every_column_and_sorts(report)


def says_first_what_came_out_and_what_to_do(report):
    _, summary, html, text = report
    page = Page(html)
    first = summary.first
    assert page.texts["badge"].strip() == summary.verdict
    assert len(page.texts["verdict"].split()) > 3, "a badge with words"
    assert page.texts["sentence"].strip().endswith(".")
    assert len(page.texts["sentence"].split()) <= 40
    assert first.figure.value in page.texts["key"]
    assert re.search(r"\d", first.figure.value)
    assert summary.next
    for step in summary.next:
        assert step.replace("`", "")[:40] in page.texts["next"]
        assert step[:40] in text
    assert html.index("sentence") < html.index("Why this verdict") < html.index("How it was measured")
    main = [figure for figure in summary.figures if figure.name == first.picture]
    assert len(main) == (first.picture in {figure.name for figure in summary.figures})


def makes_nothing_better_than_it_is(report):
    folder, summary, _, _ = report
    state = folder.name.partition("_")[0]
    if state in ("empty", "fail"):
        assert summary.verdict == {"empty": "INVALID", "fail": "FAIL"}[state]
    if summary.verdict != "PASS":
        assert re.match(
            r"No |Not |Nothing |The cache saves too little|What this server|A prefix .* does not",
            summary.first.sentence,
        )


def repeats_nothing_and_shows_nothing_empty(report):
    _, summary, html, text = report
    for check in summary.checks:
        for line in (f"{check.title}</b>: ", f"| {check.title} |"):
            assert (html + text).count(line) == 1, check.title
    assert "<tbody>\n</tbody>" not in html
    assert html.count('class="plot"') == len(summary.figures)
    assert not [item for item in summary.figures if item.caption == ""]
    page = Page(html)
    assert not [cell for cell in page.cells if RAW.match(cell.strip())]


def loads_nothing_and_links_to_what_is_there(report):
    folder, _, html, _ = report
    for target in Page(html).targets:
        if target.startswith("data:image/png;base64,"):
            continue  # pixels inside of a figure: a colour scale, a map of right and wrong
        parts = urlsplit(target)
        assert not parts.scheme, target
        assert not parts.netloc, target
        if parts.path and parts.path not in ("../index.html", "notebook.ipynb"):
            assert (folder / parts.path).is_file(), target
        if parts.fragment and not parts.path:
            assert f'id="{parts.fragment}"' in html, target


def has_every_column_and_sorts(report):
    _, summary, html, _ = report
    tables = re.findall(r'<table class="data">.*?</table>', html, re.DOTALL)
    shown = [table for table in summary.tables if table.rows]
    assert len(tables) == len(shown)
    assert sum(table.count("<th ") for table in tables) == sum(len(table.columns) for table in shown)
    assert sum(table.count('<button type="button">') for table in tables) == sum(
        len(t.columns) for t in shown
    )
    assert sum(table.count("data-key=") for table in tables) == sum(
        len(t.rows) * len(t.columns) for t in shown
    )
    assert "overflow: visible" in html.partition("@media print")[2], "a table is not cut on paper"


def test_advice_names_what_to_set():
    """What is next follows from what stands in the way, not from the verdict."""
    from pathlib import Path
    from tempfile import TemporaryDirectory

    found = {}
    with TemporaryDirectory() as folder:
        for state in ("measured", "empty", "unproven", "fail"):
            found[state] = states.reported("token_sweep", state, Path(folder) / state)[1].next
    assert "--enable-prompt-tokens-details" in found["unproven"][0]
    assert "kvlab doctor" in found["empty"][0]
    assert "kvlab run" in found["measured"][0]
    assert "token_targets" in found["fail"][0]
    assert len({tuple(steps) for steps in found.values()}) == 4
