"""A summary as Markdown, and as one HTML file that needs nothing else: no network, no script but its own."""

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from kvlab import escape
from kvlab.endpoints.connect import Identity
from kvlab.findings import Check, StoredFigure, StoredTable, Summary, in_the_way
from kvlab.report import badge, cells, svg

if TYPE_CHECKING:
    import jinja2

#: Tables with more rows than this are folded.
FOLDED_FROM = 30
#: Tables with so many columns are printed across the page.
WIDE_FROM = 9


def environment() -> "jinja2.Environment":
    """Return the templates of this package; undefined names are errors."""
    import jinja2  # a tenth of a second, which a command that renders nothing need not wait

    env = jinja2.Environment(
        loader=jinja2.PackageLoader("kvlab.report"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=jinja2.select_autoescape(["html.jinja"]),
    )
    env.filters |= {
        "cell": cell,
        "prose": escape.markdown_prose,
        "code": escape.markdown_code,
        "alt": escape.markdown_alt,
        "inline": inline,
        "text": cells.text,
        "line": escape.line,
        "href": quote,
        "json": _json,
        "columns": cells.columns,
        "rows": cells.rows,
        "alignment": _alignment,
        "slug": slug,
        "where": where,
    }
    env.globals |= {"folded_from": FOLDED_FROM, "wide_from": WIDE_FROM, "words": badge.WORDS}
    return env


def cell(value: Any) -> str:  # noqa: ANN401 - a table's cell
    """Return a cell of a Markdown table: its text (`cells`), and no Markdown of the value's own."""
    return escape.markdown(cells.text(value))


def inline(text: object) -> Any:  # noqa: ANN401 - markupsafe's
    """Return a sentence as HTML: its code and emphasis count; what loads, links or is HTML is shown as it is."""
    from markdown_it import MarkdownIt  # as above
    from markupsafe import Markup

    parser = MarkdownIt("commonmark", {"html": False}).disable(["link", "image", "autolink", "entity"])
    return Markup(parser.renderInline(escape.markdown_prose(text)))  # noqa: S704 - the parser escapes


def slug(text: object) -> str:
    """Return a heading's anchor."""
    return re.sub(r"[^a-z0-9]+", "-", str(text).lower()).strip("-") or "part"


def where(table: StoredTable) -> str:
    """Return the column of a table whose origin is worth asking for: its first that is measured, not chosen."""
    units = ("_ms", "_s", "_pct", "_bytes", "_mib", "_per_s")
    measured = [column.name for column in cells.columns(table) if column.name.endswith(units)]
    numbers = [column.name for column in cells.columns(table) if column.numeric]
    return (measured or numbers[-1:] or table.columns[-1:])[0]


def _alignment(table: StoredTable) -> str:
    """Return the second line of a Markdown table: columns of numbers stand to the right."""
    return "".join("---:|" if column.numeric else "---|" for column in cells.columns(table))


def _json(value: Any) -> str:  # noqa: ANN401 - JSON
    """Return a setting as JSON, as Jinja's own filter does not: that escapes for HTML. A whole number has no decimals."""
    return (
        "not set"
        if value is None
        else json.dumps(_whole(value), sort_keys=True, ensure_ascii=False, default=str)
    )


def _whole(value: Any) -> Any:  # noqa: ANN401 - JSON
    if isinstance(value, Mapping):
        return {str(key): _whole(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_whole(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def content_policy(script: str, *, images: str = "data:") -> str:
    """Return a page's Content-Security-Policy: nothing is loaded, and only this script runs."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"default-src 'none'; img-src {images}; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"


@cache
def script(name: str) -> str:
    """Return one of the package's scripts, as it stands between its tags."""
    return resources.files("kvlab.report").joinpath("templates", name).read_text(encoding="utf-8")


def _content(
    title: str, summary: Summary, stored: Mapping[str, Any], identity: Identity | None
) -> dict[str, Any]:
    """Return what both formats show, in their order."""
    placed = {name for section in summary.sections for name in (*section.figures, *section.tables)}
    main = next((f for f in summary.figures if f.name == summary.first.picture), None)
    figures = [figure for figure in summary.figures if figure is not main]
    tables = [table for table in summary.tables if table.rows]
    known = {figure.name for figure in figures} | {table.name for table in tables}
    sections = [
        section
        for section in summary.sections
        if section.paragraphs or known.intersection((*section.figures, *section.tables))
    ]
    loose: list[StoredTable] = [table for table in tables if table.name not in placed]
    free: list[StoredFigure] = [figure for figure in figures if figure.name not in placed]
    return {
        "title": title,
        "summary": summary,
        "first": summary.first,
        "next": badge.next_steps(summary),
        "checks": _ordered(summary.checks),
        "main": main,
        "figures": {figure.name: figure for figure in figures},
        "tables": {table.name: table for table in tables},
        "sections": sections,
        "numbers": [table for table in loose if not table.evidence],
        "evidence": [table for table in loose if table.evidence],
        "evidence_figures": free,
        "stored": stored,
        "identity": identity,
    }


def _ordered(checks: Sequence[Check]) -> list[Check]:
    """Return the checks with those first that stand in the way, and the notes last."""
    blocking = in_the_way(checks)[1]
    return sorted(checks, key=lambda check: 0 if check in blocking else 2 if check.role == "note" else 1)


def markdown(title: str, summary: Summary, stored: Mapping[str, Any], identity: Identity | None) -> str:
    """Return ``report.md``."""
    template = environment().get_template("report.md.jinja")
    return template.render(**_content(title, summary, stored, identity))


def html(
    title: str,
    summary: Summary,
    stored: Mapping[str, Any],
    identity: Identity | None,
    pictures: Mapping[str, bytes],
) -> str:
    """Return ``report.html``.

    Args:
        title: The experiment's.
        summary: What is said.
        stored: The run as the database holds it.
        identity: What answered.
        pictures: SVG or PNG by figure; one that is neither is left out.
    """
    from markupsafe import Markup

    titles = {figure.name: figure.title for figure in summary.figures}
    drawn = {name: _drawn(data, name, titles.get(name, name)) for name, data in pictures.items()}
    sort = script("report.js")
    template = environment().get_template("page.html.jinja")
    return template.render(
        **_content(title, summary, stored, identity),
        drawn={name: Markup(made) for name, made in drawn.items() if made},  # noqa: S704 - `svg.inline` made it
        script=Markup(sort),  # noqa: S704 - the package's own
        policy=content_policy(sort),
    )


def of_markdown(title: str, text: str, pictures: Mapping[str, bytes]) -> str:
    """Return a page of Markdown that kvlab has written, with its own PNG pictures inside."""
    from markdown_it import MarkdownIt  # as above

    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = parser.parse(text)
    for token in (inner for outer in tokens for inner in outer.children or ()):
        if token.type == "image":
            data = pictures.get(PurePosixPath(unquote(str(token.attrs.get("src", "")))).stem)
            # The page's own picture, inside of it; of any other, nothing is loaded from anywhere.
            token.attrs["src"] = (
                "" if data is None else "data:image/png;base64," + base64.b64encode(data).decode()
            )
    body = parser.renderer.render(tokens, parser.options, {})
    return environment().get_template("markdown.html.jinja").render(title=title, body=body)


def _drawn(data: bytes, name: str, title: str) -> str | None:
    """Return a figure for the inside of the page."""
    if data.startswith(b"\x89PNG"):
        source = base64.b64encode(data).decode()
        return f'<img src="data:image/png;base64,{source}" alt="{escape.html(escape.line(title))}">'
    return svg.inline(data, slug(name), escape.line(title))
