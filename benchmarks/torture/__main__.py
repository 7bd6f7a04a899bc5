"""``python -m benchmarks.torture``: all attacks, two at a time, and a table; exit code 1 if anything is not 0."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.torture.counts import HARMS, Counts, read_lines, total
from benchmarks.torture.place import ROOT

EXPERIMENTS = (
    "token_sweep",
    "prefix_hit_miss",
    "context_limit_probe",
    "batch_benchmark",
    "kv_budget_transition",
)
#: Of these a server can be imitated for ``kvlab run``; the others load an engine into their kernel.
BY_COMMAND = ("token_sweep", "context_limit_probe", "batch_benchmark")
#: Long ones first: the lanes end together.
PARTS: dict[str, tuple[str, ...]] = {
    "kills": (*(f"command:{name}" for name in BY_COMMAND), "batch_benchmark", "context_limit_probe", "prefix_hit_miss",
              "kv_budget_transition", "token_sweep", "load"),
    "fuzz": ("runs", "files", "server"),
    "notebooks": EXPERIMENTS,
    "faults": ("pairs", "load", "transports"),
}  # fmt: skip
#: The short form: one of each kind, for the tests.
QUICK: dict[str, tuple[str, ...]] = {
    "kills": ("token_sweep",),
    "fuzz": ("server", "files", "runs"),
    "notebooks": ("token_sweep",),
    "faults": ("transports",),
}
LANES = 2
#: A part that takes so much longer than its share hangs.
OVERTIME_S = 600.0
#: A part's share of what is left of the time, beside that of others: kills wait for processes to start.
WEIGHTS = {"kills": 3.0, "notebooks": 1.0, "faults": 1.0, "fuzz": 1.0}


def main() -> int:
    """Attack. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.torture", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few of each, to see that it runs")
    parser.add_argument("--only", choices=sorted(PARTS), help="one kind of attack")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--minutes", type=float, default=30.0, help="what is not tried by then is named, and fails"
    )
    given = parser.parse_args()
    chosen = QUICK if given.quick else PARTS
    jobs = [(part, argument) for part, arguments in chosen.items() for argument in arguments
            if given.only in (None, part)]  # fmt: skip
    began, shares = time.monotonic(), Shares([part for part, _ in jobs], given.minutes * 60)
    with snapshot() as root, ThreadPoolExecutor(LANES) as lanes:
        found = list(
            lanes.map(
                lambda job: attack(
                    *job, given.seed, quick=given.quick, root=root, seconds=shares.take(job[0])
                ),
                jobs,
            )
        )
    rows = sorted((row for rows in found for row in rows), key=lambda row: row.name)
    show(rows, time.monotonic() - began)
    return int(any(row.is_bad for row in rows))


class Shares:
    """Deals out the time that is left: each part has its share of it when it begins."""

    def __init__(self, parts: list[str], seconds: float) -> None:
        self._left = sum(WEIGHTS[part] for part in parts)
        self._until = time.monotonic() + seconds
        self._lock = threading.Lock()

    def take(self, part: str) -> float:
        """Return how many seconds a part may try."""
        with self._lock:
            share = WEIGHTS[part] / max(self._left, WEIGHTS[part])
            self._left -= WEIGHTS[part]
        # In the last share, as many lanes work on one thing as there are things.
        return max(20.0, (self._until - time.monotonic()) * min(1.0, LANES * share))


@contextmanager
def snapshot() -> Iterator[Path]:
    """Copy the checkout: who works in it meanwhile would change the contract of runs that are to go on."""
    with tempfile.TemporaryDirectory(prefix="kvlab-torture-") as folder:
        left_out = shutil.ignore_patterns(
            ".git", ".venv*", ".env", ".*_cache", ".hypothesis", "outputs", "__pycache__"
        )
        yield Path(shutil.copytree(ROOT, Path(folder) / "kvlab", ignore=left_out)).resolve()


def attack(
    part: str, argument: str, seed: int, *, quick: bool, root: Path = ROOT, seconds: float = 900.0
) -> list[Counts]:
    """Run one part in a process of its own, within its time. Returns its rows."""
    command = [sys.executable, "-m", "benchmarks.torture.part", part, argument, str(seed),
               "--seconds", str(seconds)]  # fmt: skip
    process = subprocess.Popen(
        [*command, "--quick"] if quick else command,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=root, start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )  # fmt: skip
    late = False
    try:
        out, err = process.communicate(timeout=seconds + OVERTIME_S)
    except subprocess.TimeoutExpired:
        late = True
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
    rows = list(read_lines(out))
    if process.returncode != 0 or not rows:
        broken = Counts(f"{part} {argument}: broke off")
        broken.harm("hangs" if late else "tracebacks", err[-1500:])
        rows.append(broken)
    for row in rows:
        print(
            f"{row.seconds:5.0f} s  {row.name}: {row.tried} tried, {sum(row.harms.values())} harms",
            flush=True,
        )
    return rows


def show(rows: list[Counts], seconds: float) -> None:
    """Print the table, what was looked at, and what was wrong."""
    table = Table("attack", "tried", *HARMS, "s", "looked at")
    for row in [*rows, total(rows)]:
        seen = ", ".join(f"{name.replace('_', ' ')} {times:,}" for name, times in row.seen.items())
        counted = (f"[red]{n}[/red]" if n else "0" for n in row.harms.values())
        table.add_row(
            row.name,
            f"{row.tried:,}" + ("[red], not all[/red]" if row.short else ""),
            *counted,
            f"{row.seconds:.0f}",
            seen,
        )
    console = Console(width=200)
    console.print(table)
    for kind, meaning in HARMS.items():
        console.print(f"{kind}: {meaning}", markup=False)
    for row in rows:
        for note in row.notes:
            console.print(f"- {note}", markup=False)
        if row.tried == 0:
            console.print(f"- {row.name}: nothing was tried", markup=False)
    console.print(
        f"{seconds:.0f} s on {os.cpu_count()} cores; everything but 'tried' must be 0", markup=False
    )


if __name__ == "__main__":
    sys.exit(main())
