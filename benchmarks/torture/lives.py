"""A life of a notebook's kernel: a fork that opens a run, measures, finishes, and may die on the way.

Forked, since a hundred starts of Python and pandas would take longer than all that they are to measure. What a
life prints goes into a file, as what a kernel prints goes to whoever watches it.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.torture.scenes import Scene, open_run

#: No life of these small runs takes as long.
LIFE_S = 120.0


@dataclass(frozen=True)
class Boundary:
    """Where a life ends itself: at a commit that changes how a trial stands, or at its line.

    Attributes:
        at: ``claim`` (an attempt's number is taken, nothing is sent), ``record`` (all is sent), ``item`` (any other
            commit of a trial under way), ``line`` (the trial's line is printed).
        when: ``before`` or ``after``.
        nth: Which of these.
    """

    at: str
    when: str = "after"
    nth: int = 1


@dataclass(frozen=True)
class Ended:
    """How a life ended: how long it was, its exit code (negative: the signal), what it printed."""

    seconds: float
    code: int
    printed: str
    hung: bool = False

    @property
    def killed(self) -> bool:
        """Whether it was killed, by itself or by another."""
        return self.code == -signal.SIGKILL


def live(scene: Scene, folder: Path | None, log: Path, *, end: Boundary | float | None) -> Ended:
    """Live once. Returns how it ended.

    Args:
        scene: What is measured.
        folder: The run to go on with; ``None``: a new one.
        log: A file for what it prints.
        end: A boundary, or an instant in seconds after its birth; ``None``: it may live to its end.
    """
    began = time.monotonic()
    pid = os.fork()
    if pid == 0:
        _child(scene, folder, log, end if isinstance(end, Boundary) else None)
    limit = end if isinstance(end, float) else LIFE_S
    status = _wait(pid, began + limit)
    hung = status is None and not isinstance(end, float)
    if status is None:
        os.kill(pid, signal.SIGKILL)
        status = os.waitpid(pid, 0)[1]
    text = log.read_text(errors="replace") if log.exists() else ""
    return Ended(time.monotonic() - began, os.waitstatus_to_exitcode(status), text, hung)


def _wait(pid: int, until: float) -> int | None:
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return status
        left = until - time.monotonic()
        if left <= 0:
            return None
        time.sleep(min(0.005, left))


def _child(scene: Scene, folder: Path | None, log: Path, end: Boundary | None) -> None:
    code = 1
    try:
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(out, 1)
        os.dup2(out, 2)
        sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115 - the child's own
        sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
        if end is not None:
            _arm(end)
        run = open_run(scene, folder)
        run.warm_up()
        for trial in run.pending():
            run.measure(trial)
        run.finish()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _arm(end: Boundary) -> None:
    """Make this process die at a boundary."""
    left = [end.nth]

    def passed(at: str, when: str) -> None:
        if (at, when) == (end.at, end.when):
            left[0] -= 1
            if left[0] == 0:
                _die()

    class Watched(sqlite3.Connection):
        """A connection that knows what each commit means for the trials."""

        stood: tuple[int, int] | None = None
        at = ""

        def execute(self, statement: str, *parameters: Any) -> sqlite3.Cursor:
            if statement != "COMMIT":
                return super().execute(statement, *parameters)
            at = self._means()
            passed(at, "before")
            cursor = super().execute(statement)
            passed(at, "after")
            return cursor

        def _means(self) -> str:
            try:
                row = super().execute("SELECT total(attempts), total(status = 'done') FROM trials").fetchone()
            except sqlite3.Error:
                return "other"
            now, before = (int(row[0]), int(row[1])), self.stood
            self.stood = now
            if before is None or before == now:
                return "item" if before and now[0] > now[1] else "other"
            return "record" if now[1] > before[1] else "claim"

    opened = sqlite3.connect

    def connect(*given: Any, **options: Any) -> sqlite3.Connection:
        return opened(*given, **{"factory": Watched, **options})

    sqlite3.connect = connect  # type: ignore[assignment]

    from kvlab.runs.progress import Steps

    step = Steps.step

    def say(self: Steps, line: str, *, keep: bool = False) -> None:
        step(self, line, keep=keep)
        passed("line", "after")

    Steps.step = say  # type: ignore[method-assign]
