"""Does the whole path hold at the size that it is for? 170,000 requests, from the generator to the report.

A batch benchmark of two sizes runs against `benchmarks.fast_server`, as a notebook would run it: probe, plan,
generator, recorder, database. Then ``kvlab report``, a process of its own, writes all that follows from the
database. What is given: rows recorded per second (to the last commit), the database's size, and the
report's time, CPU time and peak memory, imports included.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.fast_server import BLOCK, TOKENS, FastServer
from kvlab import api
from kvlab.runs.files import read_json
from kvlab.runs.folder import SUMMARY
from kvlab.store.connect import FILE_NAME as DATABASE

SIZES = (20_000, 150_000)
STREAMS = 32
#: A small process between: the peak of a child is at least the size of the one that it was forked from.
_WATCH = """
import json, os, subprocess, sys, time
began = time.perf_counter()
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, used = os.wait4(process.pid, 0)
took = time.perf_counter() - began
print(json.dumps([took, used.ru_utime + used.ru_stime, used.ru_maxrss]))
sys.exit(os.waitstatus_to_exitcode(status))
"""
ROOT = Path(__file__).resolve().parent.parent


def run(sizes: tuple[int, ...] = SIZES, reports: int = 3) -> list[dict[str, Any]]:
    """Return one row: the run, and the median of its reports.

    Raises:
        RuntimeError: The verdict is INVALID: then the path was not walked to its end.
        subprocess.CalledProcessError: A report failed.
    """
    with tempfile.TemporaryDirectory(prefix="kvlab-scale-") as folder, FastServer() as server:
        with _pointed_at(server, Path(folder)):
            run_folder, load_s = _load(sizes)
            size_bytes = (run_folder / DATABASE).stat().st_size
            made = [_report(run_folder) for _ in range(reports)]
        summary = read_json(run_folder / SUMMARY)
    if any(check["role"] == "proof" and check["holds"] is False for check in summary["checks"]):
        raise RuntimeError(f"the fast server proves too little: {summary['reasons']}")
    requests = sum(sizes)
    middle = {name: sorted(one[name] for one in made)[len(made) // 2] for name in made[0]}
    return [
        {
            "requests": requests,
            "verdict": summary["verdict"],
            "not_met": [
                f"{check['name']}: {check['seen']}"
                for check in summary["checks"]
                if check["holds"] is not True and check["role"] != "note"
            ],
            "recorded_per_s": round(requests / load_s, 1),
            "database_bytes": size_bytes,
            "database_bytes_a_request": round(size_bytes / requests),
            **middle,
            "report_s_by_round": [one["report_s"] for one in made],
        }
    ]


def _load(sizes: tuple[int, ...]) -> tuple[Path, float]:
    """Measure all trials. Returns the run folder, and the seconds from the first start to the last commit."""
    values = {"profile": "scale", "sizes": list(sizes), "strategies": ["shared_prefix"], "concurrency": STREAMS,
              "prompt_tokens": 300, "handbook_sections": 20, "max_tokens": TOKENS, "seed": 1}  # fmt: skip
    session = api.open("batch_benchmark", values)
    try:
        began = time.perf_counter()
        for trial in session.pending():
            session.measure(trial)
        took_s = time.perf_counter() - began
    finally:
        session.close()
    return session.folder, took_s


def _report(folder: Path) -> dict[str, float]:
    """Return time, CPU time and peak memory of a ``kvlab report``."""
    command = [sys.executable, "-m", "kvlab", "report", str(folder)]
    watcher = [sys.executable, "-S", "-c", _WATCH, *command]
    wall_s, cpu_s, peak = json.loads(subprocess.run(watcher, stdout=subprocess.PIPE, check=True).stdout)
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes
    return {"report_s": round(wall_s, 2), "report_cpu_s": round(cpu_s, 2), "report_peak_bytes": peak * unit}


@contextlib.contextmanager
def _pointed_at(server: FastServer, folder: Path) -> Iterator[None]:
    """Make this process's environment that of a user with this server, and put it back."""
    (folder / "empty.env").touch()
    wanted = {
        "KVLAB_OUTPUTS": str(folder / "outputs"),
        "KVLAB_ENV_FILE": str(folder / "empty.env"),
        "KVLAB_HOME": str(ROOT),
        "KVLAB_HEADLESS": "{}",  # no notebook keeps the status of this run
        "KV_BLOCK_SIZE_TOKENS": str(BLOCK),
        "OPENAI_BASE_URL": server.base_url,
        "OPENAI_API_KEY": "EMPTY",
        "OPENAI_MODEL": "fake",
    }
    before = dict(os.environ)
    os.environ.update(wanted)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
