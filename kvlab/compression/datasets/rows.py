"""Rows of a JSON-lines file: plain, gzipped, or a member of a zip archive. Errors name file and line."""

import gzip
import hashlib
import io
import json
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

from kvlab.bounded import json_value
from kvlab.errors import InputError

#: LongBench's largest file has 40 MB; a dataset is read whole.
MAX_BYTES = 2 * 2**30
_TOO_BIG = f"more than {MAX_BYTES / 2**30:.0f} GiB; name a file with the rows that are asked"


class Row(NamedTuple):
    """One JSON object, and where it stood (``file.jsonl line 7``) for error messages."""

    where: str
    value: Mapping[str, Any]

    def text(self, key: str) -> str:
        """Return a field that must be a text.

        Raises:
            InputError: It is missing or something else.
        """
        found = self.value.get(key)
        if not isinstance(found, str):
            raise InputError(self.where, found, f"has no text in `{key}`; it needs one")
        return found

    def texts(self, key: str) -> tuple[str, ...]:
        """Return a field that must be a list of at least one text.

        Raises:
            InputError: It is missing or something else.
        """
        found = self.value.get(key)
        if not isinstance(found, list) or not found or not all(isinstance(item, str) for item in found):
            raise InputError(self.where, found, f"has no list of texts in `{key}`; it needs at least one")
        return tuple(found)


class Rows(NamedTuple):
    """All rows of a file, and a name for it that means the same on every machine."""

    rows: list[Row]
    source: str


def read(path: Path, member: str | None = None) -> Rows:
    """Read every row of a file.

    Args:
        path: A ``.jsonl``, a ``.jsonl.gz``, or a ``.zip``.
        member: In a zip archive: the name of the file in it, in whatever folder.

    Raises:
        InputError: The file is missing, unreadable or empty, or a line is not a JSON object.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError("path", str(path), f"has {_TOO_BIG}")
        data = path.read_bytes()
        name, content = _open(path, data, member)
    except InputError:
        raise
    except Exception as error:  # what damaged archives do to their readers is not to be listed
        fix = f"cannot be read ({error.__class__.__name__}); name a .jsonl, .jsonl.gz or .zip file"
        raise InputError("path", str(path), fix) from None
    rows = list(_parse(name, content))
    if not rows:
        raise InputError("path", str(path), "has no rows; name a file with one JSON object a line")
    return Rows(rows, f"{name} sha256:{hashlib.sha256(data).hexdigest()}")


def _open(path: Path, data: bytes, member: str | None) -> tuple[str, bytes]:
    if path.suffix == ".gz":
        with gzip.open(io.BytesIO(data)) as file:
            return path.name, _within(path, file)
    if path.suffix != ".zip" or member is None:
        return path.name, data
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        found = [name for name in archive.namelist() if Path(name).name == member]
        if not found:
            raise InputError("path", str(path), f"has no {member} in it; name LongBench's data.zip")
        with archive.open(found[0]) as file:
            return f"{path.name}/{member}", _within(path, file)


def _within(path: Path, file: IO[bytes] | gzip.GzipFile) -> bytes:
    """Return what a packed file holds, which may be a thousand times what it weighs: never more than `MAX_BYTES`."""
    content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise InputError("path", str(path), f"unpacks to {_TOO_BIG}")
    return content


def _parse(name: str, content: bytes) -> Iterator[Row]:
    for number, line in enumerate(content.split(b"\n"), 1):
        if not line.strip():
            continue
        where = f"{name} line {number}"
        try:
            value = json_value(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            if b"\\u" in line:  # an escape can make half a character, which no file and no hash can hold
                json.dumps(value, ensure_ascii=False).encode()
        except ValueError as error:  # JSON's and Unicode's
            raise InputError(where, None, f"is not JSON in UTF-8 ({error}); fix the line") from None
        if not isinstance(value, dict):
            raise InputError(where, value, "is not a JSON object; each line must be one")
        yield Row(where, value)
