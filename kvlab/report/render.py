"""A summary as Markdown, and that Markdown as one HTML file that needs nothing else."""

import base64
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kvlab.endpoints.connect import Identity
from kvlab.findings import Summary

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
    env.filters["cell"] = cell
    return env


def cell(value: Any) -> str:  # noqa: ANN401 - a table's cell
    """Return a table cell: a dash for a missing value, and no Markdown of the value's own."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.1f}" if abs(value) >= 10 else f"{value:.3g}"
    return str(value).replace("|", "\\|").replace("](", "]\\(").replace("\n", " ")


def markdown(title: str, summary: Summary, stored: Mapping[str, Any], identity: Identity | None) -> str:
    """Return ``report.md``."""
    template = environment().get_template("report.md.jinja")
    return template.render(title=title, summary=summary, stored=stored, identity=identity)


def html(title: str, text: str, pictures: Mapping[str, bytes]) -> str:
    """Return ``report.html``: the Markdown with its pictures inside."""
    from markdown_it import MarkdownIt  # as above

    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)
    for name, data in pictures.items():
        uri = "data:image/png;base64," + base64.b64encode(data).decode()
        body = body.replace(f'src="plots/{name}.png"', f'src="{uri}"')
    return environment().get_template("page.html.jinja").render(title=title, body=body)
