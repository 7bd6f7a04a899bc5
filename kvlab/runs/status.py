"""``status.json``: how a run stands, written by whoever knows: the runner, else the notebook.

A run whose owner was killed cannot say so. Whoever looks at it next does: `reconcile` turns a
"running" whose lock nobody holds into "interrupted". The lock dies with its owner; a process's number
is given again, and its start moves when the clock is set.
"""

import json
import os
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

import psutil

from kvlab.runs import lock
from kvlab.runs.files import is_no_space, read_json, write_json

FILE_NAME = "status.json"


class Status(StrEnum):
    """The states of a run."""

    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    INTERRUPTED = "interrupted"


def utc_now() -> str:
    """Return the date and time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def begin(folder: Path, *, owner: str) -> None:
    """Say that this process runs it."""
    write_json(
        folder / FILE_NAME,
        {
            "status": Status.RUNNING,
            "owner": owner,
            "pid": os.getpid(),
            "pid_started": psutil.Process().create_time(),
            "started_utc": utc_now(),
        },
    )


def end(folder: Path, status: Status, *, exit_code: int | None = None, reason: str | None = None) -> None:
    """Say how it ended."""
    path = folder / FILE_NAME
    before = read_json(path)
    kept: dict[str, Any] = {key: before[key] for key in ("owner", "started_utc") if key in before}
    content: dict[str, Any] = {
        "status": status,
        **kept,
        "ended_utc": utc_now(),
        "exit_code": exit_code,
        "reason": reason,
    }
    try:
        write_json(path, content)
    except OSError as error:
        if not is_no_space(error):
            raise
        # A full disk has no room for a second file, but the first one's place is there.
        _overwrite(path, content | {"reason": None if reason is None else reason[:500]})


def _overwrite(path: Path, content: dict[str, Any]) -> None:
    """Write a small JSON file over what it holds; where even that finds no room, it stays as it is."""
    try:
        with path.open("r+b") as file:
            file.write(json.dumps(content, indent=2).encode() + b"\n")
            file.truncate()
    except OSError as error:
        if not is_no_space(error):
            raise


def reconcile(folder: Path) -> dict[str, Any]:
    """Return the status: "running" while the lock is held, and "interrupted" for a "running" that nobody holds.

    The latter is also written, where it can be: an archive stays as it is.
    """
    if lock.is_locked(folder):
        return read_json(folder / FILE_NAME) | {"status": Status.RUNNING}
    content = read_json(folder / FILE_NAME)  # after the lock: it may have ended in between
    if content.get("status") != Status.RUNNING:
        return content
    reason = "its process is gone without a word: it was killed"
    try:
        end(folder, Status.INTERRUPTED, reason=reason)
    except OSError:
        return content | {"status": Status.INTERRUPTED, "reason": reason}
    return read_json(folder / FILE_NAME)
