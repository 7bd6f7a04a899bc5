"""Files that are whole or not there."""

import contextlib
import errno
import json
import os
import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

#: What no file of kvlab's reaches; a stranger's is not read into memory to find that out.
_MOST_JSON_BYTES = 256 * 2**20
# Whatever the file: its ending came before, and earlier versions gave only these no ``.tmp``.
_TEMPORARY = re.compile(
    r"\.[^/]+\.[a-z0-9_]{8}\.tmp|\.[^/]+\.(json|md|html|csv|png|env|py|ipynb)\.[a-z0-9_]{8}"
)
_STALE_S = 3600.0


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a file to write that takes the place of ``path`` as a whole when the block ends, or never.

    A temporary file in the same folder, fsync, rename, fsync of the folder: a reader, or a crash, sees
    the old file or the new one, never a part.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
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
        # Half a character, which a name of the file system can hold, is written as JSON and Python would.
        file.write(content.encode(errors="backslashreplace") if isinstance(content, str) else content)


def write_json(path: Path, value: Any) -> None:  # noqa: ANN401 - JSON
    """Write indented JSON atomically; NaN is refused, since JSON has none."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False, default=str)
    write_atomic(path, text + "\n")


def sweep(*folders: Path, age_s: float = 0.0) -> None:
    """Take away the temporary files that a killed `replacing` has left.

    Args:
        folders: Each of which nobody writes in: whoever calls holds the lock.
        age_s: Only what is older, where somebody may.
    """
    for folder in folders:
        with contextlib.suppress(OSError):
            for path in folder.iterdir():
                if _TEMPORARY.fullmatch(path.name) and time.time() - path.lstat().st_mtime >= age_s:
                    path.unlink(missing_ok=True)


def sweep_stale(folder: Path) -> None:
    """Take away the leftovers of an hour ago, where others may write: the writing of a file takes no hour."""
    sweep(folder, age_s=_STALE_S)


def is_no_space(error: BaseException) -> bool:
    """Whether an error says that a disk, or a quota, is full."""
    full = {errno.ENOSPC, errno.EDQUOT}
    return (isinstance(error, OSError) and error.errno in full) or "disk is full" in str(error)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; empty where the file is missing, torn, or nothing that kvlab writes."""
    try:
        if path.stat().st_size > _MOST_JSON_BYTES:
            return {}
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
