"""How fast is the load generator, and how far off are its times while it is that fast?

The whole path runs: the generator's process sends and stamps, the recorder's parses and commits. The rate is
requests over the time from the first sent to the last answered; `stored_per_s` waits for the last commit, too. The server (`benchmarks.fast_server`) knows when it
had read each request and when it wrote its first token, on the same clock. The error of a TTFT is

    (first_token - sent) by the client  -  (first token written - request read) by the server
"""

from __future__ import annotations

import sqlite3
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.fast_server import TOKENS, FastServer
from kvlab.load import control
from kvlab.load.job import Job, Progress
from kvlab.prompts.batch import Workload, handbook
from kvlab.records import Trial
from kvlab.store.database import Database
from kvlab.timing.arrivals import Arrivals
from kvlab.timing.clock import now_ns
from kvlab.timing.request import Target

BODY: dict[str, Any] = {
    "model": "fake", "max_tokens": TOKENS, "temperature": 0.0, "stream": True, "stream_options": {"include_usage": True},
}  # fmt: skip
STREAMS = 32
#: How the server emits: at once, which asks for all that a client can; or like a fast engine.
AT_ONCE, PACED = (0.0, 0.0), (4.0, 0.3)


@dataclass(frozen=True)
class Case:
    """One load: how the server emits (ms to the first token, ms between tokens), and how requests arrive."""

    name: str
    server: tuple[float, float]
    arrivals: Arrivals
    requests: int


CASES = (
    Case("32 streams, answers at once", AT_ONCE, Arrivals("closed", STREAMS), 20_000),
    Case("32 streams, first token 4 ms, gaps 0.3 ms", PACED, Arrivals("closed", STREAMS), 20_000),
    Case("200 requests/s", PACED, Arrivals("poisson", rate_per_s=200.0), 2_000),
    Case("1,000 requests/s", PACED, Arrivals("poisson", rate_per_s=1_000.0), 10_000),
)


def run(rounds: int = 3, share: float = 1.0) -> list[dict[str, Any]]:
    """Return one row a case, over all rounds, with each round's figures.

    Args:
        rounds: How often the cases take turns.
        share: Of each case's requests; for a quick look.
    """
    found: dict[str, list[dict[str, Any]]] = {case.name: [] for case in CASES}
    for turn in range(rounds):
        for case in CASES:
            found[case.name].append(once(case, max(200, int(case.requests * share))))
            last = found[case.name][-1]
            print(
                f"  round {turn + 1}, {case.name}: {last['requests_per_s']:,.0f}/s, error p50 {last['error_ms']['p50']} ms",
                flush=True,
            )
    return [_row(case, found[case.name]) for case in CASES]


def once(case: Case, requests: int) -> dict[str, Any]:
    """Return the figures of one run of a case."""
    with tempfile.TemporaryDirectory(prefix="kvlab-bench-") as folder, FastServer(*case.server) as server:
        path = Path(folder) / "run.sqlite"
        with Database(path, create=True) as database:
            _fill(database)
            ended = control.run(
                _job(path, server, case, requests), Progress(), on_report=lambda _: None, tick=lambda: None
            )
            ended_ns = now_ns()  # all is committed
            database.sql.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            figures = _figures(database.sql, server.truth())
            (sent_ns,) = database.sql.execute("SELECT min(sent_ns) FROM telemetry").fetchone()
            figures["stored_per_s"] = requests / ((ended_ns - sent_ns) / 1e9)
            figures["database_bytes_a_request"] = round(path.stat().st_size / requests)
    says = ended.generator or {}
    return {
        **figures,
        "answered": ended.done - ended.failed,
        "cpu_share": says["cpu_s"] / says["wall_s"],
        "pass_p50_ms": says["pass_p50_ms"],
        "pass_p99_ms": says["pass_p99_ms"],
    }


def _fill(database: Database) -> None:
    with database.transaction():
        database.insert("experiments", experiment_id="e", name="n", profile="p", params_json="{}", sources_json="{}",
                        contract_json="{}", isolation_id="i", created_utc="now")  # fmt: skip
        database.insert("runs", run_id="r", experiment_id="e", engine_name="x", base_url="u", model_name="m",
                        prompt_template_version="v")  # fmt: skip
    database.begin_session("e", "now", 1)
    database.plan("r", [Trial("t", "p", 1)])


def _job(path: Path, server: FastServer, case: Case, requests: int) -> Job:
    return Job(
        str(path), "r", "t", 1, "shared", "bench", requests, Workload("shared", "bench", handbook(1, 2)),
        case.arrivals, Target(server.base_url), BODY,
    )  # fmt: skip


def _figures(sql: sqlite3.Connection, truth: list[tuple[str, int, int]]) -> dict[str, Any]:
    emitted = {name: (received, first) for name, received, first in truth}
    rows = [
        tuple(row)
        for row in sql.execute("SELECT request_id, due_ns, sent_ns, first_token_ns, done_ns FROM telemetry")
    ]
    sent, done = min(row[2] for row in rows), max(row[4] for row in rows if row[4] is not None)
    # What came in one read, or while this process stood still, has no time, and says so: no error, and a share.
    timed = [row for row in rows if row[3] is not None]
    errors = [(first - out) - (emitted[name][1] - emitted[name][0]) for name, _, out, first, _ in timed]
    rate = len(rows) / ((done - sent) / 1e9)
    return {
        "requests_per_s": rate,
        "chunks_per_s": rate * TOKENS,
        "untimed_share": 1 - len(timed) / len(rows),
        "error_ms": quantiles(np.array(errors) / 1e6),
        "send_lag_ms": quantiles(np.array([out - due for _, due, out, _, _ in rows]) / 1e6),
    }


def quantiles(values: np.ndarray[Any, Any]) -> dict[str, float | None]:
    """A quantile needs five values beyond it."""
    return {
        f"p{q * 100:.0f}": round(float(np.quantile(values, q)), 3) if len(values) * (1 - q) >= 5 else None
        for q in (0.5, 0.99)
    }


def _row(case: Case, rounds: list[dict[str, Any]]) -> dict[str, Any]:
    def middle(key: str, q: str | None = None) -> float | None:
        values = [found[key] if q is None else found[key][q] for found in rounds]
        known = [value for value in values if value is not None]
        return round(float(np.median(known)), 3) if known else None

    return {
        "case": case.name,
        "requests": rounds[0]["answered"],
        "rounds": len(rounds),
        **{
            name: middle(name)
            for name in (
                "requests_per_s",
                "stored_per_s",
                "chunks_per_s",
                "untimed_share",
                "cpu_share",
                "pass_p99_ms",
                "database_bytes_a_request",
            )
        },
        **{f"{name}_{q}": middle(name, q) for name in ("error_ms", "send_lag_ms") for q in ("p50", "p99")},
        "requests_per_s_by_round": [round(found["requests_per_s"], 1) for found in rounds],
        "error_p50_ms_by_round": [found["error_ms"]["p50"] for found in rounds],
    }
