"""One function a format: text from outside, made harmless at the border where that format is written.

What a server, a dataset, a file of another run or a user's file calls itself is data. Each writer passes
it through the function of its format, once, and nothing is escaped before.
"""

import html as _html
import re
from typing import Any
from urllib.parse import quote

#: Line ends that programs see and ``\\n`` is not one of; and what turns the direction of the text around.
_BREAKS = "\r\n\v\f\x1c\x1d\x1e\x85\u2028\u2029"
_TURNS = "\u202a-\u202e\u2066-\u2069\u200e\u200f\u061c"
_LINE_END = re.compile(rf"[{_BREAKS}]+")
_CONTROL = re.compile(rf"[\x00-\x1f\x7f-\x9f\u2028\u2029\ufeff{_TURNS}\ud800-\udfff]")
_NOT_XML = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
#: What CommonMark and GitHub's tables take for markup. Brackets of an interval, underscores inside a name and a
#: star between numbers are none, and stay as they are.
_MARKUP = re.compile(
    r"""\\(?=[!-/:-@\[-`{-~]|$)    # a backslash before punctuation
    | [|`]                        # cells of a table, code
    | ~(?=~) | (?<=~)~
    | \](?=[(\[:]) | (?<=!)\[      # links, pictures, definitions of links
    | <(?=[a-zA-Z/!?])            # HTML, addresses
    | &(?=[#a-zA-Z])              # entities
    | \*(?=\S) | (?<=\S)\*        # emphasis
    | _(?![^\W_]) | (?<![^\W_])_
    """,
    re.VERBOSE,
)
#: In a sentence of kvlab's own with words from outside in it: what could load, link or be HTML.
_ACTIVE = re.compile(r"\](?=[(\[:])|(?<=!)\[|<(?=[a-zA-Z/!?])|^\s*[#>]")
_FORMULA = re.compile(r"\s*[=+\-@\t\r\uff1d\uff0b\uff0d\uff20]")
_NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?%?\s*")


def line(text: object) -> str:
    """Return a text as one line without control characters: each is shown by its number."""
    return _CONTROL.sub(_shown, _LINE_END.sub(" ", str(text)))


def terminal(text: object) -> str:
    """Return a text for a terminal: line ends and tabs stay, and nothing in it moves, colours or rings."""
    parts = re.split(r"(\r?\n|\t)", str(text))
    return "".join(part if part in ("\n", "\r\n", "\t") else _CONTROL.sub(_shown, part) for part in parts)


def markdown(text: object) -> str:
    """Return a text for a table's cell, or the middle of a line, of Markdown: it is shown as it is."""
    return _MARKUP.sub(_literal, line(text))


def markdown_alt(text: object) -> str:
    """Return a text for the square brackets of a picture or link: one bracket too many would end them."""
    return re.sub(r"(?<!\\)[\[\]]", r"\\\g<0>", markdown(text))


def markdown_prose(text: object) -> str:
    """Return a sentence of kvlab's own that quotes from outside: its code and emphasis count, links and HTML do not."""
    return _ACTIVE.sub(_literal, line(text))


def markdown_code(text: object) -> str:
    """Return a text as inline code of Markdown, in as many backticks as it needs; a pipe is safe in a table."""
    shown = line(text).replace("|", "\\|")
    longest = max((len(run) for run in re.findall(r"`+", shown)), default=0)
    ticks, pad = "`" * (longest + 1), " " if shown[:1] in ("`", "") or shown[-1:] == "`" else ""
    return f"{ticks}{pad}{shown}{pad}{ticks}"


def html(text: object) -> str:
    """Return a text for HTML, between tags or in a quoted attribute."""
    return _html.escape(_NOT_XML.sub(_shown, str(text)), quote=True)


def csv_cell(value: Any) -> Any:  # noqa: ANN401 - a cell
    """Return a cell that no spreadsheet takes for a formula; numbers stay numbers.

    As OWASP advises ("CSV Injection"): an apostrophe goes before a text that begins like a formula. NUL,
    which ends a file for some readers, and half characters, which none can write, are shown by their number.
    """
    if not isinstance(value, str):
        return value
    text = re.sub(r"[\x00\ud800-\udfff]", _shown, value)
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def python_literal(value: object) -> str:
    """Return a value as a Python literal in ASCII, on one line."""
    return ascii(value)


def comment(text: object) -> str:
    """Return a text that stays in a ``#`` comment of Python, a shell or an env file."""
    return line(text)


def env_value(value: object) -> str:
    """Return a value for ``NAME=value`` of an env file: bare where nothing in it has a meaning, else in quotes.

    In single quotes neither a shell nor python-dotenv replaces anything; a backslash or a quote in it is
    written as python-dotenv reads it. That replaces ``${NAME}`` in all quotes and has no escape for it, so
    a space goes between the two.
    """
    text = line(value).replace("${", "$ {")
    if re.fullmatch(r"[\w.,:/+@%-]*", text, re.ASCII):
        return text
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def header(value: object) -> str:
    """Return a value for an HTTP header: what is no visible ASCII is percent-encoded, a line end first of all."""
    return quote(str(value), safe=" !\"#$&'()*+,-./:;<=>?@[\\]^_`{|}~%", errors="replace")


def file_name(text: object, limit: int = 80) -> str:
    """Return a text for a file's or folder's name: one part, without what a shell or a pattern would take apart."""
    name = re.sub(r"[^\w.+-]+", "_", str(text).encode(errors="replace").decode()).strip("._")
    return name.lstrip("-")[:limit] or "_"


def _literal(found: "re.Match[str]") -> str:
    return f"{found[0][:-1]}\\{found[0][-1]}"


def _shown(found: "re.Match[str]") -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
