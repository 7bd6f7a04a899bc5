"""The `kvlab` command as a user runs it: a process of its own."""

import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

SWEEP = [
    "run", "token_sweep", "--profile", "smoke", "--set", "manual_sections=30", "--set", "max_tokens=3",
    "--set", "position_controls=0",
]  # fmt: skip


def kvlab(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "kvlab", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **env}, timeout=300)


def start(*arguments: str, **env: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "kvlab", *arguments]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, **env}
    )


def folders(outputs: Path) -> list[Path]:
    return sorted(path.parent for path in outputs.glob("*/*/status.json"))


def status(folder: Path) -> str:
    return str(json.loads((folder / "status.json").read_text())["status"])


def read(folder: Path, query: str) -> list[tuple[Any, ...]]:
    """Ask a run's database; nothing while it is being made."""
    try:
        with sqlite3.connect(f"file:{folder / 'run.sqlite'}?mode=ro", uri=True) as sql:
            return sql.execute(query).fetchall()
    except sqlite3.OperationalError:
        return []


def done(folder: Path) -> set[str]:
    """The trials that are done, durably."""
    return {row[0] for row in read(folder, "SELECT trial_id FROM trials WHERE status = 'done'")}


def until(condition: Callable[[], bool], timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.1)


def family(pid: int) -> list[psutil.Process]:
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def alive(processes: list[psutil.Process]) -> list[str]:
    found = []
    for process in processes:
        try:
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline()[:4]))
        except psutil.NoSuchProcess:
            continue
    return found
