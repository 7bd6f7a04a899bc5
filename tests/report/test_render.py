"""A report shows what a server calls itself, and neither loads nor runs it."""

import re

import pytest

from kvlab.endpoints.connect import Fact, Identity
from kvlab.findings import Check, Section, StoredFigure, StoredTable, Summary, Verdict
from kvlab.report import render

EVIL = [
    "1 ![px](http://127.0.0.1:9/pixel.png)", "<img src=http://evil/p.png>", "[a](http://evil)", "![a][b]\n\n[b]: http://evil/p.png", "`<script>`|x",
    "a\n\n# heading\n\n<script>alert(1)</script>", "](http://evil) ![", "\x1b[31m\u202e\x00",
]  # fmt: skip
STORED = {
    "experiment_id": "e",
    "profile": "p",
    "created_utc": "now",
    "isolation_id": "i",
    "contract": {},
    "params": {},
    "sources": {},
}


def page(evil):
    summary = Summary(
        experiment="x", profile=evil, verdict=Verdict.PASS, headline=f"fine {evil}", reasons=[evil], results={},
        checks=[Check(name=evil, asks=evil, seen=evil, passed=True)], limitations=[evil],
        tables=[StoredTable(name="t", title=evil, columns=["a", evil], rows=[[evil, 1.0], [None, evil]], note=evil)],
        figures=[StoredFigure(name="f", title=evil, caption=evil)], sections=[Section(title=evil, paragraphs=[evil])],
    )  # fmt: skip
    identity = Identity(
        kind="vLLM",
        version=evil,
        url=evil,
        model=evil,
        revision=evil,
        facts={"metrics": Fact(holds=True, why=evil)},
    )
    stored = {**STORED, **dict.fromkeys(("profile", "isolation_id", "experiment_id"), evil), "contract": {evil: {"a": evil}},
              "params": {"x": evil}, "sources": {"x": evil}}  # fmt: skip
    text = render.markdown("A title", summary, stored, identity)
    return text, render.html("A title", text, {"f": b"PNG"})


@pytest.mark.parametrize("evil", EVIL)
def test_nothing_from_outside_is_loaded_or_linked(evil):
    text, html = page(evil)
    assert re.findall(r'<img src="([^"]*)"', html) == ["data:image/png;base64,UE5H"]
    assert "<a " not in html
    assert "<script" not in html
    assert len(re.findall("<h1", html)) == 1
    assert "default-src 'none'" in html
    assert not re.search(r"[\x00\x1b\u202e]", text + html)
    assert len(re.findall(r"<table>", html)) == len(re.findall(r"(?m)^\|---", text))


def test_a_picture_that_is_none_of_the_runs_is_not_loaded():
    html = render.html(
        "t", "![a](http://evil/f.png) ![b](plots/none.png) ![c](plots/f.png) ![d](//evil/f.png)", {}
    )
    assert set(re.findall(r'src="([^"]*)"', html)) == {""}
