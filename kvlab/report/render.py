"""A summary as Markdown, and that Markdown as one HTML file that needs nothing else."""

import base64
import json
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from kvlab import escape
from kvlab.endpoints.connect import Identity
from kvlab.findings import StoredTable, Summary
from kvlab.report.headers import headers

if TYPE_CHECKING:
    import jinja2


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
        "href": quote,
        "json": _json,
        "headers": headers,
        "alignment": _alignment,
    }
    return env


def cell(value: Any) -> str:  # noqa: ANN401 - a table's cell
    """Return a table cell: a dash for a missing value, and no Markdown of the value's own."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.1f}" if abs(value) >= 10 else f"{value:.3g}"
    return escape.markdown(value)


def _alignment(table: StoredTable) -> str:
    """Return the second line of a Markdown table: columns of numbers stand to the right."""
    columns = range(len(table.columns))
    return "".join("---:|" if _is_numeric(row[n] for row in table.rows) else "---|" for n in columns)


def _is_numeric(values: Iterable[Any]) -> bool:
    known = [value for value in values if value is not None]
    return bool(known) and all(isinstance(v, int | float) and not isinstance(v, bool) for v in known)


def _json(value: Any) -> str:  # noqa: ANN401 - JSON
    """Return JSON as it is stored: the filter of Jinja's own escapes for HTML, which this is not."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)


def markdown(title: str, summary: Summary, stored: Mapping[str, Any], identity: Identity | None) -> str:
    """Return ``report.md``."""
    template = environment().get_template("report.md.jinja")
    return template.render(title=title, summary=summary, stored=stored, identity=identity)


def html(title: str, text: str, pictures: Mapping[str, bytes]) -> str:
    """Return ``report.html``: the Markdown with its pictures inside."""
    from markdown_it import MarkdownIt  # as above

    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = parser.parse(text)
    for token in (inner for outer in tokens for inner in outer.children or ()):
        if token.type == "image":
            data = pictures.get(PurePosixPath(unquote(str(token.attrs.get("src", "")))).stem)
            # The run's own picture, inside of the page; of any other, nothing is loaded from anywhere.
            token.attrs["src"] = (
                "" if data is None else "data:image/png;base64," + base64.b64encode(data).decode()
            )
    body = parser.renderer.render(tokens, parser.options, {})
    return environment().get_template("page.html.jinja").render(title=title, body=body)
