"""A report shows what a server calls itself, and neither loads nor runs it."""

import base64
import hashlib
import re
from html.parser import HTMLParser
from urllib.parse import urlsplit

import pytest

from kvlab import escape
from kvlab.endpoints.connect import Fact, Identity
from kvlab.findings import Check, Section, StoredFigure, StoredTable, Summary, Verdict
from kvlab.report import build, figures, render, svg

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

#: What the page and its figures are made of.
ALLOWED = {
    "html", "head", "meta", "title", "style", "body", "main", "header", "p", "a", "h1", "h2", "h3", "div", "strong", "b", "span",
    "small", "ul", "li", "figure", "figcaption", "nav", "section", "details", "summary", "table", "thead", "tbody", "tr", "th",
    "td", "button", "code", "br", "script", "em", "svg", "g", "defs", "path", "use", "clippath", "rect", "image",
}  # fmt: skip


class Document(HTMLParser):
    """The tags of a page, each with its attributes."""

    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))


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
    return text, render.html("A title", summary, stored, identity, {"f": drawn(evil)})


def drawn(evil):
    """Return a real figure with the text in it, as a run stores it."""
    figure, axes = figures.new(escape.line(evil), escape.line(evil), "y")
    axes.plot([1, 2], [3, 4], label=escape.line(evil))
    axes.axvspan(1, 1.5, alpha=0.2)
    return figures.svg(figure)


@pytest.mark.parametrize("evil", EVIL)
def test_nothing_from_outside_is_loaded_or_linked(evil):
    text, html = page(evil)
    document = Document(html)
    assert {tag for tag, _ in document.tags} <= ALLOWED
    for tag, attributes in document.tags:
        assert not [name for name in attributes if name.startswith("on")], attributes
        for name in ("src", "href"):
            target = attributes.get(name)
            if target is not None:
                assert not urlsplit(target).scheme, (tag, target)
                assert not urlsplit(target).netloc, (tag, target)
    assert [tag for tag, _ in document.tags].count("h1") == 1
    assert [tag for tag, _ in document.tags].count("script") == 1
    policies = [attributes["content"] for tag, attributes in document.tags if "http-equiv" in attributes]
    assert [policy.startswith("default-src 'none'; img-src data:; ") for policy in policies] == [True]
    assert not re.search(r"[\x00\x1b\u202e]", text + html)


def test_the_script_of_the_page_is_the_one_that_the_policy_names():
    _, html = page("fine")
    body = re.search(r"<script>(.*?)</script>", html, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
    policy = next(found["content"] for _, found in Document(html).tags if "http-equiv" in found)
    assert policy.endswith(f"style-src 'unsafe-inline'; script-src 'sha256-{digest}'")


HOSTILE = [
    b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script><g onclick='x()'/></svg>",
    b"<svg xmlns='http://www.w3.org/2000/svg'><foreignObject><img src='http://evil/p.png'/></foreignObject></svg>",
    b"<svg xmlns='http://www.w3.org/2000/svg' xmlns:xlink='http://www.w3.org/1999/xlink'><image xlink:href='http://evil/p.png'/>"
    b"<use xlink:href='http://evil/a.svg#b'/><path style='fill: url(http://evil/x)' d='M 0 0'/></svg>",
    b"<svg xmlns='http://www.w3.org/2000/svg'><style>@import url(http://evil/a.css);</style><a href='http://evil'/></svg>",
    b"<!DOCTYPE svg [<!ENTITY a 'aaaa'>]><svg xmlns='http://www.w3.org/2000/svg'>&a;</svg>",
    b"<html><script>alert(1)</script></html>", b"not at all", b"", b"<svg",
]  # fmt: skip


@pytest.mark.parametrize("source", HOSTILE)
def test_a_figure_of_a_strangers_folder_only_draws(source):
    made = svg.inline(source, "f", "t") or ""
    assert "evil" not in made
    assert not re.search(r"script|onclick|foreignObject|@import|<a ", made)


def test_ids_of_two_figures_on_a_page_are_not_shared():
    first, second = (svg.inline(drawn("x"), name, name) for name in ("one", "two"))
    ids = [set(re.findall(r'id="([^"]+)"', made)) for made in (first, second)]
    assert ids[0]
    assert not ids[0] & ids[1]
    for made, own in ((first, ids[0]), (second, ids[1])):
        assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', made)) <= own


def test_a_figure_takes_the_ink_of_the_page():
    made = svg.inline(drawn("x"), "f", "t")
    assert "currentColor" in made
    assert "#ffffff" not in made, "nor has it a ground of its own"
    assert "#000000" not in made
    assert figures.INK not in made


def test_a_figure_too_large_for_a_page_is_shown_by_its_pixels(tmp_path):
    (tmp_path / "f.svg").write_bytes(b" " * (svg.MOST_BYTES + 1))
    (tmp_path / "f.png").write_bytes(b"\x89PNG")
    assert build._drawn(tmp_path / "f") == b"\x89PNG"


def test_a_picture_that_is_none_of_the_pages_is_not_loaded():
    html = render.of_markdown(
        "t",
        "![a](http://evil/f.png) ![b](plots/none.png) ![c](plots/f.png) ![d](//evil/f.png)",
        {"f": b"PNG"},
    )
    assert set(re.findall(r'src="([^"]*)"', html)) == {"", "data:image/png;base64,UE5H"}
