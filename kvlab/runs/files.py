"""Files that are whole or not there."""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a file to write that takes the place of ``path`` as a whole when the block ends, or never.

    A temporary file in the same folder, fsync, rename, fsync of the folder: a reader, or a crash, sees
    the old file or the new one, never a part.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader, or a crash, sees the old one or the new one (`replacing`)."""
    with replacing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def write_json(path: Path, value: Any) -> None:  # noqa: ANN401 - JSON
    """Write indented JSON atomically; NaN is refused, since JSON has none."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False, default=str)
    write_atomic(path, text + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; empty where the file is missing or torn."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
