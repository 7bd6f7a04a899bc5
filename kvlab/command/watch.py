"""What a person sees of a run in a terminal: its own lines, and a bar that counts durable trials."""

import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from kvlab.command.show import shown

#: Lines of the kernel's that tell a person nothing.
_NOISE = (
    "Passed unknown parameter",  # known to the experiment, which has checked them all
    "Kernel is running over TCP without encryption",  # on loopback
)


def watch(
    process: "subprocess.Popen[str]",
    database: Path,
    trials: int,
    say: Callable[[str], None],
    tick: Callable[[], None],
) -> int:
    """Relay a child's lines until it ends; in a terminal, with a bar. Returns its exit code.

    Args:
        process: With text pipes; its output is read here.
        database: The run's: the bar counts the trials that are done *there*.
        trials: How many are planned.
        say: Prints a line.
        tick: Called about twice per second.
    """
    progress = None
    if sys.stdout.isatty():
        columns = (
            TextColumn("trials"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        progress = Progress(*columns, console=Console())
        console = progress.console

        def say(text: str) -> None:
            console.print(Text(shown(text)))  # "[1/8]" is no markup, nor is a server's word

    reader = threading.Thread(target=_relay, args=(process, say), daemon=True)
    reader.start()
    if progress is None:
        code = _wait(process, tick, lambda: None)
    else:
        with progress:
            task = progress.add_task("trials", total=trials)
            code = _wait(process, tick, lambda: progress.update(task, completed=done_trials(database)))
    reader.join(timeout=5)
    return code


def _wait(process: "subprocess.Popen[str]", *ticks: Callable[[], None]) -> int:
    while (code := process.poll()) is None:
        for tick in ticks:
            tick()
        time.sleep(0.5)
    for tick in ticks:
        tick()
    return code


def _relay(process: "subprocess.Popen[str]", say: Callable[[str], None]) -> None:
    for line in process.stdout or ():
        if line.strip() and not any(noise in line for noise in _NOISE):
            say(line.rstrip("\n"))


def done_trials(database: Path) -> int:
    """Return how many trials are done, durably; 0 while there is no database yet."""
    try:
        sql = sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=1)
    except sqlite3.Error:
        return 0
    try:
        return int(sql.execute("SELECT count(*) FROM trials WHERE status = 'done'").fetchone()[0])
    except sqlite3.Error:
        return 0
    finally:
        sql.close()
