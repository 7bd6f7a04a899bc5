"""``status.json``: how a run stands, written by whoever knows: the runner, else the notebook.

A run whose owner was killed cannot say so. Whoever looks at it next does: `reconcile` turns a
"running" whose process is gone into "interrupted".
"""

import os
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

import psutil

from kvlab.runs.files import read_json, write_json

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
    before = read_json(folder / FILE_NAME)
    kept = {key: before[key] for key in ("owner", "started_utc") if key in before}
    write_json(
        folder / FILE_NAME,
        {"status": status, **kept, "ended_utc": utc_now(), "exit_code": exit_code, "reason": reason},
    )


def reconcile(folder: Path) -> dict[str, Any]:
    """Return the status, after turning a "running" whose owner is gone into "interrupted"."""
    content = read_json(folder / FILE_NAME)
    if content.get("status") == Status.RUNNING and not _owner_alive(content):
        end(folder, Status.INTERRUPTED, reason="its process is gone without a word: it was killed")
        content = read_json(folder / FILE_NAME)
    return content


def _owner_alive(content: dict[str, Any]) -> bool:
    try:
        process = psutil.Process(int(content["pid"]))
        # A pid is given again to others; together with its start it is one process.
        return abs(process.create_time() - float(content["pid_started"])) < 1 and process.status() != "zombie"
    except (KeyError, ValueError, TypeError, psutil.Error):
        return False
