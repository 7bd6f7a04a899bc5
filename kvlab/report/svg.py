"""A figure's SVG, made fit to stand inside of a page: parsed, only what draws is kept, ids of its own, inks of the page.

It may be read from a run folder that somebody else has made, so it is not trusted: of elements and attributes,
those that matplotlib writes to draw are kept, and nothing in it points out of the page.
"""

import re
from xml.etree import ElementTree

from kvlab.report.figures import INK

_SVG, _LINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
_ELEMENTS = frozenset(
    {"svg", "g", "defs", "path", "use", "clipPath", "rect", "image", "circle", "line", "text", "tspan"}
)
_ATTRIBUTES = frozenset(
    {"id", "d", "style", "transform", "x", "y", "width", "height", "viewBox", "clip-path", "clip-rule", "href", "cx", "cy", "r"}
)  # fmt: skip
_INSIDE = re.compile(r"#[\w.-]+")
_PIXELS = re.compile(r"data:image/png;base64,[A-Za-z0-9+/=\s]+")
_URL = re.compile(r"url\(\s*([^)]*)\)")
#: What is written in the ink of the page; matplotlib's own default is black.
_INKS = re.compile(f'{INK}|#000000|(?<=[ :])black(?=[;"])')
#: An SVG above this is slow to open; the page shows the figure's pixels instead.
MOST_BYTES = 1_500_000


def inline(source: bytes, name: str, title: str) -> str | None:
    """Return an SVG for the inside of an HTML page; ``None``: it is none, or too large to be one of a report's.

    Args:
        source: As `kvlab.report.figures.svg` makes it.
        name: Goes before every id in it: two figures of a page share none.
        title: What a screen reader says.
    """
    if len(source) > MOST_BYTES or b"<!ENTITY" in source:
        return None
    try:
        root = ElementTree.fromstring(source)  # noqa: S314 - entities are refused above, and its size is bounded
    except ElementTree.ParseError:
        return None
    if root.tag != f"{{{_SVG}}}svg":
        return None
    made = _kept(root, f"{name}-")
    made.attrib = {key: value for key, value in made.attrib.items() if key == "viewBox"}
    made.attrib |= {"role": "img", "aria-label": title, "class": "figure"}
    made.set("fill", "currentColor")  # what has no colour of its own is black
    return _INKS.sub("currentColor", ElementTree.tostring(made, encoding="unicode"))


def _kept(element: ElementTree.Element, before: str) -> ElementTree.Element:
    made = ElementTree.Element(_local(element.tag))
    made.text = element.text if made.tag in ("text", "tspan") else None
    for key, value in element.attrib.items():
        known = _attribute(_local(key), value, before)
        if _local(key) in _ATTRIBUTES and known is not None:
            made.set(_local(key), known)
    made.extend(_kept(child, before) for child in element if _local(child.tag) in _ELEMENTS)
    return made


def _attribute(key: str, value: str, before: str) -> str | None:
    """Return an attribute's value with the figure's own ids; ``None``: it points out of the page."""
    if key == "id":
        return before + value
    if key == "href":
        if _INSIDE.fullmatch(value):
            return f"#{before}{value[1:]}"
        return value if _PIXELS.fullmatch(value) else None
    if any(not _INSIDE.fullmatch(target.strip()) for target in _URL.findall(value)) or "@import" in value:
        return None
    return _URL.sub(lambda found: f"url(#{before}{found[1].strip()[1:]})", value)


def _local(tag: object) -> str:
    """Return a name without its namespace; a comment or an instruction has none."""
    return str(tag).rpartition("}")[2] if isinstance(tag, str) else ""
