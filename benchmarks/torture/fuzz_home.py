"""What the fuzz of a user's disk stands on: a folder of its own, the stored runs, and the command in this process."""

from __future__ import annotations

import atexit
import contextlib
import io
import json
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.golden.stored import HERE as GOLDEN

__all__ = ["GOLDEN", "command", "file", "folder", "fresh", "json_bytes", "silence"]
_MADE: list[Path] = []


def folder() -> Path:
    """Return this process's folder, which goes with it."""
    if not _MADE:
        _MADE.append(Path(tempfile.mkdtemp(prefix="kvlab-fuzz-")))
        atexit.register(shutil.rmtree, _MADE[0], ignore_errors=True)
    return _MADE[0]


def json_bytes(value: Any) -> bytes:
    """Return a value as JSON."""
    return json.dumps(value).encode()


def file(name: str, data: bytes) -> Path:
    """Write a file into the folder."""
    path = folder() / name
    path.write_bytes(data)
    return path


def command(*arguments: str) -> str:
    """Run the command in this process, with all that it does about errors. Returns what it printed.

    Raises:
        AssertionError: It printed a traceback, or left with a code that it does not have.
    """
    from kvlab.command import cli

    before, sys.argv = sys.argv, ["kvlab", *arguments]
    code: Any = None
    with silence() as said:
        try:
            cli.main()
        except SystemExit as ended:
            code = ended.code
        finally:
            sys.argv = before
    text = said.getvalue()
    assert "Traceback" not in text, text
    assert code in (0, 1, 2), code
    return text


@contextlib.contextmanager
def silence() -> Iterator[io.StringIO]:
    """Take what is printed."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield said


def fresh(name: str) -> Path:
    """Return an empty folder in the folder."""
    path = folder() / name
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    return path
