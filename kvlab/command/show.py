"""What the commands print: every line passes here, so that nothing from outside moves a terminal's cursor."""

import io
import os
import re
import sys
from collections.abc import Iterable
from functools import cache

import typer
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kvlab.errors import KvlabError
from kvlab.escape import line, terminal
from kvlab.redact import Redactor

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def prepare() -> None:
    """Make both streams fit for a pipe: a line is out when it is printed, and no character ends the command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True, errors="backslashreplace")


def say(text: object, *, err: bool = False) -> None:
    """Print lines; a kernel's colours are left out, and all else that is not text is shown by its number."""
    typer.echo(shown(text), err=err)


def shown(text: object) -> str:
    """Return a text as `say` prints it."""
    return terminal(without_secrets(_COLOURS.sub("", str(text))))


def without_secrets(text: str) -> str:
    """Return a text without the settings' secrets: the last border, behind those where a server's words come in."""
    return _redactor()(text)


@cache
def _redactor() -> Redactor:
    from kvlab.settings import SECRET_KEYS, load_settings  # with pydantic

    try:
        return load_settings().redactor
    except KvlabError:  # which is about to be printed
        return Redactor(os.environ.get(key, "") for key in SECRET_KEYS)


def table(*columns: str, rows: Iterable[Iterable[object]]) -> Table:
    """Return a table whose cells are text and no markup; a missing one is a dash."""
    found = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        found.add_row(*(Text("–" if cell is None else line(cell)) for cell in row))
    return found


def print_table(*columns: str, rows: Iterable[Iterable[object]]) -> None:
    """Print a table whose first column, what a person copies, is never cut; a pipe has no width."""
    shown = table(*columns, rows=rows)
    shown.columns[0].no_wrap = True
    longest = max((cell_len(str(cell)) for cell in shown.columns[0].cells), default=0)
    wide = console(200)
    if not sys.stdout.isatty():
        wide.width = max(wide.width, longest + 160)
    elif wide.width < longest + 60:  # the terminal breaks lines, which loses nothing
        wide.width = longest + 60
    wide.print(shown)


def console(width: int) -> Console:
    """Return where tables are printed: in a pipe, so wide."""
    return Console(width=None if sys.stdout.isatty() else width, markup=False, highlight=False, emoji=False)
